"""Which camera of a dataset is which of ours, by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_WRIST: Final = re.compile(r"wrist|hand|gripper")
_FRONT: Final = ("front", "image", "agentview", "primary", "exterior", "external", "base", "top", "high")
"""Parts of the names of a scene's main camera, in the order in which they are preferred."""


def match_cameras(keys: Sequence[str], wanted: Sequence[str]) -> dict[str, str]:
    """The dataset's image feature for each of our cameras.

    keys: image features of the dataset. wanted: our names, front first; `front=KEY` names the feature as well. Others
    are matched by their names, and a name with `wrist` gets a camera of the hand while there is one. Raises ValueError
    for an unknown feature, one that is wanted twice, and too few of them.
    """
    given = dict(entry.split("=", 1) for entry in wanted if "=" in entry)
    names = [entry.split("=", 1)[0] for entry in wanted]
    if len(set(names)) < len(names) or len(set(given.values())) < len(given):
        raise ValueError(f"--cameras {','.join(wanted)} names a camera twice")
    if unknown := [key for key in given.values() if key not in keys]:
        raise ValueError(f"the dataset has no camera {unknown[0]}; it has {', '.join(keys) or 'none'}")
    if "" in names:
        raise ValueError(f"--cameras {','.join(wanted)} has a camera without a name")
    if not keys:
        raise ValueError("the dataset has no images")
    if len(names) > len(keys):
        raise ValueError(
            f"the dataset has {len(keys)} cameras ({', '.join(keys)}), not {len(names)}; "
            f"give --cameras {','.join(names[: len(keys)])}"
        )
    out = dict(given)
    # Exact names choose first, and cameras of the hand before the others: what is left is for the less certain. Where
    # no name of the dataset tells a camera of the hand, ours takes what the others leave.
    hands = any(map(_on_hand, keys))
    for name in sorted(names, key=lambda name: (name not in map(_short, keys), not (hands and _on_hand(name)))):
        if name not in out:
            free = [key for key in keys if key not in out.values()]
            out[name] = min(free, key=lambda key: _distance(name, key, free))
    return {name: out[name] for name in names}


def _short(key: str) -> str:
    return re.split(r"[./]", key)[-1]


def _on_hand(name: str) -> bool:
    return bool(_WRIST.search(_short(name).lower()))


def _distance(name: str, key: str, keys: Sequence[str]) -> tuple[bool, bool, bool, int, bool, int]:
    """How far a camera of the dataset is from what `name` says, for comparing: less is nearer."""
    short, wanted = _short(key).lower(), name.lower()
    preference = next((k for k, part in enumerate(_FRONT) if part in short), len(_FRONT))
    sides = [side for side in ("left", "right") if side in wanted]
    return (
        short != wanted,
        _on_hand(key) != _on_hand(name),
        any(side not in short for side in sides),
        0 if _on_hand(name) else preference,
        short not in _FRONT,
        keys.index(key),
    )
