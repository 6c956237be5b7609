"""What LIBERO-Object and -Spatial ask for: which thing goes where, in words, and which other things a scene offers.

Each suite has ten tasks of one kind, "pick up the THING and place it in|on the TARGET". A scene of LIBERO-Object has
six of the suite's things; one of LIBERO-Spatial has two equal bowls, and words say by its place which is meant. So most
states can be labelled for several instructions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from molmoact_ros.sim.libero_suite import LiberoTask

_TASK: Final = re.compile(r"pick up the (?P<thing>.+) and place it (?P<relation>in|on) the (?P<target>\w+)")
_OBJECTS: Final = re.compile(r"\(:objects\s(.*?)\)", re.DOTALL)
_PLACES: Final = re.compile(r"\((?:On|In)\s+(\S+)\s+(\S+)\)")
_GOAL: Final = re.compile(r"\(:goal\s+\(And\s+\((\S+)\s+(\S+)\s+(\S+)\)\)\s*\)")
WORDS: Final = ("pick", "up", "grab", "lift", "take", "the", "and", "place", "put", "set", "it", "in", "into", "on")
"""All words of the instructions, beside the names of things and targets, which are one token each."""
ASKING: Final = (
    ("pick up", "grab", "lift", "take", "pick"), ("the ", ""), ("place", "put", "set"), ("it ", ""), ("the ", ""),
)  # fmt: skip
REWORDED: Final = 0.3
"""Share of the instructions that are worded in another way than LIBERO's."""


@dataclass(frozen=True)
class LiberoErrand:
    """One thing to be brought to one place. thing, target: their names in words. goal: as in `LiberoCell.goals`."""

    thing: str
    target: str
    goal: tuple[str, str, str]

    @property
    def instruction(self) -> str:
        """In LIBERO's words."""
        return f"pick up the {self.thing} and place it {self.goal[0]} the {self.target}"

    def reworded(self, rng: np.random.Generator) -> str:
        """In a random combination of the words that are known."""
        verb, the, puts, it, that = (str(rng.choice(words)) for words in ASKING)
        where = str(rng.choice(("in", "into"))) if self.goal[0] == "in" else "on"
        return f"{verb} {the}{self.thing} and {puts} {it}{where} {that}{self.target}"


@dataclass(frozen=True)
class LiberoScene:
    """What a task's file says. kinds: kind of each object. places: where each object begins. goal: see LiberoErrand."""

    kinds: dict[str, str]
    places: dict[str, str]
    goal: tuple[str, str, str]


def read_scene(bddl: Path) -> LiberoScene:
    """Read a task's file. Raises ValueError, in one line, for a goal that is not one thing in or on another."""
    text = bddl.read_text()
    begin, _, rest = text.partition("(:init")
    init, _, _ = rest.partition("(:goal")
    objects, goal = _OBJECTS.search(begin), _GOAL.search(text)
    if objects is None or goal is None or goal[1].lower() not in ("in", "on"):
        raise ValueError(f"{bddl} has no objects, or its goal is not one thing in or on another")
    groups = re.findall(r"((?:\S+\s+)+?)-\s+(\S+)", objects[1])
    kinds = {name: kind for names, kind in groups for name in names.split()}
    return LiberoScene(kinds, dict(_PLACES.findall(init)), (goal[1].lower(), goal[2], goal[3]))


class ErrandBook:
    """The errands that scenes of some tasks offer, and the names of all things.

    Example:
        book = ErrandBook(read_suite("libero_spatial"))
        first, *others = book.errands(book.tasks[0])  # its own, and those for other things in its scene

    Raises ValueError, in one line, for a task that asks for something of another kind.
    """

    def __init__(self, tasks: Sequence[LiberoTask]) -> None:
        self.tasks = list(tasks)
        self._scenes = {task.bddl: read_scene(task.bddl) for task in tasks}
        self._named: dict[tuple[str, str], str] = {}  # a thing's kind and place, to its name
        self._own: dict[Path, LiberoErrand] = {}
        for task in tasks:
            asked, scene = _TASK.fullmatch(task.instruction), self._scenes[task.bddl]
            if asked is None:
                raise ValueError(f"{task.instruction!r} is none of the errands that are known")
            self._named[self._place(scene, scene.goal[1])] = asked["thing"]
            self._own[task.bddl] = LiberoErrand(asked["thing"], asked["target"], scene.goal)

    def _place(self, scene: LiberoScene, name: str) -> tuple[str, str]:
        """What names an object: its kind, and its place where a scene has several of that kind."""
        kind = scene.kinds[name]
        several = list(scene.kinds.values()).count(kind) > 1
        return kind, scene.places[name] if several else ""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all things and targets, in alphabetical order."""
        errands = self._own.values()
        return tuple(sorted({errand.thing for errand in errands} | {errand.target for errand in errands}))

    def errands(self, task: LiberoTask) -> list[LiberoErrand]:
        """The task's own errand first, then those for other things in its scene, to the same target."""
        own, scene = self._own[task.bddl], self._scenes[task.bddl]
        relation, _, target = own.goal
        others = {name: self._named.get(self._place(scene, name)) for name in scene.kinds if name != own.goal[1]}
        return [own] + [
            LiberoErrand(thing, own.target, (relation, name, target)) for name, thing in others.items() if thing
        ]
