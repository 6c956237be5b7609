"""Files that other tools wrote, finished or not, are read as far as they can be, and never written to."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.writer import CompressionType, IndexType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from molmoact_ros.bags.bag import BagMessage, BagReader, BagWriter
from molmoact_ros.bags.bag_files import repair
from molmoact_ros.bags.mcap_repair import unpack_chunk
from molmoact_ros.bags.message_types import Types

TYPES = Types()
STRING, JOINTS = "std_msgs/msg/String", "sensor_msgs/msg/JointState"
TOPIC = "/words"


class OtherTool:
    """A file by mcap's own writer, with strings on /words and whatever else is added."""

    def __init__(self, path: Path, profile: str = "ros2", **options: Any) -> None:
        path.parent.mkdir(exist_ok=True)
        self.stream = path.open("wb")
        self.out = McapWriter(self.stream, **options)
        self.out.start(profile, "another tool")
        text, _ = TYPES.store.generate_msgdef(STRING, ros_version=2)
        self.schema = self.out.register_schema(STRING, "ros2msg", text.encode())
        self.words = self.out.register_channel(TOPIC, "cdr", self.schema)

    def say(self, numbers: range, pad: int = 0) -> None:
        for number in numbers:
            self.out.add_message(self.words, 1000 + number, string(number, pad), 1000 + number)

    def channel(self, topic: str, type_name: str, language: str, definition: bytes, encoding: str, data: bytes) -> None:
        schema = self.out.register_schema(type_name, language, definition) if language else 0
        channel = self.out.register_channel(topic, encoding, schema)
        self.out.add_message(channel, 1001, data, 1001)

    def close(self) -> None:
        self.out.finish()
        self.stream.close()


