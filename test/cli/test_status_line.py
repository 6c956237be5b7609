"""The status below a command's lines, and a note that is typed."""

from __future__ import annotations

import pytest

from molmoact_ros.cli.status_line import StatusLine, TypedNote


def test_a_status_is_written_when_it_changes_and_again_below_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    screen = StatusLine()
    screen.show("waits")
    screen.show("waits")
    screen.print_line("kept")
    screen.show("waits")
    assert capsys.readouterr().out == "\r\033[Kwaits\r\033[Kkept\n\r\033[Kwaits"


def test_a_note_is_whole_with_enter_and_can_be_corrected() -> None:
    note = TypedNote()
    assert note.text is None
    note.begin()
    assert [note.type(key) for key in ["o", "x", "\x7f", "k"]] == [""] * 4 and note.text == "ok"
    assert note.type("\n") == "ok" and note.text is None
    note.begin()
    assert note.type("\r") == "" and note.text is None, "an empty note is none"
