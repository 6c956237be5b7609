"""Seeded random scenes: coloured objects and three targets on the table, and the task as a language instruction.

All positions are metres in the robot's base frame (`fr3_link0`; the table top is z = 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "green": (0.10, 0.62, 0.16),
    "blue": (0.10, 0.25, 0.85),
    "yellow": (0.95, 0.80, 0.08),
}
Shape = Literal["cube", "ball", "cylinder", "bar", "rod"]
SHAPES: tuple[Shape, ...] = ("cube", "ball", "cylinder")  # those that scenes are drawn with by default
LONG_SHAPES: tuple[Shape, ...] = (
    "bar",
    "rod",
)  # longer than the fingers open, lying down: the hand turns to grasp them across
TARGETS = ("bowl", "plate", "box")

# Half height above the table, m: where the centre of a resting object lies, and where the fingers grasp it.
REST_HEIGHT = {"cube": 0.022, "ball": 0.025, "cylinder": 0.035, "bar": 0.0175, "rod": 0.016}
GRASP_HEIGHT = {"cube": 0.022, "ball": 0.025, "cylinder": 0.045, "bar": 0.0175, "rod": 0.016}
HALF_LENGTH = {"bar": 0.050, "rod": 0.050}  # m along the object's x axis
FLOOR = 0.01  # height of a target's floor, m
# Distance between the fingers when they hold an object, m.
GRASP_WIDTH = {"cube": 0.044, "ball": 0.050, "cylinder": 0.042, "bar": 0.030, "rod": 0.032}
TARGET_RADIUS = 0.075
ROOM = {"bar": 0.064, "rod": 0.064}  # m around an object's centre that it and the open fingers need; others: 0.048
TILTED = 0.25  # rad: largest yaw of an object that is not long

# The part of the table that is in view of the front camera and in reach with the hand pointing down, m.
AREA_X = (0.36, 0.68)
AREA_Y = (-0.28, 0.28)


def objects_of(shapes: Sequence[str]) -> tuple[str, ...]:
    """The names of all objects of some shapes, one of each colour."""
    return tuple(f"{color} {shape}" for color in COLORS for shape in shapes)


OBJECTS = objects_of(SHAPES)
EVERY_OBJECT = OBJECTS + objects_of(LONG_SHAPES)


def rest_height(name: str) -> float:
    """Height of a resting object's centre over the table, m."""
    return REST_HEIGHT[name.split()[1]]


PREPOSITION = {"bowl": "in", "box": "in", "plate": "on"}
VERBS = ("put", "place", "move")
FLAT = tuple(name for name in OBJECTS if not name.endswith("ball"))  # objects that stand on each other


@dataclass(frozen=True)
class Task:
    """One task: carry `object` to `target`, one of TARGETS or another object to stack it on; None: only lift it."""

    object: str
    target: str | None
    verb: str = "put"

    @property
    def instruction(self) -> str:
        """The instruction in the wording that the model is trained on, lower case, no full stop."""
        if self.target is None:
            return f"pick up the {self.object}"
        return f"{self.verb} the {self.object} {PREPOSITION.get(self.target, 'on')} the {self.target}"

    @property
    def stacks(self) -> bool:
        """Whether the target is another object."""
        return self.target in OBJECTS

    @staticmethod
    def parse(instruction: str) -> Task:
        """Parse an instruction. Raises ValueError, with the sentences that are known, for any other one."""
        for name in EVERY_OBJECT:
            for task in tasks_for(name) + stacking_tasks(name):
                if task.instruction == instruction.strip().lower():
                    return task
        raise ValueError(
            f"cannot judge the instruction {instruction!r}: the workcell knows "
            f"'put|place|move the COLOUR SHAPE in|on the {'|'.join(TARGETS)}', 'pick up the COLOUR SHAPE' and "
            "'put|place|move the COLOUR cube|cylinder on the COLOUR cube|cylinder', with "
            f"{', '.join(COLORS)} and {', '.join(SHAPES + LONG_SHAPES)}"
        )


def tasks_for(name: str) -> list[Task]:
    """The tasks for one object that scenes are drawn with, and that the nano model is trained on."""
    return [Task(name, target, verb) for target in TARGETS for verb in VERBS] + [Task(name, None, "pick up")]


