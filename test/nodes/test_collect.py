"""`molmoact-ros collect` and `trials` beside the simulated arm: episodes, a kill and its resumption, faults, expert."""

from __future__ import annotations

import array
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import TwistStamped
from rclpy.action import ActionServer, GoalResponse
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from molmoact_ros.action import ExecuteInstruction
from molmoact_ros.bags.recording import Recording, TopicNames
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.cli.main import main
from molmoact_ros.datasets.collection import Outcome
from molmoact_ros.datasets.episode_record import EpisodeRecord, session_bags
from molmoact_ros.datasets.from_bag import of_bag
from molmoact_ros.msg import Episode, SafetyStatus
from molmoact_ros.robots.franka import BASE_FRAME, HOME_Q
from molmoact_ros.ros import conversions, qos
from molmoact_ros.srv import CollectCommand
from molmoact_ros.utils.paths import robot_model

from .conftest import Peer

TASK = "pick up the red cube"
ELSEWHERE = HOME_Q + [0.06, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
"""rad: the start position, to which the arm has to move."""
LONG = 90.0


class Desk(Peer):
    """An operator who moves the arm by twists and talks to the collection; a third camera that can be unplugged."""

    def __init__(self, bringup: Bringup) -> None:
        super().__init__()
        self.bringup = bringup
        self.process: subprocess.Popen[str] | None = None
        self.said: list[SafetyStatus] = self.listen(SafetyStatus, "/controller/safety_status", qos.STATE)
        self.episodes: list[Episode] = self.listen(Episode, "/collector/episode", qos.STATE)
        self._twists = self.node.create_publisher(TwistStamped, "/controller/teleop/twist", qos.RELIABLE)
        self._side = self.node.create_publisher(Image, "/side/color/image_raw", qos.RELIABLE)
        self.diagnostics = self.node.create_publisher(DiagnosticArray, "/diagnostics", qos.RELIABLE)
        self.plugged = False
        self.node.create_timer(0.1, self._send_image)
        assert self.until(lambda: self.said and self.said[-1].joints_age > 0, LONG)

    def _send_image(self) -> None:
        if self.plugged:
            head = conversions.header(self.now(), "side_color_optical_frame")
            image = Image(header=head, height=4, width=4, encoding="rgb8", step=12, data=array.array("B", bytes(48)))
            self._side.publish(image)

    def open(self, folder: Path, *more: str, cameras: str = "front,wrist", command: str = "collect") -> None:
        """Start the command, and wait for it; one of a test that failed is ended first."""
        self.kill()
        self.episodes.clear()
        begin = [sys.executable, "-P", "-m", "molmoact_ros.cli.main", command, "--out", str(folder)]
        self.process = subprocess.Popen(
            [*begin, "--countdown", "0.5", "--cameras", cameras, *more], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert self.until(lambda: self.episodes, LONG), self.process.poll()

    def kill(self) -> None:
        """SIGKILL, where it still runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def close_session(self) -> str:
        """End the command; what it printed."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        output, _ = self.process.communicate(timeout=LONG)
        return output

    @property
    def episode(self) -> Episode:
        return self.episodes[-1]

    def command(self, name: str, **more: Any) -> CollectCommand.Response:
        reply: CollectCommand.Response = self.call(CollectCommand, "/collector/command", command=name, **more)
        return reply

    def does(self, name: str, **more: Any) -> None:
        reply = self.command(name, **more)
        assert reply.success, reply.message

    def is_in(self, state: int) -> bool:
        return self.until(lambda: self.episode.state == state, LONG)

    def begin(self) -> None:
        """Begin an episode; again, where a camera of a busy machine fell silent before that."""

        def begins() -> bool:
            if self.episode.state == Episode.WAITING:
                self.command("begin")
            return self.episode.state == Episode.RECORDING

        assert self.until(begins, LONG), self.episode

    def move(self, seconds: float) -> None:
        """Teleoperate for a while."""

        def say() -> bool:
            message = TwistStamped(header=conversions.header(self.now(), BASE_FRAME))
            message.twist.linear.z = 0.08
            self._twists.publish(message)
            return False

        self.until(say, seconds)

    def end(self) -> None:
        self.does("end")
        assert self.is_in(Episode.REVIEW)


@pytest.fixture(scope="module")
def desk(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    small: dict[str, Any] = {"front_size": [64, 48], "wrist_size": [64, 48], "camera_rate": 10.0, "distractors": 0}
    controller = {"home_position": ELSEWHERE.tolist(), "keep_stop": False, "joints_deadline": 1.0, "priority": 0}
    profile = Profile.read("sim")
    nodes = {"sim": profile.nodes["sim"] | small, "controller": profile.nodes["controller"] | controller}
    with Bringup(Profile(nodes=nodes, environment=profile.environment), tmp_path_factory.mktemp("logs")) as bringup:
        made = Desk(bringup)
        yield made
        made.kill()
        made.close()


def test_episodes_are_kept_or_failed_and_go_on_after_a_kill(desk: Desk, tmp_path: Path) -> None:
    folder = tmp_path / "session"
    desk.open(folder, "--task", TASK, "--episodes", "1")
    refused = desk.command("keep")
    assert not refused.success and "begin the next episode" in refused.message
    desk.begin()
    desk.move(1.5)
    desk.kill()
    desk.spin(2.0)
    desk.open(folder)
    assert desk.is_in(Episode.REVIEW), "the episode that was cut off is reviewed"
    assert (desk.episode.number, desk.episode.task) == (0, TASK) and desk.episode.begin.sec > 0
    assert desk.command("fail", notes="slipped").success
    desk.begin()
    desk.move(1.5)
    desk.end()
    assert list(desk.episode.problems) == []
    desk.does("keep")
    assert desk.is_in(Episode.DONE)
    assert "all 1 episodes are kept" in desk.command("begin").message
    assert "1 of 1 kept, 1 failed, 0 discarded" in desk.close_session()
    bags = session_bags(folder)
    records = [EpisodeRecord.read(bag) for bag in bags]
    assert [record.outcome for record in records if record] == [Outcome.FAILED, Outcome.KEPT]
    first = records[0]
    assert first is not None and first.notes == "slipped" and first.actions == "commanded" and first.config
    assert set(first.calibration) == {"front", "wrist"} and first.moved > 0.02
    for bag in bags:
        with Recording(bag) as recording:
            demonstration = of_bag(recording, robot_model(), 10.0, TASK)
            streams = [*recording.names.colour, recording.names.joint_states]
            since = max(recording.stamps(topic)[0] for topic in streams)
        record = EpisodeRecord.read(bag)
        assert record is not None and since < record.begin, "it begins once the recorder receives each stream"
        assert len(demonstration.states) >= 10 and demonstration.actions[:, 2].max() > 1e-3, "the hand went up"


def test_a_camera_that_is_unplugged_ends_the_episode_and_loses_nothing(desk: Desk, tmp_path: Path) -> None:
    desk.open(tmp_path / "session", "--task", TASK, "--episodes", "1", "--no-home", cameras="front,side")
    assert desk.until(lambda: "camera side has sent nothing yet" in desk.command("begin").message)
    desk.plugged = True
    desk.begin()
    desk.move(1.0)
    desk.plugged = False
    assert desk.is_in(Episode.REVIEW)
    assert desk.episode.problems[0].startswith("camera side has been silent for"), desk.episode.problems
    desk.does("keep")
    desk.close_session()
    (bag,) = session_bags(tmp_path / "session")
    record = EpisodeRecord.read(bag)
    assert record is not None and record.ended_by.startswith("camera side") and record.outcome is Outcome.KEPT
    with Recording(bag, TopicNames(cameras=("front", "side"))) as recording:
        assert len(recording.stamps("/side/color/image_raw")) > 5
        assert len(recording.stamps("/front/color/image_raw")) > 5


def test_a_full_disk_ends_the_episode_in_one_line(desk: Desk, tmp_path: Path) -> None:
    """As the recorder says it: what it does then has tests of its own."""
    desk.open(tmp_path / "session", "--task", TASK, "--episodes", "1", "--no-home")
    desk.begin()
    desk.move(0.5)
    values = [KeyValue(key="pictures_lost", value="3"), KeyValue(key="others_lost", value="0")]
    why = "no more can be written: No space left on device"
    desk.diagnostics.publish(
        DiagnosticArray(status=[DiagnosticStatus(name="recorder: bag", message=why, values=values)])
    )  # fmt: skip
    assert desk.is_in(Episode.REVIEW)
    problem = desk.episode.problems[0]
    assert problem.startswith(f"{why} (3 images and 0 other messages are lost)") and "until then is whole" in problem
    desk.does("discard")
    assert desk.is_in(Episode.WAITING) and desk.episode.discarded == 1
    desk.close_session()


def test_the_scripted_expert_collects_by_teleoperation(desk: Desk, tmp_path: Path) -> None:
    desk.open(tmp_path / "session", "--task", TASK, "--episodes", "1", "--scripted", "--distractors", "0")
    assert desk.until(lambda: desk.process is not None and desk.process.poll() is not None, 3 * LONG), desk.episode
    assert desk.process is not None
    assert desk.process.returncode == 0, desk.process.communicate()
    (bag,) = [bag for bag in session_bags(tmp_path / "session") if _outcome(bag) is Outcome.KEPT]
    record = EpisodeRecord.read(bag)
    assert record is not None and record.interventions == [] and record.actions == "commanded"
    with Recording(bag) as recording:
        demonstration = of_bag(recording, robot_model(), 10.0, TASK)
        reasons = {
            m.reason for _, m in recording.decoded("/controller/safety_status") if m.state == SafetyStatus.TELEOP
        }
    assert any("an operator moves the arm: twist" in reason for reason in reasons), reasons
    assert demonstration.actions[0, 6] == pytest.approx(1.0) and demonstration.actions[-1, 6] == pytest.approx(0.0)
    assert np.ptp(demonstration.states[:, 2]) > 0.05


INTERRUPTED = 2_000_005
"""A scene in which the operator takes over after 3 s, whatever the policy does until then."""


def test_the_scripted_expert_corrects_a_policy_and_gives_the_arm_back(desk: Desk, tmp_path: Path) -> None:
    """The nano model itself, with images that are too small for it."""
    folder, task = tmp_path / "session", "put the red cube in the bowl"
    nodes = {"policy": Profile.read("sim").nodes["policy"] | {"priority": 0}}
    with Bringup(Profile(nodes=nodes, environment=Profile.read("sim").environment), tmp_path / "logs"):
        desk.open(folder, "--task", task, "--episodes", "1", "--scripted", "--policy", "policy", "--distractors", "0",
                  "--seed", str(INTERRUPTED))  # fmt: skip
        assert desk.until(lambda: desk.process is not None and desk.process.poll() is not None, 4 * LONG), desk.episode
    assert desk.process is not None
    assert desk.process.returncode == 0, desk.process.communicate()
    (bag,) = [bag for bag in session_bags(folder) if _outcome(bag) is Outcome.KEPT]
    record = EpisodeRecord.read(bag)
    assert record is not None and record.interventions and record.checkpoint
    assert all(record.begin <= begin < end <= record.end for begin, end in record.interventions)
    with Recording(bag) as recording:
        said = [message for _, message in recording.decoded("/controller/safety_status")]
    states = [a.state for a, b in pairwise(said) if a.state != b.state] + [said[-1].state]
    moved = [state for state in states if state in (SafetyStatus.POLICY, SafetyStatus.TELEOP)]
    moved = moved[moved.index(SafetyStatus.POLICY) :]
    assert moved[:3] == [SafetyStatus.POLICY, SafetyStatus.TELEOP, SafetyStatus.POLICY], "it goes on where they let go"
    assert moved.count(SafetyStatus.TELEOP) == len(record.interventions)


class StubbornPolicy:
    """An action server that starts the arm for its goals, sends nothing more, and does not let them be cancelled."""

    def __init__(self, desk: Desk, name: str) -> None:
        self.goals: list[str] = []
        self._start = desk.node.create_client(Trigger, "/controller/start")
        self.server = ActionServer(
            desk.node, ExecuteInstruction, f"/{name}/execute", self._execute, goal_callback=self._on_goal
        )  # fmt: skip

    def _on_goal(self, goal: ExecuteInstruction.Goal) -> GoalResponse:
        self.goals.append(goal.instruction)
        self._start.call_async(Trigger.Request())
        return GoalResponse.ACCEPT

    async def _execute(self, handle: Any) -> ExecuteInstruction.Result:
        await Future()
        return ExecuteInstruction.Result()


SHEET = """
tasks: [{name: waving, instruction: wave, setup: Nobody near., rubric: [{text: up}, {text: down, points: 3}]}]
policies: [{name: Zebra, node: zebra}, {name: Yak, node: yak}]
trials: 1
"""


@pytest.fixture
def policies(desk: Desk) -> Iterator[list[StubbornPolicy]]:
    made = [StubbornPolicy(desk, name) for name in ("zebra", "yak")]
    yield made
    for policy in made:
        policy.server.destroy()


def test_trials_are_scored_blind_and_a_fault_is_repeated(
    desk: Desk, policies: list[StubbornPolicy], tmp_path: Path
) -> None:
    (tmp_path / "sheet.yaml").write_text(SHEET)
    goals = lambda: [goal for policy in policies for goal in policy.goals]  # noqa: E731
    holds = lambda: desk.said[-1].state == SafetyStatus.HOLD  # noqa: E731
    desk.open(tmp_path / "trials", str(tmp_path / "sheet.yaml"), "--no-home", command="trials")
    assert desk.until(lambda: desk.episode.message == "set the scene, then begin", LONG), desk.episode
    assert list(desk.episode.rubric) == ["up (1)", "down (3)"] and desk.episode.scene.endswith("Nobody near.")
    assert "nothing to score yet" in desk.command("", done=[True, False]).message

    desk.begin()
    assert desk.until(lambda: desk.said[-1].state == SafetyStatus.POLICY)
    desk.spin(0.3)
    desk.does("end")
    assert desk.until(holds) and desk.said[-1].reason == "told to hold", "whatever the policy does"
    assert desk.is_in(Episode.REVIEW)
    assert "score the trial" in desk.command("keep").message
    desk.does("", done=[True, False])
    assert desk.until(lambda: list(desk.episode.done) == [True, False])
    desk.does("score", notes="slowly")
    assert desk.is_in(Episode.WAITING) and desk.until(lambda: not any(desk.episode.done))
    desk.spin(1.0)
    assert holds() and len(goals()) == 1, "the next policy waits for the operator"

    desk.begin()
    assert desk.is_in(Episode.REVIEW), "no plan comes"
    assert desk.episode.problems[0].startswith("the arm holds: "), desk.episode
    assert "score once more" in desk.command("score").message, "a fault is no failure of the model"
    desk.does("discard")
    assert desk.is_in(Episode.WAITING) and (desk.episode.kept, desk.episode.discarded) == (1, 1)

    shown = [*desk.close_session().splitlines(), *map(str, desk.episodes)]
    assert [line for line in shown if re.search("zebra|yak", line, re.IGNORECASE)] == []
    assert [len(policy.goals) for policy in policies] == [1, 1]
    assert main(["trials", "--out", str(tmp_path / "trials"), "--reveal"]) == 1, "one is not scored"
    results = json.loads((tmp_path / "trials" / "results.json").read_text())
    assert [of["progress"] for of in results["trials"]] == [0.25] and len(results["repeats"]) == 1
    assert "<img " in (tmp_path / "trials" / "report.html").read_text()


def _outcome(bag: Path) -> Outcome:
    record = EpisodeRecord.read(bag)
    assert record is not None
    return record.outcome
