"""Demonstrations: states labelled by the scripted expert, sampled in parallel and stored as plain arrays.

Each sample is one state of a random scene: two camera images, the instruction, the front camera's depth, the future
path of the gripper (trace) and the next action chunk. States are sampled along and around the expert's path, also with
the gripper off course, the fingers closed on nothing or the task already done, so that the model learns to recover.
Each state is labelled for several instructions, so that the instruction, not a prior, determines the actions.
Scene seeds for training start at TRAIN_SEED; evaluation uses seeds below it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from molmoact_ros.reasoning.trace import trace_from_pixels
from molmoact_ros.sim.appearance import Appearance, draw_appearance
from molmoact_ros.sim.camera_renderer import D435_FRONT, PlacedCamera
from molmoact_ros.sim.scene import (
    AREA_X,
    AREA_Y,
    EVERY_OBJECT,
    GRASP_HEIGHT,
    GRASP_WIDTH,
    LONG_SHAPES,
    SHAPES,
    TARGETS,
    Scene,
    Task,
    sample_scene,
    tasks_for,
)
from molmoact_ros.sim.table_workcell import ARM_JOINTS, HOME_Q, Workcell
from molmoact_ros.training.expert import OPEN, Expert, ExpertPhase, ExpertPlan, nearest_turn
from molmoact_ros.training.model_views import model_views
from molmoact_ros.training.part_files import make_parts
from molmoact_ros.training.trace_augmentation import FRONT, HEIGHT, ON_TABLE, WIDTH, Stroke
from molmoact_ros.utils.progress import Progress, ignore

TRAIN_SEED = 1_000_000
PART = 2000  # samples per file
LOWEST = 0.014  # m: minimum height of the finger tips above the table
ASKED = 4  # instructions per state
VIEW = (96, 128)  # rows, columns of the nano model's input images
THINGS = EVERY_OBJECT + TARGETS
ARRAYS = ("images", "depth", "trace", "actions", "things", "places", "hand", "held", "camera")
"""What each sample has one row of, beside its instructions."""

# Probability of each kind of state.
MOMENTS = {
    "approach": 0.26, "near": 0.15, "low": 0.09, "grasp": 0.06, "miss": 0.04,
    "carry": 0.13, "place": 0.05, "done": 0.04, "stroke": 0.18,
}  # fmt: skip


@dataclass
class Demonstrations:
    """Arrays of n samples. `instructions` are indices into `texts`.

    images: uint8 [n, 2, rows, columns, 3] RGB. depth: float16 [n, 80, 80] m (0 invalid). instructions: int64
    [n, ASKED]. trace: uint8 [n, ASKED, 3, 2]. actions: float32 [n, ASKED, 8, 7], of the workcell in m and rad, and the
    gripper. things: float32 [n, T, 3] m, position of each of `names` in the base frame. places: float32 [n, T, 2], its
    position in the front view, (x, y) in 0..1. Both are NaN for an object that is not in the scene. hand: float32
    [n, 3] m, gripper position in the base frame. held: int64 [n], index in `names` of the held object (-1: none).
    camera: float32 [n, 13], the front camera: position, m; rotation, row by row, as in `PlacedCamera`; focal length,
    pixels; NaN where no strokes can be drawn. names: of the T things that instructions name; of the workcell THINGS.
    """

    images: np.ndarray
    depth: np.ndarray
    trace: np.ndarray
    actions: np.ndarray
    things: np.ndarray
    places: np.ndarray
    hand: np.ndarray
    held: np.ndarray
    camera: np.ndarray
    instructions: np.ndarray
    texts: list[str]
    names: tuple[str, ...] = THINGS

    def view(self, i: int) -> PlacedCamera:
        """The front camera of sample i."""
        position, rotation, focal = np.split(self.camera[i].astype(float), [3, 12])
        return PlacedCamera(position, rotation.reshape(3, 3), replace(D435_FRONT, fx=focal[0], fy=focal[0]))

    def save(self, path: Path) -> None:
        """Write one uncompressed .npz."""
        np.savez(path, **{**vars(self), "texts": np.array(self.texts), "names": np.array(self.names)})

    @staticmethod
    def load(paths: list[Path]) -> Demonstrations:
        """Load and concatenate the files written by several workers."""
        parts = [np.load(path) for path in sorted(paths)]
        texts = sorted({str(t) for part in parts for t in part["texts"]})
        index = {t: i for i, t in enumerate(texts)}
        instructions = [np.array([index[str(t)] for t in p["texts"]])[p["instructions"]] for p in parts]
        arrays = {name: _joined(parts, name) for name in ARRAYS}
        names = tuple(map(str, parts[0]["names"])) if "names" in parts[0] else THINGS
        return Demonstrations(**arrays, instructions=np.concatenate(instructions), texts=texts, names=names)


def _joined(parts: Sequence[Mapping[str, np.ndarray]], name: str) -> np.ndarray:
    """One array of all parts, of which only one is in memory beside the result: all of them are gigabytes."""
    counts = [len(part["held"]) for part in parts]
    first = parts[0][name]
    whole = np.empty((sum(counts), *first.shape[1:]), first.dtype)
    for part, end, count in zip(parts, np.cumsum(counts), counts, strict=True):
        whole[end - count : end] = part[name]
    return whole


class HandPoser:
    """Inverse kinematics by damped least squares for a gripper that points down with a small tilt."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self.model, self.data = model, mujoco.MjData(model)
        self.site = model.site("fr3_hand_tcp").id

    def solve(self, position: np.ndarray, tilt: np.ndarray, yaw: float = 0.0) -> np.ndarray | None:
        """Joint positions [7] rad for a TCP position [3] m and a rotation vector [3] rad from straight down.

        yaw: of the hand about the base's z, rad; 0: as at home. None if the pose is out of reach.
        """
        down, wanted = np.array([0.0, np.cos(yaw / 2), np.sin(yaw / 2), 0.0]), np.zeros(4)
        mujoco.mju_mulQuat(wanted, _rotation(tilt), down)
        near = HOME_Q - yaw * np.eye(ARM_JOINTS)[-1]  # the last joint turns the hand
        q = near.copy()
        jacobian, rotation = np.zeros((3, self.model.nv)), np.zeros((3, self.model.nv))
        actual, error = np.zeros(4), np.zeros(6)
        for _ in range(30):
            self.data.qpos[:ARM_JOINTS] = q
            mujoco.mj_kinematics(self.model, self.data)
            mujoco.mj_comPos(self.model, self.data)
            mujoco.mju_mat2Quat(actual, self.data.site_xmat[self.site])
            error[:3] = position - self.data.site_xpos[self.site]
            mujoco.mju_subQuat(error[3:], wanted, actual)
            error[3:] = self.data.site_xmat[self.site].reshape(3, 3) @ error[3:]
            if np.linalg.norm(error) < 1e-3:
                return q
            mujoco.mj_jacSite(self.model, self.data, jacobian, rotation, self.site)
            j = np.vstack([jacobian, rotation])[:, :ARM_JOINTS]
            pull = 0.05 * (near - q)
            inverse = j.T @ np.linalg.inv(j @ j.T + 1e-4 * np.eye(6))
            q = np.clip(
                q + inverse @ error + pull - inverse @ (j @ pull),
                self.model.jnt_range[:ARM_JOINTS, 0],
                self.model.jnt_range[:ARM_JOINTS, 1],
            )
        return None


