"""The recorder and the player as processes: what was heard is in the bag, also when the recorder is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mcap.reader import make_reader
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from molmoact_ros.bags.bag import BagReader
from molmoact_ros.bags.bag_files import about
from molmoact_ros.bags.message_arrays import seconds
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile, environment
from molmoact_ros.cli.main import main
from molmoact_ros.msg import SafetyStatus
from molmoact_ros.ros import conversions, qos

from .conftest import PATIENCE, Peer

PROGRAMS = Path(sys.executable).parent
GOLDEN = Path(__file__).parents[1] / "golden" / "bags" / "pick"
SMALL = {"front_size": [160, 120], "wrist_size": [106, 60], "seed": 7}
NODES = {"sim": SMALL, "controller": {"joints_deadline": 1.0}}


def is_filling(bag: Path) -> bool:
    return any(file.stat().st_size > 10_000 for file in bag.glob("*.mcap"))


def bag_after_kill(peer: Peer, bag: Path, seconds_on: float) -> None:
    """Record the workcell with a process of its own, kill that, and check the bag against what was heard beside it."""
    heard = peer.listen(JointState, "/joint_states", qos.RELIABLE)
    profile = Profile(nodes={"recorder": {"bag": str(bag)}})
    with Bringup(profile, bag.parent / "logs") as recorder:
        listening = "/joint_states"
        assert peer.until(lambda: is_filling(bag)), recorder.log("recorder").read_text()
        begun = peer.now()
        peer.spin(seconds_on)
        killed = peer.now()
        recorder.kill("recorder")
    assert main(["record", "--repair", str(bag)]) == 0
    with BagReader(bag) as reader:
        assert not reader.repaired, "the command has repaired it"
        kept = {seconds(reader.decode(message).header.stamp) for message in reader.messages([listening])}
    wanted = {seconds(m.header.stamp) for m in heard if begun + 0.2 < seconds(m.header.stamp) < killed - 1.0}
    assert wanted and wanted <= kept
    with Reader(bag) as reader2:
        assert reader2.message_count == sum(1 for _ in reader2.messages())


@pytest.fixture(scope="module")
def workcell(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bringup]:
    with Bringup(Profile(nodes=NODES), tmp_path_factory.mktemp("logs")) as bringup:
        yield bringup


@pytest.mark.parametrize("seconds_on", [1.6, 2.3])
def test_a_killed_recorder_has_kept_all_but_the_last_second(
    workcell: Bringup, peer: Peer, tmp_path: Path, seconds_on: float
) -> None:
    assert peer.until(lambda: peer.node.count_publishers("/joint_states"))
    bag_after_kill(peer, tmp_path / "bag", seconds_on)


def test_the_command_records_parameters_versions_and_pictures(workcell: Bringup, peer: Peer, tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    command = [str(PROGRAMS / "molmoact-ros"), "record", "--out", str(bag), "--images", "jpeg"]
    process = subprocess.Popen(command, env=environment())
    try:
        assert peer.until(lambda: is_filling(bag))
        assert peer.call(Trigger, "/controller/hold").success
        peer.spin(6.0)  # a busy middleware may find a node three seconds late: when it announces itself again
    finally:
        process.send_signal(signal.SIGINT)
        status = process.wait(PATIENCE)
    assert status == 0
    with BagReader(bag) as reader:
        topics = reader.topics()
        assert topics["/front/color/image_raw/compressed"] == "sensor_msgs/msg/CompressedImage"
        assert topics["/front/aligned_depth_to_color/image_raw/compressedDepth"] == "sensor_msgs/msg/CompressedImage"
        assert reader.count("/controller/safety_status") > 10 and reader.count("/front/color/camera_info") > 10
        events = [reader.decode(message) for message in reader.messages(["/recorder/parameters"])]
        known = {event.node: {p.name: p.value for p in event.new_parameters} for event in events}
        assert known["/sim"]["seed"].integer_value == 7 and known["/controller"]["joints_deadline"].double_value == 1.0
        said = [status for message in reader.messages(["/diagnostics"]) for status in reader.decode(message).status]
        assert any(status.name == "recorder: bag" for status in said)
    words = about(bag)
    assert words["molmoact-ros"] and words["torch"] and words["recorder.pictures"] == "0"
    (file,) = bag.glob("*.mcap")
    with file.open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None
    offered = {c.topic: c.metadata["offered_qos_profiles"] for c in summary.channels.values()}
    assert "transient_local" in offered["/controller/safety_status"] and "best_effort" not in offered["/joint_states"]
    doctor = subprocess.run([PROGRAMS / "pymcap-cli", "doctor", file], capture_output=True, text=True)
    assert doctor.returncode == 0 and re.search(r"passed\s+MCAP\s+doctor\s+checks", doctor.stdout), doctor.stdout


@pytest.fixture
def words(peer: Peer) -> Iterator[Callable[[QoSProfile], Publisher]]:
    """Makes publishers of /words, which end with the test however it ends."""
    made: list[Publisher] = []

    def publisher(quality: QoSProfile) -> Publisher:
        made.append(peer.node.create_publisher(String, "/words", quality))
        return made[-1]

    yield publisher
    for one in made:
        peer.node.destroy_publisher(one)


def test_case_47_a_publisher_that_comes_later_and_offers_less_is_heard_too(
    domain: int, peer: Peer, words: Callable[[QoSProfile], Publisher], tmp_path: Path
) -> None:
    """A driver that was started again, or a microcontroller: best effort beside a reliable publisher."""
    bag = tmp_path / "bag"
    first = words(qos.RELIABLE)
    parameters = {"bag": str(bag), "awaited": ["/words", "/never_sent"]}
    with Bringup(Profile(nodes={"recorder": parameters}), tmp_path / "logs") as recorder:
        assert peer.until(lambda: first.get_subscription_count())
        second = words(qos.SENSOR)
        assert peer.until(lambda: second.get_subscription_count())
        for number in range(20):  # while both subscriptions are there, and after that
            first.publish(String(data=f"first {number}"))
            second.publish(String(data=f"second {number}"))
            peer.spin(0.1)
        peer.spin(0.5)
        said = recorder.log("recorder").read_text()
    assert "/words has a later publisher that is not reliable" in said
    with BagReader(bag) as reader:
        heard = [reader.decode(message).data for message in reader.messages(["/words"])]
        said_by_all = [reader.decode(message).status[0] for message in reader.messages(["/diagnostics"])]
    last = [status for status in said_by_all if status.name == "recorder: bag"][-1]  # a workcell may say something, too
    assert {value.key: value.value for value in last.values}["awaited"] == "/never_sent"
    assert len(set(heard)) == len(heard), "no message is recorded by both"
    assert sum("first" in w for w in heard) >= 18 and sum("second" in w for w in heard) >= 18, heard


def test_m9_the_recorder_goes_on_in_another_file_and_a_kill_takes_only_the_last_second(
    workcell: Bringup, peer: Peer, tmp_path: Path
) -> None:
    bag = tmp_path / "bag"
    parameters = {"bag": str(bag), "max_bag_duration": 2.0}
    heard = peer.listen(JointState, "/joint_states", qos.RELIABLE)
    with Bringup(Profile(nodes={"recorder": parameters}), tmp_path / "logs") as recorder:
        assert peer.until(lambda: is_filling(bag)), recorder.log("recorder").read_text()
        begun = peer.now()
        assert peer.until(lambda: len(list(bag.glob("*.mcap"))) >= 3)
        peer.spin(1.5)
        killed = peer.now()
        recorder.kill("recorder")
    with BagReader(bag) as reader:
        assert reader.repaired
        kept = {seconds(reader.decode(message).header.stamp) for message in reader.messages(["/joint_states"])}
        count = sum(reader.count(topic) for topic in reader.topics())
    wanted = {seconds(m.header.stamp) for m in heard if begun + 0.2 < seconds(m.header.stamp) < killed - 1.0}
    assert wanted and wanted <= kept
    with Reader(bag) as reader2:
        assert reader2.message_count == sum(1 for _ in reader2.messages()) == count
    last = sorted(bag.glob("*.mcap"))[-1]
    with BagReader(last) as reader:  # a file by itself says what the nodes' parameters are
        known = {reader.decode(m).node for m in reader.messages(["/recorder/parameters"])}
    assert "/controller" in known and "/sim" in known


def anonymous_memory(pid: int) -> int:
    """Bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:")) * 1024


