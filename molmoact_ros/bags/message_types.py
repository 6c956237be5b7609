"""Message types by name, without a ROS installation."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore


class Types:
    """Message types by name: those of ROS 2 Jazzy, and those defined in interface folders."""

    def __init__(self, interfaces: Collection[Path] | None = None) -> None:
        """interfaces: folders with `<package>/msg/<Type>.msg`; default: the workspace's and this Python's `share`."""
        self.store: Typestore = get_typestore(Stores.ROS2_JAZZY)
        self._interfaces = _share_folders() if interfaces is None else interfaces

    def knows(self, type_name: str) -> bool:
        """Whether the type is defined."""
        if type_name not in self.store.fielddefs:
            _define_package(self.store, type_name.partition("/")[0], self._interfaces)
        return type_name in self.store.fielddefs

    def __getitem__(self, type_name: str) -> Any:
        """The class of a type. Raises ValueError if it is not defined."""
        if not self.knows(type_name):
            raise ValueError(f"{type_name} is not defined anywhere; source the workspace that holds it")
        return self.store.types[type_name]

    def make(self, type_name: str, **fields: Any) -> Any:
        """Create a message with these fields, the others zero or empty. Raises ValueError if its type is unknown."""
        kind = self[type_name]
        zeros = {name: self._zero(node) for name, node in self.store.fielddefs[type_name][1] if name not in fields}
        return kind(**zeros, **fields)

    def _zero(self, node: Any) -> Any:
        kind, what = node
        if kind is Nodetype.NAME:
            return self.make(what)
        if kind is Nodetype.BASE:
            name = what[0]
            return "" if "string" in name else False if name == "bool" else 0.0 if "float" in name else 0
        (of, inner), count = what
        if of is Nodetype.BASE and "string" not in inner[0]:
            return np.zeros(count if kind is Nodetype.ARRAY else 0, np.dtype(inner[0].replace("octet", "uint8")))
        return [self._zero((of, inner)) for _ in range(count if kind is Nodetype.ARRAY else 0)]

    def encode(self, message: Any) -> bytes:
        """Serialize a message to CDR."""
        return bytes(self.store.serialize_cdr(message, message.__msgtype__))

    def decode(self, data: bytes, type_name: str) -> Any:
        """Deserialize a message from CDR."""
        return self.store.deserialize_cdr(data, type_name)


def definition(type_name: str) -> str:
    """The definition of a message type with all nested types, as ros2msg text. Raises ValueError if it is unknown."""
    types = get_typestore(Stores.ROS2_JAZZY)
    if type_name not in types.fielddefs:
        _define_package(types, type_name.partition("/")[0], _share_folders())
    if type_name not in types.fielddefs:
        raise ValueError(f"{type_name} is not defined anywhere; source the workspace that holds it")
    return types.generate_msgdef(type_name, ros_version=2)[0]


def _share_folders() -> list[Path]:
    prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    return [Path(prefix) / "share" for prefix in (*prefixes, sys.prefix)]


def _define_package(types: Typestore, package: str, interfaces: Collection[Path]) -> None:
    """Register all message types of `package` in `types`, from the first of the `interfaces` folders that holds it."""
    for folder in interfaces:
        files = sorted((folder / package / "msg").glob("*.msg"))
        if files:
            for file in files:
                types.register(get_types_from_msg(file.read_text(encoding="utf-8"), f"{package}/msg/{file.stem}"))
            return
