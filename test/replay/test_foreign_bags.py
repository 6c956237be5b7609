"""Bags that others recorded play, or fail with a line that says what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from molmoact_ros.bags.bag import BagMessage, BagReader, BagWriter
from molmoact_ros.bags.episode_writer import EpisodeWriter
from molmoact_ros.bags.image_codec import Form
from molmoact_ros.bags.message_types import Types
from molmoact_ros.bags.recording import Recording, TopicNames, namespace_rules, parse_remap
from molmoact_ros.cli.main import main
from molmoact_ros.engine.base import ReasoningMode
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.replay.engine import replay_engine

from .conftest import Change

THEIR = {"/cam0/image": "/front/color/image_raw", "/cam1/image": "/wrist/color/image_raw",
         "/cam0/depth": "/front/aligned_depth_to_color/image_raw"}  # fmt: skip
NAMES = TopicNames(remap=THEIR)


def frame(number: int, size: tuple[int, int]) -> np.ndarray:
    small = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)


def foreign(
    folder: Path, form: Form = "raw", count: int = 4, apart: float = 0.01, without: tuple[int, ...] = (),
    metres: bool = True,
) -> Path:  # fmt: skip
    """Cameras alone, 1 s apart, other names; apart: s between the two; without: frames that the second one lost."""
    with BagWriter(folder) as bag:
        out = EpisodeWriter(bag, form)
        for k in range(count):
            now = 50.0 + k
            out.image("/cam0/image", frame(k, (160, 120)), "rgb8", now)
            depth = 0.5 + 0.5 * cv2.resize(frame(k, (160, 120))[:, :, 0], (160, 120)) / 255
            pixels, encoding = (depth, "32FC1") if metres else (np.round(depth * 1000), "16UC1")
            out.image("/cam0/depth", pixels, encoding, now)
            if k not in without:
                out.image("/cam1/image", frame(100 + k, (106, 60)), "rgb8", now + apart)
    return folder


def said(
    nano: TorchEngine, bag: Path, names: TopicNames = NAMES, mode: ReasoningMode | None = None
) -> list[list[int] | None]:
    nano.forget()
    with Recording(bag, names) as recording:
        steps = recording.steps("put the red cube in the bowl")
        return [answer.tokens for answer in replay_engine(nano, recording, steps, mode)]


def test_other_names_and_no_camera_info_play(tmp_path: Path, nano: TorchEngine) -> None:
    tokens = said(nano, foreign(tmp_path / "bag"))
    assert len(tokens) == 4 and all(tokens)


def test_compressed_without_loss_plays_just_so(tmp_path: Path, nano: TorchEngine) -> None:
    raw = said(nano, foreign(tmp_path / "raw"))
    packed = {f"{old}/compressed": new for old, new in THEIR.items() if "image" in old}
    names = TopicNames(remap={**packed, "/cam0/depth": THEIR["/cam0/depth"]})
    assert said(nano, foreign(tmp_path / "png", "png"), names) == raw
    with Recording(foreign(tmp_path / "jpeg", "jpeg"), names) as recording:
        assert not recording.lossless
        ((_, observation), *_) = recording.observations(recording.steps("put"))
    assert 0 < np.abs(observation.images[0].astype(int) - frame(0, (160, 120))).mean() < 5


@pytest.mark.parametrize("metres", [True, False], ids=["32FC1", "16UC1"])
def test_depth_in_metres_or_millimetres_grounds_the_model(tmp_path: Path, nano: TorchEngine, metres: bool) -> None:
    bag = foreign(tmp_path / "bag", metres=metres)
    with Recording(bag, NAMES) as recording:
        steps = recording.steps("put the red cube in the bowl")
        for step in steps:
            object.__setattr__(step.answer, "mode", "grounded")
        depths = [observation.depth for _, observation in recording.observations(steps)]
    assert len(depths) == 4 and all(d is not None and d.min() >= 0.5 and d.max() <= 1.001 for d in depths)


def test_sqlite3_storage_plays_by_definitions_that_are_here(tmp_path: Path, golden: Path, nano: TorchEngine) -> None:
    types, other = Types(), tmp_path / "sqlite"
    with Recording(golden) as recording, Writer(other, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connections: dict[str, Any] = {}
        for message in recording.reader.messages():
            if message.topic not in connections:
                assert types.knows(message.type_name)
                connections[message.topic] = writer.add_connection(
                    message.topic, message.type_name, typestore=types.store
                )  # fmt: skip
            data = message.data
            if message.type_name.startswith("molmoact_ros/"):  # recorded before fields were appended to some types
                data = types.encode(types.make(message.type_name, **vars(recording.decode(message))))
            writer.write(connections[message.topic], message.stamp_ns, data)
        recorded = [answer.tokens for answer in recording.answers()]
    assert list(other.glob("*.db3"))
    with Recording(other) as recording:
        assert [answer.tokens for answer in recording.answers()] == recorded
    assert len(said(nano, other, TopicNames())) == len(recorded)
    (other / "metadata.yaml").unlink()
    with Recording(other) as recording:
        assert len(recording.steps()) == len(recorded)


def test_frames_that_were_dropped_are_told_and_the_rest_plays(tmp_path: Path, nano: TorchEngine) -> None:
    with Recording(foreign(tmp_path / "bag", without=(1, 2)), NAMES) as recording:
        steps = recording.steps("put the red cube in the bowl")
        assert [step.frames[0] for step in steps] == [50.0, 53.0]
        assert any("2 of 4 moments have no images of all cameras within 0.05 s" in note for note in recording.notes)


ALL = [argument for old, new in THEIR.items() for argument in ("--remap", f"{old}:={new}")]
PUT = ["--instruction", "put"]


@pytest.mark.parametrize(
    ("make", "arguments", "line"),
    [
        ({}, PUT, "no images on /front/color/image_raw; .* --remap /cam0/image:=/front/color/image_raw; there are"),
        ({}, [*PUT, "--remap", "/cam9:=/front/color/image_raw"], "no /cam9 to remap; it has /cam0/depth, /cam0/image"),
        ({}, [*PUT, "--remap", "cam0"], "not of the form"),
        ({"apart": 7.5}, [*PUT, *ALL], r"of each other \(front 50.00 to 53.00 s, wrist 57.50 to 60.50 s\); were"),
        ({"count": 1, "without": (0,)}, [*PUT, *ALL[:2]], "no images on /wrist/color/image_raw"),
        ({}, ALL, "does not say what was asked for; give --instruction"),
    ],
)
def test_what_does_not_play_says_so_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: dict[str, Any], arguments: list[str], line: str
) -> None:
    bag = foreign(tmp_path / "bag", **make)
    assert main(["replay", str(bag), "--engine", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and re.search(line, error), error


def test_a_bag_without_joint_states_or_of_another_robot_says_so(
    tmp_path: Path, changed: Callable[[Change], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(foreign(tmp_path / "bag")), "--control"]) == 1
    assert "no joint states on /joint_states; say where they are with --remap" in capsys.readouterr().err

    def rename(topic: str, message: Any) -> Any:
        if topic == "/joint_states":
            message.name = [name.replace("fr3", "ur5") for name in message.name]
        return message

    assert main(["replay", str(changed(rename)), "--control"]) == 1
    assert "lack the position of 'fr3_joint1'" in capsys.readouterr().err


def test_a_damaged_picture_says_so(changed: Callable[[Change], Path], capsys: pytest.CaptureFixture[str]) -> None:
    def damage(topic: str, message: Any) -> Any:
        if topic.startswith("/front/color"):
            message.data = message.data[:10]
        return message

    assert main(["replay", str(changed(damage)), "--engine"]) == 1
    assert "a recorded image cannot be read" in capsys.readouterr().err


def test_remapping_rules_are_checked() -> None:
    assert parse_remap(["/a:=/b", "/c/d:=/e"]) == {"/a": "/b", "/c/d": "/e"}
    with pytest.raises(ValueError, match="not of the form"):
        parse_remap(["/a=/b"])


def test_a_bag_of_nodes_in_a_namespace_is_replayed_as_theirs(golden: Path, tmp_path: Path) -> None:
    """Two robots in one bag: the one in /left is the golden one, the other stands still."""
    bag = tmp_path / "bag"
    with BagReader(golden) as reader, BagWriter(bag) as writer:
        for message in reader.messages():
            decoded = reader.decode(message)
            fields = vars(decoded)
            if message.type_name == "rcl_interfaces/msg/ParameterEvent":
                fields = fields | {"node": f"/left{decoded.node}"}
            data = writer.types.encode(writer.types.make(message.type_name, **fields))
            writer.write(BagMessage(f"/left{message.topic}", message.type_name, data, message.stamp_ns))
            if message.topic == "/joint_states":
                other = fields | {"position": 0 * decoded.position}
                data = writer.types.encode(writer.types.make(message.type_name, **other))
                writer.write(BagMessage(message.topic, message.type_name, data, message.stamp_ns))
    assert main(["replay", str(bag), "--control", "--namespace", "/left"]) == 0
    with pytest.raises(ValueError, match="no topic of the bag is in the namespace '/right'"):
        namespace_rules(bag, "/right")
