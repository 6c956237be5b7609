"""A bag gives back what was recorded, with our own types, and is the form that ros2 bag writes."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.typesys import Stores, get_typestore

from molmoact_ros.bags.bag import BagMessage, BagReader, BagWriter
from molmoact_ros.bags.mcap_writer import DIRECT, PIECE
from molmoact_ros.bags.message_types import Types

STORE = get_typestore(Stores.ROS2_JAZZY)
STRING, JOINTS = "std_msgs/msg/String", "sensor_msgs/msg/JointState"


def text_message(text: str, stamp_ns: int) -> BagMessage:
    data = bytes(STORE.serialize_cdr(STORE.types[STRING](data=text), STRING))
    return BagMessage("/instruction", STRING, data, stamp_ns)


def joints_message(stamp_ns: int) -> BagMessage:
    stamp = STORE.types["builtin_interfaces/msg/Time"](sec=1, nanosec=2)
    header = STORE.types["std_msgs/msg/Header"](stamp=stamp, frame_id="fr3_link0")
    none = np.zeros(0)
    joints = STORE.types[JOINTS](
        header=header, name=["fr3_joint1"], position=np.array([0.5]), velocity=none, effort=none
    )
    return BagMessage("/joint_states", JOINTS, bytes(STORE.serialize_cdr(joints, JOINTS)), stamp_ns)


def test_messages_come_back_in_time_with_their_bytes(tmp_path: Path) -> None:
    messages = [text_message("put", 10), joints_message(20), text_message("the cube", 30)]
    with BagWriter(tmp_path / "bag") as bag:
        for message in (messages[2], messages[0], messages[1]):
            bag.write(message)
    with BagReader(tmp_path / "bag") as reader:
        assert list(reader.messages()) == messages
        assert reader.topics() == {"/instruction": STRING, "/joint_states": JOINTS}
        joints = reader.decode(next(reader.messages(["/joint_states"])))
        assert joints.header.frame_id == "fr3_link0" and joints.position.tolist() == [0.5]
        assert [reader.decode(m).data for m in reader.messages(["/instruction"])] == ["put", "the cube"]
        assert list(reader.messages([])) == []
        with pytest.raises(ValueError, match="/camera.*it has /instruction, /joint_states"):
            list(reader.messages(["/camera"]))


def test_own_message_definitions_travel_with_the_bag(tmp_path: Path) -> None:
    folder = tmp_path / "share" / "arm_msgs" / "msg"
    folder.mkdir(parents=True)
    (folder / "Point.msg").write_text("float64 x  # m\n")
    (folder / "Plan.msg").write_text("std_msgs/Header header\nPoint[] points\nuint8[4] codes\n")
    point = np.array([0.25]).tobytes()
    cdr = bytes([0, 1, 0, 0])  # little endian
    header = bytes(8) + bytes([1, 0, 0, 0, 0]) + bytes(3)  # zero stamp, empty frame, padding
    data = cdr + header + bytes([1, 0, 0, 0]) + bytes(4) + point + bytes([1, 2, 3, 4])
    with BagWriter(tmp_path / "bag", [tmp_path / "share"]) as bag:
        bag.write(BagMessage("/plan", "arm_msgs/msg/Plan", data, 5))
    with BagReader(tmp_path / "bag") as reader:
        plan = reader.decode(next(reader.messages()))
    assert [p.x for p in plan.points] == [0.25] and plan.codes.tolist() == [1, 2, 3, 4]


def test_an_independent_mcap_reader_understands_it(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        bag.write(joints_message(7))
    (file,) = (tmp_path / "bag").glob("*.mcap")
    assert "storage_identifier: mcap" in (tmp_path / "bag" / "metadata.yaml").read_text()
    with file.open("rb") as stream:
        ((schema, channel, message, joints),) = make_reader(
            stream, decoder_factories=[DecoderFactory()]
        ).iter_decoded_messages()
    assert schema is not None and (schema.name, channel.topic, message.log_time) == (JOINTS, "/joint_states", 7)
    assert list(joints.position) == [0.5]


def test_a_recording_that_fails_keeps_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), BagWriter(tmp_path / "bag") as bag:
        bag.write(text_message("kept", 1))
        raise RuntimeError
    with BagReader(tmp_path / "bag") as reader:
        assert [reader.decode(m).data for m in reader.messages()] == ["kept"]


def test_mistakes_are_named(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        with pytest.raises(ValueError, match="nowhere_msgs/msg/Thing.*source the workspace"):
            bag.write(BagMessage("/thing", "nowhere_msgs/msg/Thing", b"", 0))
        bag.write(text_message("x", 1))
        with pytest.raises(ValueError, match="a topic has one type"):
            bag.write(BagMessage("/instruction", JOINTS, b"", 2))
    with pytest.raises(FileExistsError, match="another folder"):
        BagWriter(tmp_path / "bag")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        BagReader(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="not a readable bag"):
        BagReader(tmp_path / "empty")
    (file,) = (tmp_path / "bag").glob("*.mcap")
    file.write_bytes(b"no bag at all")
    with pytest.raises(ValueError, match=r"not a readable bag \(bag.mcap: it is not an MCAP file\)"):
        BagReader(tmp_path / "bag")


def test_a_message_is_made_of_what_is_given_and_zeros() -> None:
    types = Types()
    info = types.make("sensor_msgs/msg/CameraInfo", width=640)
    assert (info.width, info.height, info.header.frame_id, info.k.tolist()) == (640, 0, "", [0.0] * 9)
    assert types.decode(types.encode(info), "sensor_msgs/msg/CameraInfo").width == 640
    status = types.make("diagnostic_msgs/msg/DiagnosticArray")
    assert types.decode(types.encode(status), "diagnostic_msgs/msg/DiagnosticArray").status == []
    with pytest.raises(ValueError, match="nowhere_msgs/msg/Thing is not defined"):
        types.make("nowhere_msgs/msg/Thing")


@pytest.mark.parametrize("directly", [True, False])
def test_the_file_is_written_in_pieces_that_keep_nobody_off_the_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directly: bool
) -> None:
    """Past the kernel's cache where the file system can, through it in small pieces where it cannot."""
    write, sizes = os.write, dict[bool, list[int]]({True: [], False: []})

    def watched(file: int, data: memoryview) -> int:
        direct = bool(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT)
        if direct and not directly:
            raise OSError(errno.EINVAL, "not here")
        sizes[direct].append(len(data))
        return write(file, data)

    monkeypatch.setattr("molmoact_ros.bags.mcap_writer.os.write", watched)
    rng, pictures = np.random.default_rng(0), []
    with BagWriter(tmp_path / "bag") as bag:
        for number, size in enumerate((3 << 20, 5000, 123, 1 << 20, 4096)):
            pictures.append(rng.integers(0, 256, size, np.uint8))
            image = bag.types.make("sensor_msgs/msg/Image", data=pictures[-1])
            bag.write(BagMessage("/picture", "sensor_msgs/msg/Image", bag.types.encode(image), number))
            bag.flush()
    with BagReader(tmp_path / "bag") as reader:
        assert not reader.repaired
        read = [reader.decode(message).data for message in reader.messages()]
    assert all(np.array_equal(*pair) for pair in zip(read, pictures, strict=True))
    assert max(sizes[False]) <= PIECE and max(sizes[True], default=0) <= DIRECT
    if directly:
        with suppress(OSError):  # where this file system can
            os.close(os.open(tmp_path / "probe", os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
            assert sum(sizes[True]) > 50 * sum(sizes[False])