def _rotation(vector: np.ndarray) -> np.ndarray:
    angle = float(np.linalg.norm(vector))
    quaternion = np.zeros(4)
    mujoco.mju_axisAngle2Quat(quaternion, vector / max(angle, 1e-9), angle)
    return quaternion


def sample_state(scene: Scene, rng: np.random.Generator) -> ExpertPhase:
    """Sample one state of the task: positions of gripper, fingers and object."""
    placed = scene.object(scene.task.object)
    shape = placed.name.split()[1]
    grasp, width = GRASP_HEIGHT[shape], GRASP_WIDTH[shape]
    thing = np.array([placed.x, placed.y, grasp])
    names, odds = zip(*MOMENTS.items(), strict=True)
    moment = str(rng.choice(names, p=odds))
    anywhere = np.array([rng.uniform(*AREA_X), rng.uniform(*AREA_Y), rng.uniform(0.10, 0.32)])
    if moment == "approach":
        if rng.random() < 0.3:  # on the straight line from the start of episodes
            start = np.array([0.42, 0.0, 0.25])
            anywhere = start + rng.uniform() * (thing + [0, 0, 0.1] - start) + rng.normal(0, 0.015, 3)
        return ExpertPhase(anywhere, OPEN, thing, held=False)
    if moment == "stroke":
        hand = _on_a_stroke(scene, rng)
        held = rng.random() < 0.25
        return ExpertPhase(hand, width if held else OPEN, hand if held else thing, held)
    if moment in ("near", "low"):
        radius = rng.uniform(0.0, 0.05 if moment == "near" else 0.10)
        angle = rng.uniform(0, 2 * np.pi)
        # Near the descent path, or too low for its lateral offset. Without the latter states, a low gripper would imply
        # that the object is between the fingers.
        funnel = rng.uniform(0, 0.02) + rng.uniform(0.5, 1.2) * 2.5 * radius
        height = funnel if moment == "near" else rng.uniform(-0.02, 0.06)
        beside = thing + [radius * np.cos(angle), radius * np.sin(angle), height]
        return ExpertPhase(beside, OPEN, thing, held=False)
    error = np.array([*rng.uniform(-0.010, 0.010, 2), rng.uniform(-0.008, 0.019)])
    if moment == "grasp":
        return ExpertPhase(thing + error, float(rng.uniform(width, OPEN)), thing, held=False)
    if moment == "miss":
        missed = thing + rng.normal(0, 0.04, 3) if rng.random() < 0.6 else anywhere - [0, 0, rng.uniform(0, 0.2)]
        between = np.linalg.norm(missed[:2] - thing[:2]) < 0.04 and missed[2] < grasp + 0.04  # not a miss there
        return ExpertPhase(missed, OPEN if between else float(rng.uniform(0, 0.05)), thing, held=False)
    goal = None if scene.task.target is None else scene.object(scene.task.target)
    over = thing if goal is None else np.array([goal.x, goal.y, 0.0])
    if moment == "done" and goal is not None:
        tcp = np.array([over[0], over[1], grasp + rng.uniform(0.04, 0.16)]) + rng.normal(0, 0.012, 3)
        return ExpertPhase(
            tcp, float(rng.uniform(width + 0.01, OPEN)), over + [0, 0, grasp], held=False, delivered=True
        )
    if moment == "place":
        radius = rng.uniform(0, 0.06)
        angle = rng.uniform(0, 2 * np.pi)
        offset = [radius * np.cos(angle), radius * np.sin(angle), grasp + 0.03 + 2 * radius + rng.uniform(0, 0.04)]
        hand = over + offset
    elif rng.random() < 0.4:  # just grasped, lifting
        hand = thing + [0, 0, rng.uniform(0, 0.12)]
    else:
        hand = np.array([*anywhere[:2], rng.uniform(grasp + 0.01, 0.24)])
    return ExpertPhase(hand, width, hand - error, held=True)