def string(number: int, pad: int = 0) -> bytes:
    noise = random.Random(number).randbytes(pad // 2).hex()
    return TYPES.encode(TYPES[STRING](data=f"{number}:{noise}"))


def words(bag: Path) -> tuple[list[int], list[str]]:
    """The numbers on /words, and the notes, of which each is one line."""
    with BagReader(bag) as reader:
        out = [int(reader.decode(m).data.partition(":")[0]) for m in reader.messages([TOPIC])]
        notes = reader.notes
    assert not any("\n" in note for note in notes)
    return out, notes


def digest(bag: Path) -> list[tuple[str, str, int]]:
    files = sorted(bag.rglob("*")) if bag.is_dir() else [bag, *bag.parent.iterdir()]
    return [(f.name, hashlib.sha256(f.read_bytes()).hexdigest(), f.stat().st_mtime_ns) for f in files if f.is_file()]


# Channels and schemas


def test_channels_that_cannot_be_read_cost_nothing_else_and_are_named(tmp_path: Path) -> None:
    file = OtherTool(tmp_path / "bag.mcap")
    file.say(range(3))
    file.channel("/notes", "Note", "jsonschema", b"{}", "json", b'{"a": 1}')
    file.channel("/log", "foxglove.Log", "protobuf", b"\n\0", "protobuf", b"")
    file.channel("/bare", "", "", b"", "json", b"{}")
    file.channel("/broken", "lab_msgs/msg/Broken", "ros2msg", b"this is [no definition\n", "cdr", b"\0\1\0\0")
    file.channel("/strange", "lab_msgs/msg/Strange", "ros2msg", b"other_msgs/Unknown x\n", "cdr", b"\0\1\0\0")
    file.channel("/flat", "lab_msgs/msg/Flat", "flatbuffer", b"\0", "cdr", b"\0\1\0\0")
    event = b"uint8 REQUEST_SENT=0\nlab_msgs/ServiceEventInfo info\nlab_msgs/Do_Request[<=1] request\n"
    file.channel("/do/_service_event", "lab_msgs/srv/Do_Event", "ros2msg", event, "cdr", b"\0\1\0\0")
    file.close()
    found, notes = words(tmp_path / "bag.mcap")
    assert found == [0, 1, 2] and len(notes) == 2
    assert notes[0].startswith("3 topics are in other encodings than cdr and are left out: ")
    assert all(f"{topic} (1 messages, {of})" in notes[0]
               for topic, of in (("/notes", "json"), ("/log", "protobuf"), ("/bare", "json")))  # fmt: skip
    assert "the definitions of 4 topics cannot be read" in notes[1]
    assert all(topic in notes[1] for topic in ("/broken", "/strange", "/flat", "/do/_service_event"))
    with BagReader(tmp_path / "bag.mcap") as reader:
        (message,) = reader.messages(["/broken"])  # its bytes can be had
        with pytest.raises(ValueError, match="lab_msgs/msg/Broken on /broken is not defined in the bag, nor anywhere"):
            reader.decode(message)


@pytest.mark.parametrize("definition", [b"", b"int32 [broken"])
@pytest.mark.parametrize("name", [STRING, "std_msgs/String", "std_msgs::msg::dds_::String_"])
def test_a_type_that_is_known_here_needs_no_definition(tmp_path: Path, definition: bytes, name: str) -> None:
    file = OtherTool(tmp_path / "bag.mcap")
    file.channel("/more", name, "ros2msg", definition, "cdr", string(7))
    file.close()
    with BagReader(tmp_path / "bag.mcap") as reader:
        (message,) = reader.messages(["/more"])
        assert message.type_name == STRING and reader.decode(message).data == "7:" and not reader.notes


def test_two_versions_of_a_type_are_read_each_by_its_own(tmp_path: Path) -> None:
    file = OtherTool(tmp_path / "bag.mcap")
    file.channel("/old", "lab_msgs/msg/P", "ros2msg", b"int32 x\n", "cdr", b"\0\1\0\0\5\0\0\0")
    file.channel("/new", "lab_msgs/msg/P", "ros2msg", b"int32 x\nint32 y\n", "cdr", b"\0\1\0\0\6\0\0\0\7\0\0\0")
    file.close()
    with BagReader(tmp_path / "bag.mcap") as reader:
        old, new = sorted((reader.decode(message) for message in reader.messages(["/old", "/new"])), key=lambda m: m.x)
        assert (old.x, new.x, new.y) == (5, 6, 7) and not hasattr(old, "y")


def test_a_good_index_is_used_and_only_the_chunks_of_a_topic_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = OtherTool(tmp_path / "bag.mcap", chunk_size=1500)
    file.say(range(100), 40)
    file.channel("/last", STRING, "ros2msg", b"string data\n", "cdr", string(1))
    file.close()
    unpacked: list[int] = []

    def counted(chunk: Any, index: Any = None) -> bytes:
        unpacked.append(chunk.message_start_time)
        return unpack_chunk(chunk, index)

    monkeypatch.setattr("molmoact_ros.bags.mcap_reader.unpack_chunk", counted)
    with BagReader(tmp_path / "bag.mcap") as reader:
        assert reader.count("/last") == 1 and reader.count(TOPIC) == 100 and not unpacked
        assert len(list(reader.messages(["/last"]))) == 1 and len(unpacked) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"index_types": IndexType.NONE, "use_statistics": False, "use_summary_offsets": False,
         "repeat_channels": False, "repeat_schemas": False},
        {"index_types": IndexType.CHUNK},
        {"repeat_channels": False, "repeat_schemas": False},
        {"use_statistics": False},
        {"use_chunking": False},
        {"use_chunking": False, "use_statistics": False, "repeat_channels": False, "repeat_schemas": False},
        {"compression": CompressionType.LZ4},
        {"compression": CompressionType.NONE, "enable_crcs": False},
    ],
    ids=lambda options: " ".join(options),
)  # fmt: skip
def test_whatever_the_index_of_a_file_lacks_it_is_read(tmp_path: Path, options: dict[str, Any]) -> None:
    file = OtherTool(tmp_path / "bag.mcap", chunk_size=500, **options)
    file.say(range(60))
    file.close()
    assert words(tmp_path / "bag.mcap") == ([*range(60)], [])
    with BagReader(tmp_path / "bag.mcap") as reader:
        assert reader.count(TOPIC) == 60 and reader.span_ns == (1000, 1059)


# Files that are not whole


