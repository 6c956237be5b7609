"""What a look at something found, one line for each thing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """OK: as it should be. NOTE: worth knowing, nothing to mend. FAIL: `text` says what to do."""

    OK = "ok"
    NOTE = "note"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Check:
    """`name`: what was looked at; text: what was found, in one line."""

    name: str
    verdict: Verdict
    text: str

    @classmethod
    def check(cls, name: str, fine: bool, text: str) -> Check:
        """OK or FAIL."""
        return cls(name, Verdict.OK if fine else Verdict.FAIL, text)