def test_m9_images_that_waited_in_the_middleware_are_freed(domain: int, peer: Peer, tmp_path: Path) -> None:
    """The recorder gets no processor for a moment, so that the queue of its subscription is full."""
    picture = Image(height=1000, width=900, encoding="rgb8", step=2700, data=array("B", bytes(2_700_000)))
    out = peer.node.create_publisher(Image, "/camera/image_raw", qos.sensor(1))
    with Bringup(Profile(nodes={"recorder": {"bag": str(tmp_path / "bag")}}), tmp_path / "logs") as recorder:
        assert peer.until(lambda: out.get_subscription_count() > 0)

        def publish(times: int) -> None:
            for _ in range(times):
                out.publish(picture)
                peer.spin(0.05)

        publish(3)
        peer.spin(6.0)  # memory is returned every five seconds
        pid = recorder.pid("recorder")
        before = anonymous_memory(pid)
        os.kill(pid, signal.SIGSTOP)
        publish(10)
        os.kill(pid, signal.SIGCONT)
        assert peer.until(lambda: anonymous_memory(pid) < before + 12_000_000), "what waited is still held"
        peer.spin(6.0)
        assert anonymous_memory(pid) < before + 12_000_000
        assert "lost" not in recorder.log("recorder").read_text()
    with BagReader(tmp_path / "bag") as reader:
        assert reader.count("/camera/image_raw") > 6, "they waited"
    peer.node.destroy_publisher(out)


