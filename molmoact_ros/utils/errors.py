"""Errors as one line for people."""

from __future__ import annotations

import re
from typing import Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

SOURCE: Final = re.compile(r",? at /\S+\.\w+:\d+")
"""Where in its own source rcl, or a library under it, noticed an error."""


def unfit(detail: ErrorDetails) -> str:
    """Why a value does not fit its model, by one of pydantic's `errors()`."""
    text = detail["msg"].removeprefix("Value error, ")
    return f"{text}, not {detail['input']!r}" if text.startswith("Input should be") else text


def one_line(error: BaseException) -> str:
    """What `error` says, without line breaks and without rcl's places in its source; its type where it says nothing.

    Of pydantic's errors: the first value that does not fit, with its place.
    """
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join([*filter(None, [".".join(map(str, first["loc"]))]), unfit(first)])
    return " ".join(SOURCE.sub("", str(error)).split()) or type(error).__name__