def test_a_file_that_another_tool_still_writes_is_read_as_far_as_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "bag" / "bag_0.mcap"
    file = OtherTool(path, chunk_size=2000)
    file.say(range(100), 50)
    file.stream.flush()
    before = digest(tmp_path / "bag")
    found, notes = words(tmp_path / "bag")
    assert found == [*range(len(found))] and 50 < len(found) < 100 and digest(tmp_path / "bag") == before
    assert notes == ["bag_0.mcap was not closed, or is still being written: it is read as far as it is there"]
    with pytest.raises(ValueError, match="is still being recorded; end the recorder first"):
        repair(tmp_path / "bag")
    file.say(range(100, 200), 50)
    file.close()
    with path.open("rb") as stream:
        assert sum(1 for _ in make_reader(stream, validate_crcs=True).iter_messages()) == 200
    assert words(tmp_path / "bag") == ([*range(200)], [])


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_file_of_another_tool_cut_anywhere_is_read_without_a_change(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    chunked = data.draw(st.booleans())
    file = OtherTool(folder / "bag.mcap", chunk_size=300, use_chunking=chunked)
    file.say(range(40))
    file.close()
    whole = (folder / "bag.mcap").read_bytes()
    (folder / "bag.mcap").write_bytes(whole[: data.draw(st.integers(40, len(whole) - 1))])
    before = digest(folder)
    try:
        found, notes = words(folder)
    except ValueError as refusal:  # not even a channel is in it
        assert f"the bag has no {TOPIC}" in str(refusal)
        found, notes = [], ["it is read as far as it is there"]
    assert found == [*range(len(found))] and digest(folder) == before
    assert "".join(notes).endswith("it is read as far as it is there") or len(found) == 40  # cut behind the data


def test_a_repair_that_is_asked_for_makes_it_whole_for_other_tools(tmp_path: Path) -> None:
    file = OtherTool(tmp_path / "bag.mcap", chunk_size=300)
    file.say(range(40))
    file.close()
    (tmp_path / "bag.mcap").write_bytes((tmp_path / "bag.mcap").read_bytes()[:-300])
    (tmp_path / "bag_1.mcap.zstd").write_bytes(zstandard.compress((tmp_path / "bag.mcap").read_bytes()))
    packed = (tmp_path / "bag_1.mcap.zstd").read_bytes()
    assert repair(tmp_path)
    with (tmp_path / "bag.mcap").open("rb") as stream:
        assert sum(1 for _ in make_reader(stream, validate_crcs=True).iter_messages()) == 40
    command = [str(Path(sys.executable).parent / "pymcap-cli"), "doctor", str(tmp_path / "bag.mcap")]
    doctor = subprocess.run(command, capture_output=True, text=True)
    assert not doctor.returncode, doctor.stdout
    assert (tmp_path / "bag_1.mcap.zstd").read_bytes() == packed and not repair(tmp_path)


def test_a_repair_never_cuts_off_what_can_be_read(tmp_path: Path) -> None:
    """A bag of ours that was not closed, with a damaged chunk in its middle."""
    with BagWriter(tmp_path / "bag") as bag:
        for number in range(30):
            bag.write(BagMessage(TOPIC, STRING, string(number, 40), 1000 + number))
            if number % 5 == 4:
                bag.flush()
    path = tmp_path / "bag" / "bag.mcap"
    data = bytearray(path.read_bytes())
    with path.open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None
    data[summary.chunk_indexes[2].chunk_start_offset + 60] ^= 0xFF
    path.write_bytes(data[:-10])
    with pytest.raises(ValueError, match="cannot be repaired: a chunk in its middle is damaged"):
        repair(tmp_path / "bag")
    found, _ = words(tmp_path / "bag")
    assert found == [*range(10), *range(15, 30)] and path.read_bytes() == data[:-10]


def test_a_damaged_chunk_costs_its_messages_alone_which_are_counted(tmp_path: Path) -> None:
    for closed in (True, False):
        path = tmp_path / f"{closed}.mcap"
        file = OtherTool(path, chunk_size=1500)
        file.say(range(100), 40)
        file.close()
        data = bytearray(path.read_bytes())
        with path.open("rb") as stream:
            summary = make_reader(stream).get_summary()
        assert summary is not None
        chunk = summary.chunk_indexes[3]
        data[chunk.chunk_start_offset + 60] ^= 0xFF
        path.write_bytes(data if closed else data[:-10])
        found, notes = words(path)
        lost = sorted(set(range(100)) - set(found))
        assert found == sorted(found) and 5 < len(lost) < 30 and lost == [*range(lost[0], lost[-1] + 1)]
        counted = f"{len(lost)} messages are" if closed else "their messages are"
        assert any(f"1 chunks of {path.name} are damaged: {counted} left out" in note for note in notes), notes


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_bytes_are_changed_a_file_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    file = OtherTool(folder / "bag.mcap", chunk_size=300, use_chunking=data.draw(st.booleans()))
    file.say(range(20))
    file.close()
    content = bytearray((folder / "bag.mcap").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(8, len(content) - 9))
        content[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    (folder / "bag.mcap").write_bytes(content)
    try:
        with BagReader(folder) as reader:
            for message in reader.messages():
                reader.decode(message)
    except ValueError as refusal:
        assert "\n" not in str(refusal)


# Folders of files


def rosbag2(folder: Path, numbers: range, plugin: str = "MCAP", mode: str = "") -> Path:
    writer = Writer(folder, version=8, storage_plugin=StoragePlugin[plugin])
    if mode:
        writer.set_compression(CompressionMode[mode], CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection(TOPIC, STRING, typestore=TYPES.store)
        for number in numbers:
            writer.write(connection, 1000 + number, string(number))
    return folder


@pytest.mark.parametrize("plugin", ["MCAP", "SQLITE3"])
@pytest.mark.parametrize("mode", ["", "FILE", "MESSAGE"])
def test_what_rosbag2_writes_is_read_with_and_without_metadata_and_file_by_file(
    tmp_path: Path, plugin: str, mode: str
) -> None:
    bag = rosbag2(tmp_path / "bag", range(30), plugin, mode)
    (file,) = (file for file in bag.iterdir() if file.name != "metadata.yaml")
    before = digest(bag)
    assert words(bag) == words(file) == ([*range(30)], [])
    assert digest(bag) == before
    (bag / "metadata.yaml").unlink()
    file.rename(bag / f"part_0{''.join(file.suffixes)}")
    rosbag2(tmp_path / "more", range(30, 50), plugin, mode)
    (other,) = (file for file in (tmp_path / "more").iterdir() if file.name != "metadata.yaml")
    other.rename(bag / f"part_1{''.join(file.suffixes)}")
    assert words(bag) == ([*range(50)], [])


def splits(folder: Path, count: int = 4) -> Path:
    folder.mkdir()
    for number in range(count):
        file = OtherTool(folder / f"bag_{number}.mcap")
        file.say(range(10 * number, 10 * number + 10))
        file.close()
    return folder


@pytest.mark.parametrize("damage", ["missing", "empty", "no MCAP", "cut"])
def test_a_split_that_is_lost_costs_what_was_in_it(tmp_path: Path, damage: str) -> None:
    bag = splits(tmp_path / "bag")
    names = "".join(f"  - bag_{k}.mcap\n" for k in range(4))
    (bag / "metadata.yaml").write_text(f"rosbag2_bagfile_information:\n  relative_file_paths:\n{names}")
    lost = bag / "bag_2.mcap"
    if damage == "missing":
        lost.unlink()
    else:
        lost.write_bytes({"empty": b"", "no MCAP": b"x" * 99, "cut": lost.read_bytes()[:60]}[damage])
    found, (note,) = words(bag)
    assert found == [*range(20), *range(30, 40)] and "bag_2.mcap" in note


@pytest.mark.parametrize("text", ["", "{", "a: [1, 2", "rosbag2_bagfile_information: 3", "\x00"])
def test_a_metadata_file_that_cannot_be_read_is_not_needed(tmp_path: Path, text: str) -> None:
    bag = splits(tmp_path / "bag", 11)
    (bag / "metadata.yaml").write_text(text)
    assert words(bag) == ([*range(110)], [])


def test_a_folder_of_two_formats_is_read_once(tmp_path: Path) -> None:
    bag = rosbag2(tmp_path / "bag", range(9))
    converted = rosbag2(tmp_path / "other", range(9), "SQLITE3")
    (converted / "other.db3").rename(bag / "bag.db3")
    (bag / "bag.mcap.zstd").write_bytes(zstandard.compress((bag / "bag.mcap").read_bytes()))
    found, notes = words(bag)
    assert found == [*range(9)] and notes == ["of the files in several formats, those in .mcap are read"]


def test_a_folder_of_bags_is_not_a_bag(tmp_path: Path) -> None:
    splits(tmp_path / "one")
    splits(tmp_path / "two")
    with pytest.raises(ValueError, match=r"it holds no .mcap or .db3 file; give one of those in it: one, two"):
        BagReader(tmp_path)


def test_the_metadata_is_not_the_bag(tmp_path: Path) -> None:
    bag = rosbag2(tmp_path / "bag", range(3))
    with pytest.raises(ValueError, match=r"metadata.yaml describes a bag; give the folder that it is in"):
        BagReader(bag / "metadata.yaml")


# Other formats


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_a_database_that_is_still_written_is_read_from_a_copy(tmp_path: Path, journal: str) -> None:
    bag = rosbag2(tmp_path / "bag", range(10), "SQLITE3")
    writer = sqlite3.connect(bag / "bag.db3", isolation_level=None)
    writer.execute(f"PRAGMA journal_mode={journal}")
    writer.execute("BEGIN")
    rows = [(1, 1000 + number, string(number)) for number in range(10, 20)]
    writer.executemany("INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", rows)
    if journal == "WAL":
        writer.execute("COMMIT")
    before = digest(bag)
    found, notes = words(bag)
    assert found == [*range(20 if journal == "WAL" else 10)] and digest(bag) == before
    assert notes == ([] if notes == [] and journal == "DELETE" else [
        "bag.db3 was not closed, or is still being written: it is read as far as it is there"
    ])  # fmt: skip
    writer.close()


def test_a_database_that_is_damaged_or_another_is_named(tmp_path: Path) -> None:
    bag = rosbag2(tmp_path / "bag", range(3000), "SQLITE3")
    data = bytearray((bag / "bag.db3").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 20_000] = bytes(20_000)
    (bag / "bag.db3").write_bytes(data)
    try:
        found, (note,) = words(bag)
        assert len(found) < 3000 and "bag.db3 is damaged" in note
    except ValueError as refusal:
        assert "bag.db3: database disk image is malformed" in str(refusal)
    sqlite3.connect(tmp_path / "songs.db3").execute("CREATE TABLE songs (name TEXT)").connection.close()
    with pytest.raises(ValueError, match=r"songs.db3: it is a database, but not one of rosbag2"):
        BagReader(tmp_path / "songs.db3")


def ros1_joints(k: int) -> tuple[Any, Any]:
    types = get_typestore(Stores.ROS1_NOETIC)
    time, header, joints = (
        types.types[name] for name in ("builtin_interfaces/msg/Time", "std_msgs/msg/Header", JOINTS)
    )
    empty = TYPES.make(JOINTS).position
    head = header(seq=k, stamp=time(sec=50 + k, nanosec=5), frame_id="base")
    return types, joints(header=head, name=["a"], position=empty.__class__((1,)) * 0 + k, velocity=empty, effort=empty)


def test_bags_of_ros_1_are_read(tmp_path: Path) -> None:
    """As .bag, and as MCAP by a converter that left the messages as they were."""
    types, _ = ros1_joints(0)
    definition, _ = types.generate_msgdef(JOINTS, ros_version=1)
    with Ros1Writer(tmp_path / "old.bag") as writer:
        connection = writer.add_connection("/joint_states", JOINTS, typestore=types)
        file = OtherTool(tmp_path / "old.mcap", profile="ros1")
        for k in range(3):
            data = bytes(types.serialize_ros1(ros1_joints(k)[1], JOINTS))
            writer.write(connection, 1001 + k, data)
            file.channel("/joint_states", "sensor_msgs/JointState", "ros1msg", definition.encode(), "ros1", data)
        file.close()
    for name in ("old.bag", "old.mcap"):
        with BagReader(tmp_path / name) as reader:
            found = [reader.decode(message) for message in reader.messages(["/joint_states"])]
            assert [(m.header.stamp.sec, m.position.tolist()) for m in found] == [(50 + k, [k]) for k in range(3)]
            assert {m.__msgtype__ for m in found} == {JOINTS}
    (tmp_path / "cut.bag").write_bytes((tmp_path / "old.bag").read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a readable bag \\(cut.bag: "):
        BagReader(tmp_path / "cut.bag")


def test_a_copy_of_a_foreign_bag_by_our_writer_is_the_same(tmp_path: Path) -> None:
    bag = rosbag2(tmp_path / "bag", range(20), "SQLITE3", "MESSAGE")
    with BagReader(bag) as reader, BagWriter(tmp_path / "ours") as writer:
        for message in reader.messages():
            writer.write(BagMessage(message.topic, message.type_name, message.data, message.stamp_ns))
    with BagReader(bag) as reader, BagReader(tmp_path / "ours") as copy:
        assert list(reader.messages()) == list(copy.messages())
