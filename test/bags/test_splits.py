"""A bag of several files: one bag to every reader, each file a whole one, and no memory of the files before."""

from __future__ import annotations

import gc
import random
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
import yaml
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.data_stream import RecordBuilder
from mcap.reader import make_reader
from mcap.records import Channel, Chunk, Header, Schema
from rosbags.rosbag2 import Reader

from molmoact_ros.bags import bag_files
from molmoact_ros.bags.bag import BagMessage, BagReader, BagWriter
from molmoact_ros.bags.bag_files import repair
from molmoact_ros.bags.mcap_repair import MAX_CHUNK, is_whole
from molmoact_ros.bags.mcap_writer import MAGIC
from molmoact_ros.bags.message_types import Types
from molmoact_ros.bags.recorder import Recorder

TYPES = Types()
STRING = "std_msgs/msg/String"
OURS = ("molmoact_ros/bags", "mcap")
SECOND = 1_000_000_000
NEVER = {"sec": 9223372036, "nsec": 854775807}
LATCHED = [
    {
        "history": "keep_last", "depth": 1, "reliability": "reliable", "durability": "transient_local",
        "deadline": NEVER, "lifespan": NEVER, "liveliness": "automatic", "liveliness_lease_duration": NEVER,
        "avoid_ros_namespace_conventions": False,
    }
]  # fmt: skip


def text(word: str, stamp_ns: int, topic: str = "/command") -> BagMessage:
    return BagMessage(topic, STRING, TYPES.encode(TYPES[STRING](data=word)), stamp_ns)


def write(folder: Path, seconds: int = 35, max_ns: int = 10 * SECOND, max_bytes: int = 0) -> None:
    """A command each second, flushed each second; a description at the beginning, which is latched."""
    with BagWriter(folder, about={"who": "test"}, max_ns=max_ns, max_bytes=max_bytes) as bag:
        bag.add_topic("/robot_description", STRING, LATCHED)
        bag.write(text("the robot", SECOND, "/robot_description"))
        for number in range(seconds):
            bag.write(text(str(number), (number + 1) * SECOND))
            bag.flush()