def test_a_recorder_finds_topics_while_a_simulated_clock_stands(workcell: Bringup, peer: Peer, tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    with Bringup(Profile(nodes={"recorder": {"bag": str(bag), "use_sim_time": True}}), tmp_path / "logs") as recorder:
        assert peer.until(lambda: is_filling(bag)), recorder.log("recorder").read_text()
    with BagReader(bag) as reader:
        assert reader.count("/joint_states") > 0


def test_a_bag_plays_through_the_nodes(domain: int, tmp_path: Path, workcell: Bringup) -> None:
    """The golden bag on its own clock, into a policy and a controller that were started for it."""
    figures = tmp_path / "figures.json"
    loose = tmp_path / "thresholds.yaml"
    loose.write_text("depth_agreement: 0.5\ntrace_px: 150\ntranslation_m: 0.02\ngripper: 1.0\n")
    arguments = ["--out", str(tmp_path / "out"), "--json", str(figures), "--thresholds", str(loose)]
    assert main(["replay", str(GOLDEN), "--graph", *arguments]) == 0
    assert json.loads(figures.read_text())["plans"] >= 2
    with BagReader(tmp_path / "out" / "bag") as reader:
        clock = [seconds(reader.decode(message).clock) for message in reader.messages(["/clock"])]
        states = [reader.decode(message).state for message in reader.messages(["/controller/safety_status"])]
        commands = reader.count("/fr3_arm_controller/joint_trajectory")
        plans = reader.count("/policy/action_chunk")
    assert clock == sorted(clock) and 999 < clock[0] < 1002 and clock[-1] > 1004.5
    assert SafetyStatus.POLICY in states and plans >= 2
    assert commands == 0, "what is replayed commands no robot"


def test_the_player_pauses_and_goes_round_with_the_clock_going_on(
    domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain + 100))  # where no controller runs
    peer = Peer()
    parameters = {
        "bag": str(GOLDEN),
        "rate": 10.0,
        "loop": 2,
        "paused": True,
        "exclude": "/policy/.*|/controller/.*|/fr3.*",
    }
    front = peer.listen(Image, "/front/color/image_raw", qos.SENSOR)
    with Bringup(Profile(nodes={"player": parameters}), tmp_path / "logs") as bringup:
        assert peer.until(lambda: "ready" in bringup.log("player").read_text())
        assert peer.until(lambda: peer.node.count_publishers("/front/color/image_raw"))
        peer.spin(0.5)
        before = len([image for image in front if image.header.stamp.sec < 1100])
        assert peer.call(Trigger, "/player/go_on").success
        assert peer.until(lambda: "done" in bringup.log("player").read_text())
    played = [image for image in front if 999 < seconds(image.header.stamp) < 1100]
    stamps = [seconds(image.header.stamp) for image in played]
    assert before == 0 and len(stamps) >= 8 and stamps == sorted(stamps) and stamps[-1] - stamps[0] > 6.0
    assert conversions.rgb_pixels(played[0]).shape == (240, 320, 3)
    peer.close()