def turned(state: ExpertPhase, scene: Scene, rng: np.random.Generator) -> ExpertPhase:
    """The same state with a yaw of the hand: near the object's when at the object, on the way to it elsewhere."""
    grasp_yaw = scene.object(scene.task.object).grasp_yaw
    at_object = state.held or state.delivered or np.linalg.norm(state.tcp - state.object) < 0.07
    share = 1.0 if at_object else rng.uniform()
    spread = 0.04 if state.held else 0.08 if rng.random() < 0.7 else 0.5
    yaw = nearest_turn(share * nearest_turn(grasp_yaw) + rng.normal(0, spread))
    return replace(state, yaw=yaw, grasp_yaw=grasp_yaw)


def _on_a_stroke(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A gripper position [3] m near those that occur when following a stroke to a point or object on the table."""
    things = [placed.point for placed in scene.objects + scene.targets]
    anywhere = np.array([rng.uniform(*AREA_X), rng.uniform(*AREA_Y), ON_TABLE])
    end = FRONT.project(np.stack([*things, anywhere]))[rng.integers(len(things) + 1)]
    angle, left = rng.uniform(0, 2 * np.pi), rng.uniform(0, 160) * rng.random()
    begin = np.clip(end + left * np.array([np.cos(angle), np.sin(angle)]), 0, (WIDTH - 1, HEIGHT - 1))
    height = Stroke(np.stack([begin, end]), GRASP_HEIGHT["ball"]).height(0.0)
    return FRONT.lift(begin, max(LOWEST, height + rng.normal(0, 0.012)))


def other_tasks(scene: Scene, state: ExpertPhase, rng: np.random.Generator) -> list[Task]:
    """ASKED - 1 more tasks that make sense in this state: another target while carrying, else mostly other objects."""
    own = scene.task.object
    names = [own] if state.held else [o.name for o in scene.objects if o.name != own or not state.delivered]
    choices = [task for name in names for task in tasks_for(name) if task != scene.task]
    different = [t for t in choices if t.object != own]
    pool = different if different and rng.random() < 0.8 else choices
    return [pool[i] for i in rng.choice(len(pool), ASKED - 1, replace=False)]


def about(scene: Scene, state: ExpertPhase, task: Task) -> ExpertPhase:
    """The same state from the view of a task that may concern another object."""
    if task.object == scene.task.object:
        return state
    placed = scene.object(task.object)
    return replace(state, object=placed.point, held=False, delivered=False, grasp_yaw=placed.grasp_yaw)


def things_in(scene: Scene, state: ExpertPhase) -> np.ndarray:
    """The position of each of THINGS in this state, float32 [23, 3] m as in `Demonstrations`."""
    out = np.full((len(THINGS), 3), np.nan, np.float32)
    for placed in scene.objects + scene.targets:
        out[THINGS.index(placed.name)] = state.object if placed.name == scene.task.object else placed.point
    return out


class Sampler:
    """Samples labelled states in its own workcell.

    robot: the arm's MJCF file. varied: share of the samples with a drawn appearance (`draw_appearance`); the others
    look as the workcell is built. shapes: of the objects in its scenes; with LONG_SHAPES the hand is turned as well.
    kind: of the arrays that its rows are of.
    """

    kind: type[Any] = Demonstrations

    def __init__(self, robot: Path, varied: float = 0.0, shapes: Sequence[str] = SHAPES) -> None:
        self.cell, self.varied = Workcell(robot, shapes=shapes), varied
        self.poser = HandPoser(self.cell.model)

    def sample(self, seed: int) -> tuple[dict[str, np.ndarray], list[str]]:
        """One sample: a row of each array of `Demonstrations`, by name, and its instructions [ASKED]."""
        scene, state, q, rng = self.moment(seed)
        self.cell.dress(self.appearance(seed))
        self.pose(scene, state, q)
        traces, actions, texts = self.labels(scene, state, rng)
        held = scene.task.object if state.held else None
        return self.row(things_in(scene, state), state.tcp, held, traces, actions), texts

    def row(
        self, things: np.ndarray, hand: np.ndarray, held: str | None, traces: np.ndarray, actions: np.ndarray
    ) -> dict[str, np.ndarray]:
        """A row of each array of `Demonstrations`, by name: what the cameras show now, and the labels, as there: things
        [23, 3], hand [3], traces [ASKED, 3, 2] and actions [ASKED, 8, 7]."""
        images, depth = self._look()
        return {
            "images": images, "depth": depth, "trace": traces, "actions": actions, "things": things,
            "places": self._places(things), "hand": hand.astype(np.float32),
            "held": np.array(-1 if held is None else THINGS.index(held)), "camera": self._camera(),
        }  # fmt: skip

    def moment(self, seed: int) -> tuple[Scene, ExpertPhase, np.ndarray, np.random.Generator]:
        """The scene, state and joint positions [7] rad of a seed, and the generator for further sampling."""
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng, shapes=self.cell.shapes)
        turns = any(shape in LONG_SHAPES for shape in self.cell.shapes)
        while True:
            state = sample_state(scene, rng)
            state = replace(state, tcp=np.maximum(state.tcp, [-np.inf, -np.inf, LOWEST]))
            state = turned(state, scene, rng) if turns else state
            q = self.poser.solve(state.tcp, rng.normal(0, 0.02, 3), state.yaw)
            if q is not None:
                return scene, state, q, rng

    def appearance(self, seed: int) -> Appearance | None:
        """How the sample of a seed looks; None: as the workcell is built."""
        rng = np.random.default_rng((seed, 7))
        return draw_appearance(rng, self.cell.objects) if rng.random() < self.varied else None

    def labels(
        self, scene: Scene, state: ExpertPhase, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """The expert's labels in this state for the scene's own task and for others.

        Returns traces uint8 [ASKED, 3, 2], actions float32 [ASKED, 8, 7] and the instructions.
        """
        tasks = [scene.task, *other_tasks(scene, state, rng)]
        return self.labels_of(scene, [(task, about(scene, state, task)) for task in tasks])

    def labels_of(
        self, scene: Scene, asked: Sequence[tuple[Task, ExpertPhase]]
    ) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """The expert's labels for n tasks, each with its state: traces [n, 3, 2], actions [n, 8, 7], instructions."""
        plans = [Expert(replace(scene, task=task)).plan(state) for task, state in asked]
        traces, actions = [self._trace(plan) for plan in plans], [plan.chunk() for plan in plans]
        return np.stack(traces), np.stack(actions).astype(np.float32), [task.instruction for task, _ in asked]

    def pose(self, scene: Scene, state: ExpertPhase, q: np.ndarray) -> None:
        """Set the workcell to a state of a scene, the arm at `q` [7] rad, to be rendered."""
        self.cell.reset(scene, q, state.opening)
        if state.held or state.delivered:
            lift = GRASP_HEIGHT[scene.task.object.split()[1]] - self.cell.rest_height(scene.task.object)
            self.cell.place(scene.task.object, state.object - [0, 0, lift], state.grasp_yaw)
        self.cell.pose_kinematically(q, state.opening)

    def _look(self) -> tuple[np.ndarray, np.ndarray]:
        front, depth = self.cell.render("front")
        return model_views(front, self.cell.render("wrist")[0], depth, VIEW)

    def _places(self, things: np.ndarray) -> np.ndarray:
        k = self.cell.cameras["front"]
        return (self.cell.project(things) / (k.width, k.height)).astype(np.float32)

    def _camera(self) -> np.ndarray:
        position, rotation = self.cell.camera_pose("front")
        return np.array([*position, *rotation.ravel(), self.cell.cameras["front"].fx], np.float32)

    def _trace(self, plan: ExpertPlan) -> np.ndarray:
        k = self.cell.cameras["front"]
        pixels = self.cell.project(plan.trace())
        return trace_from_pixels(pixels, k.width, k.height).astype(np.uint8)


def collect_all(
    robot: Path, folder: Path, count: int, workers: int, varied: float = 0.0, shapes: Sequence[str] = SHAPES,
    done: Progress = ignore, sampler: type[Sampler] = Sampler,
) -> list[Path]:  # fmt: skip
    """Sample `count` states into files of PART in `folder` with `workers` processes; existing files are kept.

    varied, shapes: as in `Sampler`. done: called after each file with how many there are.
    """
    jobs = {}
    for first in range(0, count, PART):
        part = folder / f"part{first // PART:03d}.npz"
        jobs[part] = robot, TRAIN_SEED + first, min(PART, count - first), part, varied, shapes, sampler
    return make_parts(collect, jobs, workers, done)


def collect(
    robot: Path, first_seed: int, count: int, out: Path, varied: float = 0.0, shapes: Sequence[str] = SHAPES,
    sampler: type[Sampler] = Sampler,
) -> None:  # fmt: skip
    """Sample `count` states with seeds from `first_seed` on and save them to `out`. varied, shapes: as in `Sampler`."""
    samples = sampler(robot, varied, shapes)
    save_rows([samples.sample(first_seed + i) for i in range(count)], out, sampler.kind)


def save_rows(
    samples: Sequence[tuple[dict[str, np.ndarray], list[str]]], out: Path, kind: Callable[..., Any] = Demonstrations
) -> None:  # fmt: skip
    """Save rows, each with its instructions [ASKED], as a file that is whole or not there.

    kind: makes `Demonstrations`, or a kind of them, of the rows' arrays by name, instructions and texts.
    """
    rows, texts = zip(*samples, strict=True)
    names = sorted({t for asked in texts for t in asked})
    index = {t: i for i, t in enumerate(names)}
    instructions = np.array([[index[t] for t in asked] for asked in texts])
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    whole = kind(**arrays, instructions=instructions, texts=names)
    unfinished = out.with_name(f"unfinished-{out.name}")
    whole.save(unfinished)
    unfinished.rename(out)
