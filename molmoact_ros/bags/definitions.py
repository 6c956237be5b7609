"""The message definitions that a bag carries, each topic's by itself: an unreadable one costs that topic alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from molmoact_ros.bags.message_types import Types
from molmoact_ros.bags.storage import StoredTopic

READABLE: Final = ("cdr", "ros1")
"""Encodings of messages that are read."""
_HEADER: Final = "std_msgs/msg/Header"
_IDL: Final = "=" * 80 + "\n"
_Typesdict = dict[str, Any]


class Definitions:
    """Message definitions by topic, from the bag or, where it has none, from here.

    unreadable: for each topic without a definition, its type and why.
    """

    def __init__(self, topics: Iterable[StoredTopic], here: Types) -> None:
        """here: the definitions for topics whose own cannot be read."""
        self._here, self._shared = here, get_typestore(Stores.EMPTY)
        self._stores: dict[str, Typestore] = {}
        self._known: dict[tuple[str, str], Typestore] = {}
        self.unreadable: dict[str, str] = {}
        for topic in topics:
            if topic.encoding in READABLE and topic.name not in self._stores:
                self._add_topic(topic)

    def _add_topic(self, topic: StoredTopic) -> None:
        key = topic.type_name, topic.definition
        try:
            if key not in self._known:
                self._known[key] = self._store(topic)
            self._stores[topic.name] = self._known[key]
        except Exception as error:  # a parser can raise anything
            if self._here.knows(topic.type_name) and topic.encoding == "cdr":
                self._stores[topic.name] = self._here.store
            else:
                self.unreadable[topic.name] = f"{topic.type_name or 'no type'}: {' '.join(str(error).split())[:80]}"

    def _store(self, topic: StoredTopic) -> Typestore:
        """A store with the topic's type. Raises what the parser does, or ValueError, where it cannot be read."""
        if not topic.definition.strip() and (topic.language != "ros2msg" or self._here.knows(topic.type_name)):
            raise ValueError("the bag holds no definition")  # an empty one is that of a type without fields
        types = _parsed(topic)
        for name in [*types]:
            self._complete(types, name)
        store = self._shared
        try:
            store.register(types)
        except TypesysError:  # another version of a type that another topic uses
            store = get_typestore(Stores.EMPTY)
            store.register(types)
        if topic.type_name not in store.fielddefs:
            raise ValueError("its definition is of another type")
        return store

    def _complete(self, types: _Typesdict, name: str) -> None:
        """Add types that a definition uses and does not hold. Raises ValueError where they are unknown here."""
        for _, node in types[name][1]:
            kind, what = node
            while kind in (Nodetype.ARRAY, Nodetype.SEQUENCE):
                kind, what = what[0]
            if kind is Nodetype.NAME and what not in types:
                if not self._here.knows(what):
                    raise ValueError(f"{what} in it is not defined")
                types[what] = self._here.store.fielddefs[what]
                self._complete(types, what)

    def decode(self, topic: str, type_name: str, data: bytes) -> Any:
        """Deserialize CDR. Raises ValueError for an unknown type, in one line, and what rosbags raises for bad data."""
        store = self._stores.get(topic)
        if store is None:
            raise ValueError(f"{type_name} on {topic} is not defined in the bag, nor anywhere here")
        return store.deserialize_cdr(data, type_name)

    def cdr(self, topic: StoredTopic, data: bytes) -> bytes:
        """A message as CDR, whatever encoding the topic has. Raises ValueError for one that is damaged."""
        if topic.encoding == "cdr" or topic.name not in self._stores:
            return data
        try:
            return bytes(self._stores[topic.name].ros1_to_cdr(data, topic.type_name))
        except Exception as error:  # corrupt bytes can raise anything
            raise ValueError(f"a message on {topic.name} is damaged: {error}") from None


def _parsed(topic: StoredTopic) -> _Typesdict:
    """The types that a definition holds."""
    if topic.language in ("ros2msg", "ros1msg"):
        types: _Typesdict = dict(get_types_from_msg(topic.definition, topic.type_name))
        if topic.language == "ros1msg" and _HEADER in types:  # as CDR, it has no number
            constants, fields = types[_HEADER]
            types[_HEADER] = constants, [field for field in fields if field[0] != "seq"]
        return types
    if topic.language in ("ros2idl", "omgidl"):
        if not topic.definition.startswith(f"{_IDL}IDL: "):
            return dict(get_types_from_idl(topic.definition))
        out: _Typesdict = {}
        for part in topic.definition.split(_IDL)[1:]:
            out |= get_types_from_idl(part.partition("\n")[2])
        return out
    raise ValueError(f"definitions in {topic.language or 'no language'} are not read")
