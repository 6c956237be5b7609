"""Random strokes like those an operator draws on the front image, and the scripted expert that follows them.

They are the training data of trace steering. A stroke determines the gripper's position in the image, not its depth.
The expert moves along the viewing rays through the stroke, at a height that depends on the position only: `TRAVEL`
above the table where the arm reaches it, higher towards the base, lower at the table's near edge, and down a funnel
onto the stroke's end. The fingers stay as they are. It is memoryless, like `Expert`. Pixels are those of the 640x480
front image, positions are metres in `fr3_link0`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from molmoact_ros.reasoning.trace import (
    TRAINING_COLOUR,
    checked_trace,
    draw_training_overlay,
    pixels_from_trace,
    trace_from_pixels,
)
from molmoact_ros.reasoning.trace_progress import lengths_of, point_at
from molmoact_ros.sim.camera_renderer import D435_FRONT, PlacedCamera, sight
from molmoact_ros.sim.scene import AREA_X, AREA_Y, GRASP_HEIGHT
from molmoact_ros.sim.table_workcell import front_pose
from molmoact_ros.training.expert import CHUNK_STEPS, HOVER, MAX_STEP

WIDTH, HEIGHT = D435_FRONT.width, D435_FRONT.height
FRONT = PlacedCamera(*front_pose(), D435_FRONT)  # where the camera is built
METRES = float(np.linalg.norm(FRONT.position - [0.5, 0.0, 0.1])) / D435_FRONT.fx  # one pixel amid the table
STEP_PIXELS = 11.0  # along the stroke in one step: about 0.15 m/s
MAX_DROP = 0.018  # m vertically in one step
TRAVEL = 0.15  # m: travel height of the gripper, where reachable
NEAREST, FARTHEST = 0.36, 0.70  # m along x from the base: range in which the gripper can point down well
LOWEST, HIGHEST = 0.02, 0.36  # m: range of the gripper's height
ON_TABLE, WITH_OBJECT = 0.05, 0.09  # m: height at a stroke's end on nothing, and while holding an object
AIM = 18.0  # pixels: a stroke that ends closer to an object ends on it
SOON = (1, 2, 4, 8)  # steps after which the prompt's last token learns to predict the gripper's position


def heights(pixel: np.ndarray, view: PlacedCamera = FRONT) -> tuple[float, float]:
    """Minimum and maximum height, m, of a gripper that projects to a pixel [2] between `NEAREST` and `FARTHEST`."""
    ray, camera = sight(pixel[None], view.rotation, view.intrinsics)[0], view.position
    low, high = (camera[2] + (x - camera[0]) / min(ray[0], -1e-6) * ray[2] for x in (NEAREST, FARTHEST))
    return float(np.clip(low, LOWEST, HIGHEST)), float(np.clip(high, LOWEST, HIGHEST))


@dataclass(frozen=True)
class Stroke:
    """A drawn line, pixels [n, 2], the gripper's height at its end, m, and the camera on whose image it is drawn."""

    points: np.ndarray
    end_height: float
    view: PlacedCamera = FRONT

    @property
    def length(self) -> float:
        """Arc length, pixels."""
        return float(lengths_of(self.points)[-1])

    def at(self, where: float) -> np.ndarray:
        """The point [2] at arc length `where`, pixels."""
        return point_at(self.points, where)

    def height(self, where: float) -> float:
        """The gripper's height, m, at arc length `where`, pixels."""
        left = max(0.0, (self.length - where) * METRES - 0.007)
        over = min(max(TRAVEL, self.end_height + HOVER), self.end_height + 2.5 * left)
        return float(np.clip(over, *heights(self.at(where), self.view)))

    def windows(self, rows: int, columns: int) -> np.ndarray:
        """The stroke's part in each window of the image, float32 [rows * columns, 5], NaN where it does not pass.

        Columns: its midpoint, (x, y) in 0..1 of the window; its direction (x, y); its arc length, hundreds of pixels.
        """
        ends = lengths_of(self.points)
        along = np.linspace(0.0, ends[-1], max(2, int(ends[-1] / 2)))
        points = np.stack([np.interp(along, ends, self.points[:, axis]) for axis in (0, 1)], axis=1)
        places = points / (WIDTH, HEIGHT) * (columns, rows)
        window = places.astype(int)[:, 1] * columns + places.astype(int)[:, 0]
        way = np.gradient(points, axis=0)
        way /= np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-6)
        shown = np.hstack([places % 1, way, along[:, None] / 100])
        out = np.full((rows * columns, 5), np.nan, np.float32)
        for there in np.unique(window):
            out[there] = shown[window == there].mean(axis=0)
        return out


def follow(stroke: Stroke, tcp: np.ndarray, steps: int = CHUNK_STEPS) -> np.ndarray:
    """The gripper's positions [steps + 1, 3] m when it follows a stroke from `tcp` [3] m near the stroke's start."""
    positions, where = [tcp], 0.0
    for _ in range(steps):
        tcp, where = _advance(stroke, tcp, where)
        positions.append(tcp)
    return np.array(positions)