def stacking_tasks(name: str) -> list[Task]:
    """The tasks that stack one object on another. They are only done when asked for: no model of ours learns them."""
    return [Task(name, other, verb) for other in FLAT if other != name for verb in VERBS] if name in FLAT else []


@dataclass(frozen=True)
class Placed:
    """An object or target on the table: name, x and y in m, yaw in rad."""

    name: str
    x: float
    y: float
    yaw: float = 0.0

    @property
    def point(self) -> np.ndarray:
        """Grasp point, or the floor of a target, float [3] m."""
        return np.array([self.x, self.y, GRASP_HEIGHT.get(self.name.split()[-1], FLOOR)])

    @property
    def grasp_yaw(self) -> float:
        """Yaw, rad, of a hand that grasps the object; half a turn more does as well. 0 is the hand's yaw at home."""
        return self.yaw if self.name.split()[-1] in LONG_SHAPES else 0.0


@dataclass(frozen=True)
class Scene:
    """A scene: the objects on the table, the three targets, and one task that is feasible with them."""

    objects: tuple[Placed, ...]
    targets: tuple[Placed, ...]
    task: Task

    def object(self, name: str) -> Placed:
        """The object called `name`. Raises KeyError when it is not on this table."""
        for placed in self.objects + self.targets:
            if placed.name == name:
                return placed
        raise KeyError(f"no {name} on this table; it has {', '.join(o.name for o in self.objects)}")


def _scatter(rng: np.random.Generator, radii: list[float]) -> np.ndarray:
    """Sample centres [n, 2] m in the area so that circles of the given radii do not overlap (rejection sampling)."""
    low, high = np.array([AREA_X[0], AREA_Y[0]]), np.array([AREA_X[1], AREA_Y[1]])
    while True:
        points: list[np.ndarray] = []
        for i, radius in enumerate(radii):
            for _ in range(40):
                point = rng.uniform(low, high)
                if all(np.linalg.norm(point - p) > radius + radii[j] for j, p in enumerate(points)):
                    points.append(point)
                    break
            if len(points) != i + 1:
                break
        else:
            return np.array(points)


def sample_scene(
    seed: int | np.random.Generator,
    distractors: int | None = None,
    instruction: str | None = None,
    shapes: Sequence[str] = SHAPES,
) -> Scene:
    """Sample a scene: one object to move, 3 to 5 distractors (or as many as given), bowl, plate and box.

    With `instruction` the task is that one, and its objects replace the first ones if they are missing. The same seed
    gives the same scene. shapes: of the objects to draw from; a model knows those that its tokenizer has a word for.
    Raises ValueError for an unknown task, or one with an object of another shape.
    """
    rng = np.random.default_rng(seed)
    asked = Task.parse(instruction) if instruction else None
    needed = [] if asked is None else [name for name in (asked.object, asked.target) if name in EVERY_OBJECT]
    if not set(needed) <= set(objects_of(shapes)):
        raise ValueError(f"cannot ask {instruction!r} here: the objects are of the shapes {', '.join(shapes)}")
    count = max(len(needed), 1 + (int(rng.integers(3, 6)) if distractors is None else distractors))
    names = [str(name) for name in rng.permutation(objects_of(shapes))][:count]
    for name in needed:
        if name not in names:
            names[next(i for i, other in enumerate(names) if other not in needed)] = name
    rooms = [ROOM.get(name.split()[1], 0.048) for name in names]
    centres = _scatter(rng, [TARGET_RADIUS + 0.01] * len(TARGETS) + rooms)
    yaws = rng.uniform(-TILTED, TILTED, len(centres))
    yaws[len(TARGETS) :] *= [np.pi / 2 / TILTED if name.split()[1] in LONG_SHAPES else 1.0 for name in names]
    targets = tuple(Placed(t, *map(float, c)) for t, c in zip(TARGETS, centres, strict=False))
    objects = tuple(
        Placed(n, float(c[0]), float(c[1]), float(w)) for n, c, w in zip(names, centres[3:], yaws[3:], strict=True)
    )
    target = None if rng.random() < 0.1 else str(rng.choice(TARGETS))
    task = asked or Task(names[0], target, "pick up" if target is None else str(rng.choice(VERBS)))
    return Scene(objects, targets, task)
