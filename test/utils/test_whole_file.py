"""A text file is the old or the new one, whatever happens while it is written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import molmoact_ros
from molmoact_ros.utils.whole_file import write_whole


def test_what_fails_leaves_the_file_before(tmp_path: Path) -> None:
    def failing() -> Iterator[str]:
        yield "half"
        raise OSError(28, os.strerror(28))

    file, link = tmp_path / "figures.json", tmp_path / "link"
    link.symlink_to(file)
    write_whole(link, "old")
    for place in (file, link, tmp_path / "new.json"):
        with pytest.raises(OSError, match="No space left"):
            write_whole(place, failing())
    assert file.read_text() == "old" and link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures.json", "link"]
    write_whole(file, iter(["n", "ew"]))
    assert file.read_text() == "new"
    write_whole(Path("/dev/null"), "what is no file stays what it is")
    assert Path("/dev/null").is_char_device()


def test_no_figures_are_written_another_way() -> None:
    """What `--json` and `--report` name may be the figures of hours."""
    sources = Path(molmoact_ros.__file__).parent.rglob("*.py")
    assert not [file.name for file in sources if re.search(r"args\.\w+\.write_text\(", file.read_text())]
