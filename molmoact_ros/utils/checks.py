"""Results of checks, one line each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """OK: passed. NOTE: worth knowing, no action needed. FAIL: the check's `text` says what to do."""

    OK = "ok"
    NOTE = "note"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Check:
    """The result of one check. name: what was checked. text: the finding in one line."""

    name: str
    verdict: Verdict
    text: str

    @classmethod
    def check(cls, name: str, fine: bool, text: str) -> Check:
        """A check with verdict OK if `fine`, else FAIL."""
        return cls(name, Verdict.OK if fine else Verdict.FAIL, text)
