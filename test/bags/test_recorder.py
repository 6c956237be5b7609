"""The recorder keeps what matters, whatever happens to it or to its disk."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.stream_reader import StreamReader
from rosbags.rosbag2 import Reader

from molmoact_ros.bags.bag import BagMessage, BagReader, BagWriter
from molmoact_ros.bags.bag_files import about, repair
from molmoact_ros.bags.image_codec import COMPRESSED, IMAGE, Form, pack
from molmoact_ros.bags.mcap_repair import is_whole
from molmoact_ros.bags.message_types import Types
from molmoact_ros.bags.recorder import MIB, Recorder
from molmoact_ros.cameras.compressed_images import decoded
from molmoact_ros.cameras.image_encodings import image_pixels

TYPES = Types()
STRING = "std_msgs/msg/String"
NOISE = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
"""What no compression makes smaller."""


def text(number: int, stamp_ns: int | None = None) -> BagMessage:
    data = TYPES.encode(TYPES[STRING](data=str(number)))
    return BagMessage("/command", STRING, data, time.time_ns() if stamp_ns is None else stamp_ns)


def picture(pixels: np.ndarray, encoding: str, topic: str = "/front/image") -> BagMessage:
    header = TYPES["std_msgs/msg/Header"](stamp=TYPES["builtin_interfaces/msg/Time"](1, 2), frame_id="front")
    step = pixels.strides[0]
    height, width = pixels.shape[:2]
    image = TYPES[IMAGE](header, height, width, encoding, 0, step, pixels.view(np.uint8).ravel())
    return BagMessage(topic, IMAGE, TYPES.encode(image), time.time_ns())


NOISY = picture(NOISE, "rgb8")
RECORD = """
import sys, time
sys.path.insert(0, {folder!r})
from pathlib import Path
from test_recorder import NOISY, text
from molmoact_ros.bags.bag import BagWriter
from molmoact_ros.bags.recorder import Recorder
bag = Path(sys.argv[1])
recorder = Recorder(BagWriter(bag), bag)
print("go", flush=True)
for number in range(100_000):
    recorder.put(text(number))
    if number % 3 == 0:
        recorder.put(NOISY)
    time.sleep(0.01)
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_recorder_leaves_all_but_the_last_second(tmp_path: Path, seed: int) -> None:
    bag = tmp_path / "bag"
    program = RECORD.format(folder=str(Path(__file__).parent))
    process = subprocess.Popen([sys.executable, "-c", program, str(bag)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"go\n"
    time.sleep(1.5 + random.Random(seed).random())
    killed = time.time_ns()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not is_whole(bag / "bag.mcap") and (bag / ".reserve").stat().st_size == 16 * MIB
    with BagReader(bag) as reader:
        assert reader.repaired and not (bag / ".reserve").exists()
        heard = [(int(reader.decode(m).data), m.stamp_ns) for m in reader.messages(["/command"])]
        pictures = reader.count("/front/image")
    assert [number for number, _ in heard] == list(range(len(heard)))
    assert heard[-1][1] > killed - 1e9
    assert pictures > len(heard) / 4
    check_file(bag)
    command = [str(Path(sys.executable).parent / "pymcap-cli"), "doctor", str(bag / "bag.mcap")]
    doctor = subprocess.run(command, capture_output=True, text=True)
    assert not doctor.returncode, doctor.stdout  # noise that zstd makes no smaller is a warning to it


def check_file(bag: Path) -> None:
    """Other readers than ours: rosbags by index, mcap by index and record by record with all checksums."""
    assert not repair(bag)
    with Reader(bag) as reader:
        count = sum(1 for _ in reader.messages())
        assert reader.message_count == count
    (file,) = bag.glob("*.mcap")
    with file.open("rb") as stream:
        summary = make_reader(stream, validate_crcs=True).get_summary()
        assert summary is not None and summary.statistics is not None
        assert summary.statistics.message_count == count
        assert sum(1 for _ in make_reader(stream, validate_crcs=True).iter_messages()) == count
    with file.open("rb") as stream:
        kinds = [type(record).__name__ for record in StreamReader(stream, validate_crcs=True).records]
    assert kinds[0] == "Header" and kinds[-1] == "Footer" and kinds.count("Message") == count


def test_a_file_cut_anywhere_is_repaired(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "whole", about={"molmoact-ros": "1"}) as bag:
        for chunk in range(3):
            for number in range(4):
                bag.write(text(4 * chunk + number, 4 * chunk + number))
            bag.flush()
    whole = (tmp_path / "whole" / "whole.mcap").read_bytes()
    rng, counts = random.Random(1), set()
    for cut in [*rng.sample(range(60, len(whole)), 60), len(whole) - 1, len(whole) - 30]:
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / "metadata.yaml").write_bytes((tmp_path / "whole" / "metadata.yaml").read_bytes())
        (folder / "cut.mcap").write_bytes(whole[:cut])
        assert repair(folder) and not repair(folder)
        with BagReader(folder) as reader:
            heard = [int(reader.decode(m).data) for m in reader.messages()]
        assert heard == list(range(len(heard))) and len(heard) % 4 == 0
        counts.add(len(heard))
        check_file(folder)
    assert counts == {0, 4, 8, 12}
    assert about(tmp_path / "whole") == {"molmoact-ros": "1"}


def test_a_bag_is_not_repaired_while_it_is_recorded_and_is_read_as_far_as_it_is_there(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        bag.write(text(1))
        bag.flush()
        with pytest.raises(ValueError, match="still being recorded"):
            repair(tmp_path / "bag")
        with BagReader(tmp_path / "bag") as reader:
            assert len(list(reader.messages())) == 1 and not reader.repaired
            assert reader.notes == [
                "bag.mcap was not closed, or is still being written: it is read as far as it is there"
            ]
    with BagReader(tmp_path / "bag") as reader:
        assert not reader.repaired and len(list(reader.messages())) == 1


FAULTS = """
import resource, sys
sys.path.insert(0, {folder!r})
from pathlib import Path
from test_recorder import NOISY
from molmoact_ros.bags.bag import BagWriter
from molmoact_ros.bags.recorder import keep_memory
if sys.argv[2] == "keep":
    keep_memory()
bag = BagWriter(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(60):
    bag.write(NOISY)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
bag.close()
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library cannot be told")
def test_the_memory_of_a_chunk_is_kept_for_the_next(tmp_path: Path) -> None:
    def faults(how: str) -> int:
        code = FAULTS.format(folder=str(Path(__file__).parent))
        command = [sys.executable, "-c", code, str(tmp_path / how), how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("keep") < faults("plain") / 3


HELD = """
import os
from pathlib import Path
from molmoact_ros.bags.recorder import keep_memory, release_memory
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
keep_memory()
images = [os.urandom(230_000) for _ in range(400)]
few = images[::50]
del images
before = resident()
release_memory()
print(before - resident())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library cannot be told")
def test_m9_what_waited_for_a_slow_disk_is_given_back() -> None:
    """Images that waited leave gaps between those that still do; the memory of these goes back all the same."""
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 60 * 1_000_000


FULL = """
import resource, sys
sys.path.insert(0, {folder!r})
from pathlib import Path
from test_recorder import fill
if sys.argv[2] == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (12 << 20, 12 << 20))
fill(Path(sys.argv[1]))
"""


def fill(bag: Path) -> None:
    """Far more images than there is room for, and a command with each."""
    recorder = Recorder(BagWriter(bag), bag, reserve=4 * MIB, tell=lambda line: print(line, flush=True))
    for number in range(100):
        recorder.put(text(number))
        recorder.put(NOISY)
        time.sleep(0.01)
    tally = recorder.close()
    print(tally.messages, tally.pictures, tally.others, flush=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real one, of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def recorded_until_full(folder: Path, kind: str) -> str:
    program = FULL.format(folder=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder / "bag"), kind], capture_output=True, text=True, timeout=60
    )
    assert not done.returncode, done.stderr
    return done.stdout


def test_a_full_disk_takes_every_command(small_disk: Path) -> None:
    said = recorded_until_full(small_disk, "disk")
    assert "No space left on device" in said
    *_, last = said.splitlines()
    messages, pictures, others = map(int, last.split())
    assert others == 0 and pictures > 50 and messages == 200 - pictures
    with BagReader(small_disk / "bag") as reader:
        assert [int(reader.decode(m).data) for m in reader.messages(["/command"])] == list(range(100))
        assert reader.count("/front/image") == 100 - pictures
    assert about(small_disk / "bag")["recorder.pictures"] == str(pictures)
    check_file(small_disk / "bag")
    assert not (small_disk / "bag" / ".reserve").exists()


def test_a_file_that_may_not_grow_says_what_is_lost(tmp_path: Path) -> None:
    """No reserve helps against a limit of the file's size: what was written stays, the rest is counted."""
    said = recorded_until_full(tmp_path, "limit")
    assert "File too large" in said
    messages, pictures, others = map(int, said.splitlines()[-1].split())
    assert messages + pictures + others == 200
    with BagReader(tmp_path / "bag") as reader:
        assert len(list(reader.messages())) == messages


def test_a_slow_disk_loses_pictures_and_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, said = os.write, list[str]()

    def slowly(file: int, data: memoryview) -> int:
        time.sleep(len(data) / (10 * MIB))
        return write(file, data)

    monkeypatch.setattr("molmoact_ros.bags.mcap_writer.os.write", slowly)
    recorder = Recorder(BagWriter(tmp_path / "bag"), tmp_path / "bag", waiting=4 * MIB, tell=said.append)
    longest, count = 0.0, 160
    for number in range(count):
        began = time.monotonic()
        recorder.put(text(number))
        recorder.put(NOISY)
        longest = max(longest, time.monotonic() - began)
        time.sleep(0.01)
    now = time.time_ns()
    shutil.copytree(tmp_path / "bag", tmp_path / "killed", ignore=shutil.ignore_patterns(".reserve"))
    tally = recorder.close()
    assert tally.pictures > 20 and tally.others == 0 and any("come faster than" in line for line in said)
    assert longest < 0.05, "whoever brings messages must not wait for the disk"
    with BagReader(tmp_path / "bag") as reader:
        assert [int(reader.decode(m).data) for m in reader.messages(["/command"])] == list(range(count))
    with BagReader(tmp_path / "killed") as reader:
        *_, last = reader.messages(["/command"])
    assert last.stamp_ns > now - 1e9, "commands do not wait behind images"


def test_many_threads_may_bring_messages(tmp_path: Path) -> None:
    recorder = Recorder(BagWriter(tmp_path / "bag"), tmp_path / "bag")

    def bring(start: int) -> None:
        for number in range(start, start + 200):
            recorder.put(text(number))

    threads = [threading.Thread(target=bring, args=(200 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorder.close().messages == 800
    with BagReader(tmp_path / "bag") as reader:
        assert sorted(int(reader.decode(m).data) for m in reader.messages()) == list(range(800))


def test_a_recorder_ends_in_time_though_pictures_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def slowly(file: int, data: memoryview) -> int:
        time.sleep(len(data) / (4 * MIB))
        return write(file, data)

    monkeypatch.setattr("molmoact_ros.bags.mcap_writer.os.write", slowly)
    recorder = Recorder(BagWriter(tmp_path / "bag"), tmp_path / "bag")
    for number in range(40):
        recorder.put(NOISY)
        recorder.put(text(number))
    began = time.monotonic()
    tally = recorder.close()
    assert time.monotonic() - began < 4.5 and 5 < tally.pictures < 40 and tally.others == 0
    with BagReader(tmp_path / "bag") as reader:
        assert not reader.repaired and reader.count("/command") == 40
        assert reader.count("/front/image") == 40 - tally.pictures
    assert about(tmp_path / "bag")["recorder.pictures"] == str(tally.pictures)


def test_a_message_that_no_bag_takes_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    recorder = Recorder(BagWriter(tmp_path / "bag"), tmp_path / "bag", "png", tell=said.append)
    recorder.put(BagMessage("/thing", "nowhere_msgs/msg/Thing", b"", 1))
    recorder.put(BagMessage("/front/image", IMAGE, b"\0\1\0\0torn", 1))
    recorder.put(text(1))
    tally = recorder.close()
    assert (tally.messages, tally.others) == (1, 2) and "nowhere_msgs" in said[0]
    with BagReader(tmp_path / "bag") as reader:
        assert [reader.decode(m).data for m in reader.messages()] == ["1"]


@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_pictures_are_packed_as_image_transport_does_it(form: Form) -> None:
    smooth = cv2.resize(NOISE[:6, :8], (64, 48), interpolation=cv2.INTER_CUBIC)
    packed = pack(picture(smooth, "rgb8"), TYPES, form, 95)
    message = TYPES.decode(packed.data, packed.type_name)
    assert (packed.topic, packed.type_name) == ("/front/image/compressed", COMPRESSED)
    assert message.format == f"rgb8; {form} compressed bgr8" and message.header.stamp.sec == 1
    pixels, encoding = decoded(message)
    assert encoding == "rgb8"
    difference = np.abs(pixels.astype(int) - smooth)
    assert difference.max() == 0 if form == "png" else difference.mean() < 4
    depth = (NOISE[:48, :64, 0].astype(np.uint16) << 4) + 5
    packed = pack(picture(depth, "16UC1", "/depth"), TYPES, form, 95)
    message = TYPES.decode(packed.data, packed.type_name)
    assert packed.topic == "/depth/compressedDepth" and message.format == "16UC1; compressedDepth png"
    np.testing.assert_array_equal(decoded(message)[0], depth)


def test_what_cannot_be_packed_is_kept_as_it_is() -> None:
    metres = picture(NOISE[:4, :4, 0].astype(np.float32), "32FC1")
    assert pack(metres, TYPES, "png", 95) == metres and pack(text(1, 1), TYPES, "jpeg", 95) == text(1, 1)
    image = TYPES.decode(metres.data, IMAGE)
    assert image_pixels(image).dtype == np.float32


def test_pictures_packed_at_once_are_all_in_the_bag_each_at_its_time(tmp_path: Path) -> None:
    recorder = Recorder(BagWriter(tmp_path / "bag"), tmp_path / "bag", "png")
    for number in range(24):
        size = (480, 640) if number % 2 == 0 else (8, 8)  # the small ones are done before the large ones
        grey = picture(np.full((*size, 3), 10 * number, np.uint8), "rgb8")
        recorder.put(replace(grey, stamp_ns=number + 1))
    assert recorder.close().messages == 24
    with BagReader(tmp_path / "bag") as reader:
        found = {message.stamp_ns: decoded(reader.decode(message))[0] for message in reader.messages()}
    assert {stamp: int(pixels.mean()) for stamp, pixels in found.items()} == {n + 1: 10 * n for n in range(24)}
