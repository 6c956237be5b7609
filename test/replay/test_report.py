"""Whatever a bag says, a report is one that opens."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from molmoact_ros.replay.compare import Comparison
from molmoact_ros.replay.report import Report

BEGIN, END = '<script id="data" type="application/json">', "</script>"


def saved(words: str) -> tuple[str, dict[str, Any]]:
    """The text of a report with `words` in it, and the data that its script reads."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        report = Report(words, words, [words], moments=[{"time": 0.0, "words": words}])
        report.save(file, Comparison([], first=words))
        text = file.read_text(encoding="utf-8")
    data = text.split(BEGIN, 1)[1].split(END, 1)[0]
    return data, json.loads(data)


@given(st.text() | st.text(alphabet="<>!-/&script\u2028 '\"\\"))
@example("<!--<script>")
@example("</script><img src=x onerror=alert(1)>")
@example("__DATA__")
def test_what_an_instruction_holds_is_text_in_the_report(words: str) -> None:
    data, read = saved(words)
    assert read["title"] == words and read["moments"][0]["words"] == words and read["first"] == words
    assert not set("<>&") & set(data) and data.isascii(), "HTML sees neither a tag nor a comment"
