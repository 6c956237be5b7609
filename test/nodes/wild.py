"""Messages of any type that a confused or broken node might publish."""

from __future__ import annotations

import math
import random
import re
from importlib import import_module
from typing import Any, Final

WORDS: Final = (
    "", "front_color_optical_frame", "fr3_link0", "fr3_joint1", "rgb8", "16UC1", "32FC1", "mono8", "full",
    "\x1b[2J\nrm", "čeština ✓", "x" * 100_000,
)  # fmt: skip
LENGTHS: Final = (0, 0, 1, 2, 5, 7, 9, 56, 300, 3000)
NUMBERS: Final = (0.0, 1.0, -1.0, 0.5, 1e-30, 3e38, -3e38, math.nan, math.inf, -math.inf)
BITS: Final = re.compile(r"(u?)int(\d+)")


def wild(kind: Any, rng: random.Random) -> Any:
    """A message of `kind` with anything in it that its types allow."""
    return kind(**{name: _value(text, rng) for name, text in kind.get_fields_and_field_types().items()})


def corrupt(message: Any, rng: random.Random) -> Any:
    """A sound message of which one field, or one inside of it, becomes anything; changes it."""
    name, text = rng.choice(list(message.get_fields_and_field_types().items()))
    inner = getattr(message, name)
    if hasattr(inner, "get_fields_and_field_types") and rng.random() < 0.7:
        corrupt(inner, rng)
    else:
        setattr(message, name, _value(text, rng))
    return message


def _value(text: str, rng: random.Random) -> Any:
    if text.startswith("sequence<"):
        inner, *bound = text.removeprefix("sequence<").removesuffix(">").split(", ")
        length = min(rng.choice(LENGTHS), int(bound[0])) if bound else rng.choice(LENGTHS)
        return _items(inner, length, rng)
    if text.endswith("]"):
        inner, length_text = text.removesuffix("]").split("[")
        return _items(inner, int(length_text), rng)
    return _items(text, 1, rng)[0]


def _items(text: str, length: int, rng: random.Random) -> list[Any]:
    if text == "string":
        return [rng.choice(WORDS[: 11 if length > 9 else 12]) for _ in range(length)]
    if text == "boolean":
        return [rng.random() < 0.5 for _ in range(length)]
    if text in ("float", "double"):
        return [rng.choice(NUMBERS) for _ in range(length)]
    if text in ("octet", "byte"):
        return [bytes([rng.randrange(256)]) for _ in range(length)]
    if match := BITS.fullmatch(text):
        bits, signed = int(match[2]), not match[1]
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        return [rng.choice((0, 1, 2, 7, 14, 99, low, high)) for _ in range(length)]
    package, kind = text.split("/")
    return [wild(getattr(import_module(f"{package}.msg"), kind), rng) for _ in range(min(length, 9))]