def _advance(stroke: Stroke, tcp: np.ndarray, where: float) -> tuple[np.ndarray, float]:
    """Advance one step along the stroke within the speed and height limits; it corrects half of the lateral error."""
    off = stroke.view.project(tcp[None])[0] - stroke.at(where)
    most = min(STEP_PIXELS, max(1.5, 0.35 * (stroke.length - where)))
    for share in np.linspace(1.0, 0.0, 11):
        there = min(stroke.length, where + share * most)
        rise = float(np.clip(stroke.height(there) - tcp[2], -MAX_DROP, MAX_DROP))
        move = stroke.view.lift(stroke.at(there) + 0.5 * off, tcp[2] + rise) - tcp
        if np.linalg.norm(move[:2]) <= MAX_STEP:
            return tcp + move, there
    return tcp + move * (MAX_STEP / np.linalg.norm(move[:2])), where


def chunk(stroke: Stroke, tcp: np.ndarray, held: bool) -> np.ndarray:
    """The expert's next actions, float64 [8, 7] as in `ExpertPlan.chunk`."""
    actions = np.zeros((CHUNK_STEPS, 7))
    actions[:, :3] = np.diff(follow(stroke, tcp), axis=0)
    actions[:, 6] = 0.0 if held else 1.0
    return actions


def end_height(end: np.ndarray, objects: dict[str, np.ndarray], held: bool) -> float:
    """The gripper's height, m, at a stroke's end pixel [2]. objects: pixels [2] of the objects on the table."""
    if held:
        return WITH_OBJECT
    near = [name for name, pixel in objects.items() if np.linalg.norm(pixel - end) < AIM]
    if not near:
        return ON_TABLE
    return GRASP_HEIGHT[min(near, key=lambda name: np.linalg.norm(objects[name] - end)).split()[1]]


def draw_stroke(
    hand: np.ndarray, objects: dict[str, np.ndarray], targets: list[np.ndarray], held: bool, rng: np.random.Generator,
    view: PlacedCamera = FRONT,
) -> Stroke:  # fmt: skip
    """A random stroke's remainder for a gripper at the pixel `hand` [2] of `view`, or slightly off the stroke.

    objects, targets: pixels [2] of those on the table.
    """
    side = rng.normal(0, 5.0, 2) if rng.random() < 0.8 else rng.normal(0, 15.0, 2)
    begin = hand + side
    end = _end(hand, list(objects.values()), targets, rng)
    points = np.vstack([begin, *_between(begin, end, rng), end])
    points = np.clip(points, 0, (WIDTH - 1, HEIGHT - 1))
    drawn = pixels_from_trace(trace_from_pixels(points, WIDTH, HEIGHT), WIDTH, HEIGHT).astype(float)
    # The remainder of a trace begins at its point nearest to the gripper.
    first = drawn[1] - drawn[0]
    along = float(np.clip(first @ (hand - drawn[0]) / max(1e-9, first @ first), 0, 0.9))
    drawn[0] = np.round(drawn[0] + along * first)
    return Stroke(drawn, end_height(drawn[-1], objects, held), view)


def _end(
    hand: np.ndarray, objects: list[np.ndarray], targets: list[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    kind = rng.random()
    if kind < 0.45 and objects:
        near = min(objects, key=lambda pixel: np.linalg.norm(pixel - hand))
        return (near if rng.random() < 0.3 else objects[rng.integers(len(objects))]) + rng.normal(0, 3.0, 2)
    if kind < 0.6 and targets:
        return targets[rng.integers(len(targets))] + rng.normal(0, 4.0, 2)
    if kind < 0.75:
        return hand + rng.normal(0, 45.0, 2)
    return _anywhere(rng)


def _anywhere(rng: np.random.Generator) -> np.ndarray:
    height = rng.choice([ON_TABLE, TRAVEL, rng.uniform(0.05, 0.32)])
    return FRONT.project(np.array([[rng.uniform(*AREA_X), rng.uniform(*AREA_Y), height]]))[0]


def _between(begin: np.ndarray, end: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Up to three intermediate points: none, detours, or points of a bow."""
    kind, way = rng.random(), end - begin
    aside = np.array([-way[1], way[0]])
    if kind < 0.3:
        return []
    if kind < 0.5:  # a corner near the gripper: the remainder of a longer stroke
        angle = rng.uniform(0, 2 * np.pi)
        return [begin + rng.uniform(4, 90) * np.array([np.cos(angle), np.sin(angle)])]
    if kind < 0.7:
        return [_anywhere(rng) for _ in range(rng.integers(1, 4))]
    bend = rng.normal(0, 0.3)
    shape = np.sin(np.linspace(0, np.pi, 5) * rng.choice([1, 2]))
    return [begin + t * way + bend * b * aside for t, b in zip((0.25, 0.5, 0.75), shape[1:4], strict=True)]


def overlay(view: np.ndarray, trace: np.ndarray) -> np.ndarray:
    """A downscaled front view, float32 [rows, columns, 3] in 0..255, with `trace`, int [n, 2] in 0..255, as if drawn on
    the camera image.

    The camera image is not stored. But drawing blends each pixel with the line's colour by some alpha, and area
    averaging is linear. So only the alpha is drawn and averaged. This is exact where the camera image is uniform within
    one downscaled pixel.
    """
    white = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    drawn = draw_training_overlay(white, checked_trace(trace))[..., 0]  # the colour has no red: missing red is line
    share = 1 - cv2.resize(drawn.astype(np.float32), view.shape[1::-1], interpolation=cv2.INTER_AREA)[..., None] / 255
    return view * (1 - share) + np.array(TRAINING_COLOUR, np.float32) * share