def metadata(folder: Path) -> dict:
    said: dict = yaml.safe_load((folder / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    return said


def commands(folder: Path) -> list[str]:
    with BagReader(folder) as reader:
        return [reader.decode(message).data for message in reader.messages(["/command"])]


def test_m9_a_bag_is_split_by_time_and_reads_as_one(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    write(bag)
    names = ["bag.mcap", "bag_1.mcap", "bag_2.mcap", "bag_3.mcap"]
    said = metadata(bag)
    assert said["version"] == 9 and said["relative_file_paths"] == names
    assert [file["path"] for file in said["files"]] == names
    assert said["starting_time"]["nanoseconds_since_epoch"] == SECOND and said["duration"]["nanoseconds"] == 34 * SECOND
    for file in said["files"]:
        with (bag / file["path"]).open("rb") as stream:
            summary = make_reader(stream, validate_crcs=True).get_summary()
            count = sum(1 for _ in make_reader(stream, validate_crcs=True).iter_messages())
        assert summary is not None and summary.statistics is not None
        of = summary.statistics
        assert file["message_count"] == of.message_count == count
        assert file["starting_time"]["nanoseconds_since_epoch"] == of.message_start_time
        assert file["duration"]["nanoseconds"] == of.message_end_time - of.message_start_time
    assert said["message_count"] == sum(file["message_count"] for file in said["files"])
    with Reader(bag) as reader:  # rosbags, by metadata.yaml
        assert reader.message_count == sum(1 for _ in reader.messages()) == said["message_count"]
    assert commands(bag) == [str(number) for number in range(35)]
    assert not repair(bag)


def test_m9_a_bag_is_split_by_size(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag", max_bytes=40_000) as bag:
        for number in range(40):
            bag.write(text(str(number), number))
            bag.write(BagMessage("/noise", STRING, random.Random(number).randbytes(9000), number))
            bag.flush()
    sizes = [file.stat().st_size for file in (tmp_path / "bag").glob("*.mcap")]
    assert len(sizes) > 2 and sum(size > 40_000 for size in sizes) >= len(sizes) - 1 and max(sizes) < 120_000
    assert commands(tmp_path / "bag") == [str(number) for number in range(40)]


def test_m9_each_file_can_be_read_by_itself_with_what_was_latched(tmp_path: Path) -> None:
    write(tmp_path / "bag")
    for number, file in enumerate(["bag.mcap", "bag_1.mcap", "bag_2.mcap", "bag_3.mcap"]):
        with BagReader(tmp_path / "bag" / file) as reader:
            (robot,) = reader.messages(["/robot_description"])
            first = next(reader.messages(["/command"]))
            assert reader.decode(robot).data == "the robot"
            assert robot.stamp_ns <= first.stamp_ns, "it comes before what needs it"
            assert number == 0 or first.stamp_ns - robot.stamp_ns <= SECOND, "at the time at which the file begins"


def test_m9_what_comes_again_by_itself_is_not_repeated(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag", max_ns=10 * SECOND) as bag:
        bag.add_topic("/state", STRING, LATCHED)
        for number in range(150):
            bag.write(text(str(number), (number + 1) * SECOND // 11 + SECOND, "/state"))
            bag.flush()
    with BagReader(tmp_path / "bag") as reader:
        assert [reader.decode(m).data for m in reader.messages(["/state"])] == [str(number) for number in range(150)]


def test_m9_what_was_latched_just_before_the_next_file_is_in_it(tmp_path: Path) -> None:
    """And on the disk as soon as there is one: a kill may come next."""
    with BagWriter(tmp_path / "bag", max_ns=10 * SECOND) as bag:
        bag.add_topic("/robot_description", STRING, LATCHED)
        bag.write(text("early", SECOND))
        bag.write(text("the robot", 11 * SECOND, "/robot_description"))
        bag.flush()
        copy = tmp_path / "left.mcap"
        copy.write_bytes((tmp_path / "bag" / "bag_1.mcap").read_bytes())
    repair(copy)
    with BagReader(copy) as reader:
        assert [reader.decode(message).data for message in reader.messages(["/robot_description"])] == ["the robot"]


def test_m9_messages_of_two_files_come_by_time(tmp_path: Path) -> None:
    """Images that waited for the disk are in the next file, and older than what is in the one before."""
    with BagWriter(tmp_path / "bag", max_ns=10 * SECOND) as bag:
        for stamp in (1, 12, 11, 13, 25, 24, 26):
            bag.write(text(str(stamp), stamp * SECOND))
            bag.flush()
    assert len(list((tmp_path / "bag").glob("*.mcap"))) > 1
    assert commands(tmp_path / "bag") == ["1", "11", "12", "13", "24", "25", "26"]


def test_m9_files_without_metadata_are_one_bag(tmp_path: Path) -> None:
    """As `ros2 bag record` leaves them when it is killed."""
    write(tmp_path / "bag", seconds=115)
    (tmp_path / "bag" / "metadata.yaml").unlink()
    assert (tmp_path / "bag" / "bag_10.mcap").exists(), "a number of two digits is not sorted as text"
    assert commands(tmp_path / "bag") == [str(number) for number in range(115)]
    files = [file.name for file in bag_files.files_of(tmp_path / "bag", ".mcap")]
    assert files == ["bag.mcap", *(f"bag_{number}.mcap" for number in range(1, len(files)))]


@pytest.mark.parametrize("gone", [False, True])
def test_m9_the_last_file_of_a_killed_recorder_is_repaired(tmp_path: Path, gone: bool) -> None:
    write(tmp_path / "whole", seconds=28)
    killed = tmp_path / "killed"
    killed.mkdir()
    for file in (tmp_path / "whole").iterdir():
        (killed / file.name).write_bytes(file.read_bytes())
    last = killed / "whole_2.mcap"
    last.write_bytes(last.read_bytes()[:-700])
    if gone:
        (killed / "metadata.yaml").unlink()
    assert not is_whole(last) and repair(killed) and not repair(killed)
    found = commands(killed)
    assert found == [str(number) for number in range(len(found))] and 22 < len(found) <= 28
    said = metadata(killed)
    assert said["relative_file_paths"] == ["whole.mcap", "whole_1.mcap", "whole_2.mcap"]
    with Reader(killed) as reader:
        assert reader.message_count == sum(1 for _ in reader.messages()) == said["message_count"]
    assert said["custom_data"]["who"] == "test"


def test_m9_a_full_disk_at_the_split_goes_on_in_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BagWriter(tmp_path / "bag", max_ns=10 * SECOND) as bag:
        bag.write(text("1", SECOND))
        bag.flush()
        with monkeypatch.context() as patch:
            patch.setattr(
                "molmoact_ros.bags.mcap_writer.McapFile._append",
                lambda self, data, whole=bag._file._append: (  # the new file has no room
                    whole(data) if self is bag._file else (_ for _ in ()).throw(OSError(28, "No space left on device"))
                ),
            )
            bag.write(text("2", 20 * SECOND))
            with pytest.raises(OSError, match="No space left"):
                bag.flush()
        assert not (tmp_path / "bag" / "bag_1.mcap").exists()
        bag.write(text("3", 21 * SECOND))
        bag.flush()
        assert (tmp_path / "bag" / "bag_1.mcap").exists()
    assert commands(tmp_path / "bag") == ["1", "2", "3"]


def test_m9_the_memory_of_a_writer_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    """An hour of 40 topics and four chunks a second, a file each ten minutes: the index of one file, and no more."""
    at: dict[int, int] = {}
    with BagWriter(tmp_path / "bag", max_ns=600 * SECOND) as bag:
        topics = [f"/topic{number}" for number in range(40)]
        messages = [text("x", 0, topic) for topic in topics]
        for minute in range(60):
            for chunk in range(24):  # of 240, each standing for ten: what is held grows by chunks
                now = (60 * minute * SECOND) + chunk * (60 * SECOND // 24) + SECOND
                for message in messages:
                    bag.write(BagMessage(message.topic, STRING, message.data, now))
                bag.flush()
            if minute == 9:
                gc.collect()
                tracemalloc.start()
            if minute in (19, 29, 39, 49, 59):
                gc.collect()
                ours = tracemalloc.take_snapshot().filter_traces(
                    [tracemalloc.Filter(True, f"*/{what}/*") for what in OURS]
                )
                at[minute] = sum(trace.size for trace in ours.traces)
    tracemalloc.stop()
    assert max(at.values()) - min(at.values()) < 40_000, f"bytes held more than at minute 10: {at}"
    assert len(list((tmp_path / "bag").glob("*.mcap"))) == 6


def test_m9_the_recorder_splits_while_messages_come(tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    recorder = Recorder(BagWriter(folder, max_ns=SECOND), folder)
    for number in range(200):
        recorder.put(text(str(number), time.time_ns()))
        time.sleep(0.02)
    assert recorder.close().messages == 200
    assert len(list(folder.glob("*.mcap"))) >= 3
    assert commands(folder) == [str(number) for number in range(200)]


# Files that claim what they should not


def crafted(path: Path, plain: bytes, claimed: int, data: bytes | None = None, closed: bool = False) -> Path:
    """An MCAP file of one chunk that claims to unpack to so many bytes."""
    out = RecordBuilder()
    Header("ros2", "test").write(out)
    packed = zstandard.compress(plain) if data is None else data
    Chunk("zstd", packed, 1, 1, 0, claimed).write(out)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(MAGIC + out.end())
    if closed:  # as whole as it can be made: without an index, so that a reader goes through it
        out.start_record(0x0F)
        out.write4(0)
        out.finish_record()
        out.start_record(0x02)
        out.write(bytes(20))
        out.finish_record()
        path.write_bytes(path.read_bytes() + out.end() + MAGIC)
    return path


def described() -> bytes:
    out = RecordBuilder()
    Schema(1, b"string data\n", "ros2msg", STRING).write(out)
    Channel(1, "/command", "cdr", {}, 1).write(out)
    return out.end()


def peak(bag: Path) -> tuple[int, str]:
    """Most bytes that opening and reading a bag took, and what it said."""
    tracemalloc.start()
    try:
        try:
            with BagReader(bag) as reader:
                assert not list(reader.messages())
                said = "; ".join(reader.notes)
        except ValueError as refusal:
            said = str(refusal)
        return tracemalloc.get_traced_memory()[1], said
    finally:
        tracemalloc.stop()


BOMB = zstandard.compress(bytes(512 << 20))


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("claimed", [512 << 20, 1 << 40, 1000])
def test_a_small_file_that_would_unpack_to_gibibytes_is_refused(tmp_path: Path, claimed: int, closed: bool) -> None:
    """What it claims is too much, or it claims little and holds more."""
    file = crafted(tmp_path / "bag" / "bag.mcap", b"", claimed, data=BOMB, closed=closed)
    assert file.stat().st_size < 60_000
    before = file.read_bytes()
    took, said = peak(tmp_path / "bag")
    assert took < MAX_CHUNK // 4 and file.read_bytes() == before
    assert "\n" not in said and ("MiB is the most" in said or "1 chunks of bag.mcap are damaged" in said), said
    if not closed and claimed == 1000:  # in a repair, a chunk that is damaged is cut off, as after a kill
        assert repair(tmp_path / "bag")
        assert peak(tmp_path / "bag")[1] == ""


def test_a_chunk_of_very_many_small_messages_is_repaired_with_little_memory(tmp_path: Path) -> None:
    message = b"\x05" + struct.pack("<Q", 22) + struct.pack("<HIQQ", 1, 0, 5, 5)
    plain = described() + message * 60_000
    crafted(tmp_path / "bag" / "bag.mcap", plain, len(plain))
    tracemalloc.start()
    assert repair(tmp_path / "bag")
    took = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert took < 6 * len(plain), "the index is held as numbers, not as objects"
    with BagReader(tmp_path / "bag") as reader:
        assert reader.count("/command") == 60_000


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_a_files_lengths_claim_it_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("lengths")
    with BagWriter(folder / "bag") as bag:
        for number in range(6):
            bag.write(text(str(number), number))
            bag.flush()
    file = folder / "bag" / "bag.mcap"
    content = bytearray(file.read_bytes())
    at = data.draw(st.integers(9, len(content) - 9))
    content[at : at + 8] = struct.pack("<Q", data.draw(st.sampled_from([0, 1, 2**31, 2**40, 2**62, 2**64 - 1])))
    file.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        with BagReader(folder / "bag") as reader:
            list(reader.messages())
    except ValueError as refusal:
        assert "\n" not in str(refusal) and str(file.parent) in str(refusal)
