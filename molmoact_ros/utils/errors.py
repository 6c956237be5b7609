"""Errors as one line for people."""

from __future__ import annotations

import re
from typing import Final

SOURCE: Final = re.compile(r",? at /\S+\.\w+:\d+")
"""Where in its own source rcl, or a library under it, noticed an error."""


def one_line(error: BaseException) -> str:
    """What `error` says, without line breaks and without rcl's places in its source; its type where it says nothing."""
    return " ".join(SOURCE.sub("", str(error)).split()) or type(error).__name__
