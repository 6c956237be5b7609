"""Arrays in JSON, in the form of the Python package json_numpy. They are read strictly, and nothing is unpickled.

An array is {"__numpy__": base64 of its bytes in C order, "dtype": "<f4", "shape": [15, 8]}.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import numpy as np

IMAGE: Final = ("|u1",)
"""dtypes of an image, as numpy's descriptions."""
NUMBERS: Final = ("<f4", "<f8")
"""dtypes of states and actions."""
_KEYS: Final = {"__numpy__", "dtype", "shape"}


class WireError(ValueError):
    """A message that does not follow the protocol. The text is one line that names the field."""


def encode_array(array: np.ndarray) -> dict[str, Any]:
    """An array of numbers [...] as JSON has it."""
    text = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"__numpy__": text, "dtype": array.dtype.str, "shape": list(array.shape)}


def decode_array(value: object, name: str, dtypes: Sequence[str], shape: Sequence[int | None]) -> np.ndarray:
    """The array [...] in a parsed JSON value, of one of `dtypes`, a copy.

    name: of its field, for errors. shape: length of each dimension; None: any, but not 0. Raises WireError for anything
    else, for bytes that do not fill the shape, and for NaN and infinity.
    """
    if not (isinstance(value, dict) and set(value) == _KEYS):
        raise WireError(f"{name} has to be an array in json_numpy's form: __numpy__, dtype, shape")
    text, dtype, lengths = value["__numpy__"], value["dtype"], value["shape"]
    if dtype not in dtypes:
        raise WireError(f"{name} has the dtype {short(dtype)}; give {' or '.join(dtypes)}")
    if not _fits(lengths, shape):
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise WireError(f"{name} has the shape {short(lengths)}; give [{wanted}]")
    try:
        data = base64.b64decode(text if isinstance(text, str) else "?", validate=True)
    except ValueError:
        raise WireError(f"{name} is not base64") from None
    if len(data) != math.prod(lengths) * np.dtype(dtype).itemsize:
        raise WireError(f"{name} holds {len(data)} bytes, which do not fill the shape {short(lengths)}")
    array = np.frombuffer(data, dtype).reshape(lengths).copy()
    if not np.isfinite(array).all():
        raise WireError(f"{name} holds NaN or infinity")
    return array


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`. Raises WireError for anything else, and for JSON that Python alone accepts (NaN)."""
    try:
        found = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise WireError(f"the body is not JSON ({short(error)})") from None
    if not isinstance(found, dict):
        raise WireError(f"the body has to be a JSON object, not {type(found).__name__}")
    return found


def _fits(lengths: object, shape: Sequence[int | None]) -> bool:
    return (
        isinstance(lengths, list)
        and len(lengths) == len(shape)
        and all(type(length) is int and length > 0 for length in lengths)
        and all(want in (None, length) for length, want in zip(lengths, shape, strict=True))
    )


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def short(value: object) -> str:
    """What a message holds, for an error: one line of at most 80 characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else text[:77] + "..."
