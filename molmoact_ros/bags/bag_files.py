"""The folder of a bag: its files in order, its metadata.yaml, and the repair of what a killed recorder left."""

from __future__ import annotations

import fcntl
import os
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from mcap.reader import make_reader

from molmoact_ros.bags.mcap_repair import is_ours, is_whole, repair_file
from molmoact_ros.bags.mcap_writer import Index

JAZZY_BAG_VERSION: Final = 9
"""Version of metadata.yaml that ROS 2 Jazzy writes."""
METADATA: Final = "metadata.yaml"
ABOUT: Final = ("molmoact_ros", "molmoact_ros.end")
"""Names of our metadata records in a bag: software versions at its start, and recording statistics at its end."""
STORED: Final = (".mcap", ".db3", ".bag")
"""Suffixes of files that hold messages; the first of them is read where a folder has several."""
PACKED: Final = (".zstd", ".zst")
"""Suffixes of files that are compressed as a whole, behind one of those."""
RESERVE: Final = ".reserve"
"""File in a bag's folder that reserves disk space while it is recorded."""


class PlainDumper(yaml.SafeDumper):
    """YAML without anchors and aliases: repeated values are written out."""

    def ignore_aliases(self, data: object) -> bool:
        """True for all data, so that none becomes an alias."""
        return True


@dataclass
class Contents:
    """The contents of a bag, as metadata.yaml lists them.

    files: name, stamps of the first and last message in ns, and number of messages of each file. counts: number of
    messages of each topic over all files. topics: metadata of each topic.
    """

    files: list[tuple[str, tuple[int, int], int]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    topics: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add_file(self, name: str, index: Index) -> None:
        """Add a file with this index."""
        self.files.append((name, index.span, index.counts.total()))
        for number, channel in index.channels.items():
            self.counts[channel.topic] += index.counts[number]
            self.topics[channel.topic] = {
                "name": channel.topic, "type": index.schemas[channel.schema_id].name, "serialization_format": "cdr",
                "offered_qos_profiles": yaml.safe_load(channel.metadata.get("offered_qos_profiles", "")) or [],
                "type_description_hash": channel.metadata.get("topic_type_hash", ""),
            }  # fmt: skip

    def read(self, path: Path) -> None:
        """Add a complete file. Raises ValueError if it lacks its summary."""
        with path.open("rb") as stream:
            summary = make_reader(stream).get_summary()
        if summary is None or summary.statistics is None:
            raise ValueError(f"{path} lacks its summary; write it anew with `mcap recover`")
        of = summary.statistics
        index = Index(
            schemas=summary.schemas, channels=summary.channels, counts=Counter(of.channel_message_counts),
            span=(of.message_start_time, of.message_end_time),
        )  # fmt: skip
        self.add_file(path.name, index)


def write_metadata(folder: Path, contents: Contents, about: Mapping[str, str]) -> None:
    """Replace metadata.yaml atomically, so that there is a complete one at any time."""
    spans = [span for _, span, _ in contents.files if any(span)] or [(0, 0)]
    information = {
        "version": JAZZY_BAG_VERSION, "storage_identifier": "mcap",
        "relative_file_paths": [name for name, _, _ in contents.files],
        **_span(min(begin for begin, _ in spans), max(end for _, end in spans), contents.counts.total()),
        "topics_with_message_count": [
            {"topic_metadata": topic, "message_count": contents.counts[name]} for name, topic in contents.topics.items()
        ],
        "compression_format": "", "compression_mode": "",
        "files": [{"path": name, **_span(*span, count)} for name, span, count in contents.files],
        "custom_data": dict(about) or None, "ros_distro": "jazzy",
    }  # fmt: skip
    new = folder / f"{METADATA}.new"
    new.write_text(yaml.dump({"rosbag2_bagfile_information": information}, Dumper=PlainDumper, sort_keys=False))
    new.replace(folder / METADATA)


def _span(begin: int, end: int, count: int) -> dict[str, Any]:
    return {
        "starting_time": {"nanoseconds_since_epoch": begin},
        "duration": {"nanoseconds": end - begin},
        "message_count": count,
    }


def repair(bag: Path) -> bool:
    """Repair a bag whose recorder was killed, in place; returns whether it needed repair.

    Only for bags of our own recorder, or where a user asks for it. Raises ValueError, in one line, if it is still being
    recorded or cannot be repaired.
    """
    files = _mcap_files(bag)
    torn = [file for file in files if not is_whole(file)]
    if any(is_being_written(file) for file in torn):
        raise ValueError(f"{bag} is still being recorded; end the recorder first")
    contents = Contents()
    for file in files if torn else []:
        try:
            contents.add_file(file.name, repair_file(file)) if file in torn else contents.read(file)
        except Exception as error:  # corrupt bytes can raise anything
            raise ValueError(f"{file} cannot be repaired: {one_line(error)}") from None
        (file.parent / RESERVE).unlink(missing_ok=True)
    if torn and bag.is_dir():
        write_metadata(bag, contents, about(bag))
    return bool(torn)


def repair_own(bag: Path) -> bool:
    """Repair a bag that our own recorder left, in place; returns whether it did. Bags of others stay as they are.

    So does one that is still being recorded or that may not be written: it is read as far as it is there.
    """
    torn = [file for file in _mcap_files(bag) if not is_whole(file)]
    if not torn or not all(is_ours(file) and os.access(file, os.W_OK) for file in torn):
        return False
    if not os.access(torn[0].parent, os.W_OK) or any(is_being_written(file) for file in torn):
        return False
    try:
        return repair(bag)
    except ValueError:  # it is damaged as well
        return False


def is_being_written(path: Path) -> bool:
    """Whether a process has a file open for writing, as far as it can be seen: by our recorder's lock, and in /proc."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    there = path.stat()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError, ValueError):
            of = link.stat()
            if (of.st_dev, of.st_ino) == (there.st_dev, there.st_ino):
                text = (link.parents[1] / "fdinfo" / link.name).read_text()
                if int(text.partition("flags:")[2].split()[0], 8) & (os.O_WRONLY | os.O_RDWR):
                    return True
    return False


def storage_files(bag: Path) -> tuple[list[Path], list[str]]:
    """The files of a bag that hold messages, in the order of writing, and notes, one line each.

    metadata.yaml is not needed. Where it names files, others of other names are not the bag's. Raises ValueError where
    there is none.
    """
    if bag.name == METADATA:
        raise ValueError(f"{bag} describes a bag; give the folder that it is in")
    if not bag.is_dir():
        return [bag], []
    files = files_of(bag, *STORED)
    named = _named(bag)
    there = {_number(file) for file in files}  # compressed or not
    missing = [name for name in named if _number(bag / name) not in there]
    names = {_number(bag / name)[0] for name in named}
    listed = [file for file in files if _number(file)[0] in names]
    files = listed or files
    notes = [f"{len(missing)} files that metadata.yaml names are missing: {', '.join(missing)}"] if missing else []
    kinds = {_kind(file) for file in files}
    if len(kinds) > 1:  # a bag and what it was converted to
        kept = next(kind for kind in STORED if kind in kinds)
        notes.append(f"of the files in several formats, those in {kept} are read")
        files = [file for file in files if _kind(file) == kept]
    plain = {file for file in files if file.suffix not in PACKED}
    files = [file for file in files if file in plain or file.with_suffix("") not in plain]  # compressed only later
    if not files:
        inside = sorted(folder.name for folder in bag.iterdir() if folder.is_dir() and files_of(folder, *STORED))
        more = f"; give one of those in it: {', '.join(inside)}" if inside else ""
        raise ValueError(f"{bag} is not a readable bag: it holds no {' or '.join(STORED[:2])} file{more}")
    return files, notes


def _named(bag: Path) -> list[str]:
    """The names of files in metadata.yaml; empty where it cannot be read."""
    try:
        said = yaml.safe_load((bag / METADATA).read_text())["rosbag2_bagfile_information"]
        return [Path(name).name for name in said["relative_file_paths"]]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return []


def _kind(file: Path) -> str:
    return Path(file.stem).suffix if file.suffix in PACKED else file.suffix


def one_line(error: Exception) -> str:
    """The message of an error, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def files_of(bag: Path, *kinds: str) -> list[Path]:
    """The files of a bag with one of these suffixes, compressed or not, in the order in which they were written."""
    files = bag.iterdir() if bag.is_dir() else [bag]
    return sorted((file for file in files if _kind(file) in kinds), key=_number)


def _mcap_files(bag: Path) -> list[Path]:
    return [file for file in files_of(bag, ".mcap") if file.suffix not in PACKED]


def _number(file: Path) -> tuple[str, int]:
    """Sort key: (`bag`, 10) for `bag_10.mcap`, which comes after `bag_9.mcap`; `bag.mcap` comes before all."""
    stem = Path(file.stem).stem if file.suffix in PACKED else file.stem
    name, number = re.fullmatch(r"(.*?)(?:_(\d+))?", stem).groups()  # type: ignore[union-attr]
    return name, int(number or -1)


def about(bag: Path) -> dict[str, str]:
    """Metadata that our recorder left in a bag; later records override earlier ones. Empty for other bags."""
    out: dict[str, str] = {}
    for file in _mcap_files(bag):
        with suppress(Exception), file.open("rb") as stream:  # a torn end can raise anything
            for record in make_reader(stream).iter_metadata():
                out |= record.metadata if record.name in ABOUT else {}
    return out
