"""The scripted expert for LIBERO's pick-and-place tasks, from the simulator's ground truth.

It grasps from above: across a thing's narrow side, or at a bowl's rim. It is memoryless: its inputs depend on the state
only, so that any state can be labelled. Positions are metres in LIBERO's world; inputs are those of OSC_POSE
(control/osc_pose.py), and a plan is rolled out with that controller's equations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.control.osc_pose import UNIT_M, UNIT_RAD, hand_motion
from molmoact_ros.sim.libero_cell import LiberoCell

CHUNK_STEPS: Final = 8
GAIN: Final = 1.3  # of the way left, in one input: the hand then moves like a spring of damping ratio 0.9
WIDEST: Final = 0.066  # m that the open fingers, 0.08 m apart, go around
TIP: Final = 0.0105  # m from the tool centre point to the finger tips
DEEP: Final = 0.024  # m of the fingers that a thing may reach up between
RIM_DEPTH: Final = 0.012  # m below a rim at which it is grasped
FINGER: Final = np.linspace(0.037, 0.060, 5)  # m from the tool centre point along an open finger's thickness
SHIFTS: Final = (0.0, 0.012, 0.024)  # m from a rim's wall that the hand may be, where it is narrow outside of it
PALM: Final = 0.10  # m from the tool centre point to the side of the hand, along the fingers' motion
PALM_HEIGHT: Final = 0.031  # m from the tool centre point up to the hand
ALIGNED: Final = 0.005  # m from the grasp at which the fingers start to close
AROUND: Final = 0.03  # m from it within which they go on closing
TURNED: Final = 0.12  # rad of yaw within which the hand is aligned
STEEP: Final = 8.0  # slope of the funnel down to a goal
CLEARANCE: Final = 0.025  # m that what moves keeps above what stands
OPEN: Final = 0.08  # m between the open fingers
FINGER_STEP: Final = 0.01  # m of commanded opening in one step
FINGER_LAG: Final = 0.43  # share of the way to their command that the fingers go in one step
MISSED: Final = 0.002  # m: fingers that are closed this far hold nothing
PRESSED: Final = 0.012  # m: the fingers' command once they press
RETREAT: Final = 0.15  # m above its place to which the hand rises from what it has released
MOST_STEPS: Final = 300


@dataclass(frozen=True)
class GraspState:
    """What the expert acts on.

    tcp: position [3] m; rotation: [3, 3]; twist: [6] m/s and rad/s of the tool centre point. opening, command: m
    between the fingers, and what their servos are at. object: position [3] m, and turn: rotation [3, 3] of the object.
    held: whether both fingers touch it.
    """

    tcp: np.ndarray
    rotation: np.ndarray
    twist: np.ndarray
    opening: float
    command: float
    object: np.ndarray
    turn: np.ndarray
    held: bool


@dataclass(frozen=True)
class Grasp:
    """Where to grasp an object, in its own frame.

    point: the tool centre point [3] m; axis: [3], along which the fingers close; width: m between the fingers then;
    shift: m by which that pulls the object.
    """

    point: np.ndarray
    axis: np.ndarray
    width: float
    shift: float = 0.0


@dataclass(frozen=True)
class Place:
    """Where an object is released: its position's x and y, and the height of its lowest point, m. within: tolerance of
    x and y, m."""

    x: float
    y: float
    bottom: float
    within: float


@dataclass(frozen=True)
class LiberoPlan:
    """The expert's motion from now on: inputs float64 [n, 7], and positions [n + 1, 3] m of the tool centre point."""

    inputs: np.ndarray
    positions: np.ndarray

    def chunk(self) -> np.ndarray:
        """The next inputs, float64 [8, 7]."""
        return self.inputs[:CHUNK_STEPS]


class LiberoExpert:
    """The expert for one task of LIBERO.

    expert = LiberoExpert(cell)  # after cell.reset(trial)
    cell.step(expert.plan(expert.observe()).chunk()[0])

    """

    def __init__(self, cell: LiberoCell, goal: Sequence[str] | None = None) -> None:
        """goal: relation, object and target, as in `LiberoCell.goals`; None: the task's own.

        Raises ValueError for a task that is not one object in or on another.
        """
        goals = cell.goals if goal is None else [list(goal)]
        if len(goals) != 1 or goals[0][0] not in ("in", "on"):
            raise ValueError(f"the scripted expert knows only one object in or on another, not {goals}")
        self._cell, (relation, self.name, target) = cell, goals[0]
        self._inside, self.target = relation == "in", target.removesuffix("_contain_region")
        position, turn = cell.body_pose(self.name)
        points = cell.points(self.name)
        hand = closing_axis(cell.tcp[1])
        world = choose_grasp(points, hand, lambda x, y: cell.top(x, y, [self.name]))
        self.grasp = replace(world, point=turn.T @ (world.point - position), axis=turn.T @ world.axis)
        self._cloud = (points - position) @ turn  # in the object's frame

    def observe(self) -> GraspState:
        """The state of the cell now."""
        cell = self._cell
        (tcp, rotation), (position, turn) = cell.tcp, cell.body_pose(self.name)
        held = cell.is_held(self.name)
        return GraspState(
            tcp, rotation, cell.twist, cell.opening, cell.commanded_opening, position, turn, held
        )  # fmt: skip

    def place(self) -> Place:
        """Where the object goes, as things stand now."""
        points = self._cell.points(self.target)
        middle, top = (points.min(axis=0) + points.max(axis=0)) / 2, float(points[:, 2].max())
        if self._inside:
            return Place(middle[0], middle[1], top - 0.06, 0.03)
        return Place(middle[0], middle[1], top + 0.004, 0.012)

    def plan(self, state: GraspState, steps: int = MOST_STEPS) -> LiberoPlan:
        """Roll the expert out from `state` for at most `steps`, with obstacles and target as they are now."""
        place, inputs, positions = self.place(), [], [state.tcp]
        goal = self._grasp_pose(state)[0][:2]
        clear = self._highest(state.tcp[:2], goal), self._highest(state.object[:2], np.array([place.x, place.y]))
        for _ in range(steps):
            inputs.append(self.act(state, place, *clear))
            after = self._advance(state, inputs[-1])
            rests = np.allclose(  # the fingers, too, which may press while nothing moves
                [*after.tcp, after.opening, after.command], [*state.tcp, state.opening, state.command], atol=1e-4
            )
            state = after
            positions.append(state.tcp)
            if rests and len(inputs) >= CHUNK_STEPS:
                break
        return LiberoPlan(np.array(inputs), np.array(positions))

    def _highest(self, begin: np.ndarray, end: np.ndarray) -> float:
        """Height in m of the highest thing under a straight way of the hand, [2] m each."""
        way = end - begin
        length = float(np.linalg.norm(way))
        side = np.array([-way[1], way[0]]) / max(length, 1e-9)
        places = [
            begin + share * way + offset * side
            for share in np.linspace(0, 1, 2 + int(length / 0.02)) for offset in (-0.05, 0.0, 0.05)
        ]  # fmt: skip
        return max(self._cell.top(x, y, [self.name]) for x, y in places)

    def act(self, state: GraspState, place: Place, way_there: float, way_back: float) -> np.ndarray:
        """The next input float64 [7]. way_there, way_back: heights of the highest things on the way to the object, and
        from it to its place, m."""
        if state.held:
            return self._deliver(state, place, way_back)
        if self.is_delivered(state, place):
            rise = max(0.0, place.bottom + RETREAT - state.tcp[2])
            return self._input(state, np.array([0.0, 0.0, rise]), self._axis(state), opens=True)
        return self._fetch(state, way_there)

    def is_delivered(self, state: GraspState, place: Place) -> bool:
        """Whether the object lies at its place, and is not held."""
        away = float(np.hypot(state.object[0] - place.x, state.object[1] - place.y))
        return not state.held and away < place.within + 0.02 and self._lowest(state) < place.bottom + 0.03

    def trace(self, state: GraspState) -> np.ndarray:
        """Positions [3, 3] m of the tool centre point: the current one, that of the grasp, that of the release.

        The one between is the way's middle while the object is held; and once it is delivered, the end is the rise.
        """
        place = self.place()
        if self.is_delivered(state, place):
            end = np.array([*state.tcp[:2], max(state.tcp[2], place.bottom + RETREAT)])
            return np.stack([state.tcp, (state.tcp + end) / 2, end])
        grasp = state.tcp if state.held else self._grasp_pose(state)[0]
        end = grasp + [place.x, place.y, place.bottom] - [*state.object[:2], self._lowest(state)]
        return np.stack([state.tcp, (state.tcp + end) / 2 if state.held else grasp, end])

    def _lowest(self, state: GraspState) -> float:
        """Height of the object's lowest point, m."""
        return float((self._cloud @ state.turn.T)[:, 2].min() + state.object[2])

    def _grasp_pose(self, state: GraspState) -> tuple[np.ndarray, np.ndarray]:
        """Where the tool centre point grasps the object, and the direction in which its fingers close."""
        return state.object + state.turn @ self.grasp.point, _horizontal(state.turn @ self.grasp.axis)

    def _axis(self, state: GraspState) -> np.ndarray:
        return _horizontal(closing_axis(state.rotation))

    def _fetch(self, state: GraspState, top: float) -> np.ndarray:
        goal, axis = self._grasp_pose(state)
        offset = goal - state.tcp
        away, turn = float(np.linalg.norm(offset[:2])), abs(yaw_between(self._axis(state), axis))
        closing = state.command < OPEN - FINGER_STEP / 2
        near = AROUND if closing else ALIGNED
        if away < near and abs(offset[2]) < 0.01 + near and (turn < TURNED or closing):
            missed = state.opening < MISSED
            return self._input(state, np.array([0.0, 0.0, 0.05 * missed]), axis, opens=False)
        if closing:
            return self._input(state, np.zeros(3), self._axis(state), opens=True)
        away += max(0.0, turn - TURNED) * 0.1
        return self._input(
            state, approach(offset, away, max(top + TIP + CLEARANCE, goal[2] + 0.05) - goal[2]), axis, True
        )

    def _deliver(self, state: GraspState, place: Place, top: float) -> np.ndarray:
        offset = np.array([place.x - state.object[0], place.y - state.object[1], place.bottom - self._lowest(state)])
        away, axis = float(np.linalg.norm(offset[:2])), self._axis(state)
        opening = state.command > PRESSED
        near = 2.0 if opening else 1.0
        if away < near * place.within and offset[2] > -0.015 * near:
            return self._input(state, np.zeros(3), axis, opens=True)
        if opening:
            return self._input(state, np.zeros(3), axis, opens=False)
        return self._input(
            state, approach(offset, away, max(top + CLEARANCE, place.bottom + 0.05) - place.bottom), axis, False
        )

    def _input(self, state: GraspState, move: np.ndarray, axis: np.ndarray, opens: bool) -> np.ndarray:
        """The input for a displacement [3] m, with the hand pointing down and its fingers along `axis` [3]."""
        turn = (
            Rotation.from_matrix(pointing_down(state.rotation, axis)) * Rotation.from_matrix(state.rotation).inv()
        ).as_rotvec()
        linear, angular = GAIN * move / UNIT_M, GAIN * turn / UNIT_RAD
        linear /= max(1.0, float(np.linalg.norm(linear)))
        angular /= max(1.0, float(np.linalg.norm(angular)) / 0.5)
        return np.array([*linear, *angular, -1.0 if opens else 1.0])

    def _advance(self, state: GraspState, osc_input: np.ndarray) -> GraspState:
        """The state after one step, in a model in which a grasped object moves with the hand."""
        motion = hand_motion(osc_input[None], state.twist)
        move, turn = motion.actions[0, :3], Rotation.from_euler("xyz", motion.actions[0, 3:6]).as_matrix()
        command = float(np.clip(state.command - FINGER_STEP * osc_input[6], 0.0, OPEN))
        offset = self._grasp_pose(state)[0] - state.tcp
        around = bool(np.linalg.norm(offset) < AROUND)
        width = self.grasp.width if state.held or around else 0.0
        opening = max(state.opening + FINGER_LAG * (command - state.opening), width)
        held = (state.held or (around and opening < width + 0.001)) and command < width + FINGER_STEP
        after = replace(state, tcp=state.tcp + move, rotation=turn @ state.rotation, twist=motion.twist,
                        opening=opening, command=command, held=held)  # fmt: skip
        if state.held and held:
            return replace(after, object=state.object + move)
        return after


def approach(offset: np.ndarray, away: float, height: float) -> np.ndarray:
    """The displacement [3] m of a way over `height` m and down a funnel onto the goal, which is `offset` [3] m away.

    away: m from the goal along the table, with what counts as such.
    """
    wanted = float(np.clip((away - ALIGNED) * STEEP, 0.0, height))
    rise = offset[2] + wanted
    freedom = float(np.clip(1.0 - (rise - 0.01) / 0.03, 0.0, 1.0))
    return np.array([*(offset[:2] * freedom), rise])


def choose_grasp(points: np.ndarray, hand: np.ndarray, top: Callable[[float, float], float]) -> Grasp:
    """The grasp from above of a thing with these points [n, 3] m, in the world.

    hand: direction [3] in which the fingers close now, to which a grasp near it is preferred. top: height in m of what
    else is at a place x, y.
    """
    angles = np.arctan2(hand[1], hand[0]) + np.linspace(-np.pi / 2, np.pi / 2, 24, endpoint=False)
    axes = np.column_stack([np.cos(angles), np.sin(angles), np.zeros(len(angles))])
    across = points @ axes.T
    widths = np.ptp(across, axis=0)
    if widths.min() < WIDEST:
        candidates = [_pinch(points, axis) for axis in axes[widths < WIDEST]]
    else:
        candidates = [_rim(points, axis * sign, shift) for axis in axes for sign in (1.0, -1.0) for shift in SHIFTS]

    def cost(grasp: Grasp) -> float:
        return (
            1000.0 * blocked(grasp, top) + abs(yaw_between(hand, grasp.axis)) + 50.0 * grasp.width + 20.0 * grasp.shift
        )

    return min(candidates, key=cost)


def _pinch(points: np.ndarray, axis: np.ndarray) -> Grasp:
    side = np.array([-axis[1], axis[0], 0.0])
    along, across = points @ axis, points @ side
    low, high = points[:, 2].min(), points[:, 2].max()
    middle = axis * (along.min() + along.max()) / 2 + side * (across.min() + across.max()) / 2
    return Grasp(middle + [0.0, 0.0, max(high - DEEP, low + TIP)], axis, float(np.ptp(along)))


def _rim(points: np.ndarray, direction: np.ndarray, shift: float) -> Grasp:
    high = points[:, 2].max()
    rim = points[points[:, 2] > high - 0.012]
    middle = (rim.min(axis=0) + rim.max(axis=0)) / 2
    radius = float(np.ptp(rim[:, :2], axis=0).mean() / 2)
    point = middle + (radius - 0.004 - shift) * direction
    point[2] = high - RIM_DEPTH
    return Grasp(point, direction, 0.006, shift)


def blocked(grasp: Grasp, top: Callable[[float, float], float]) -> float:
    """How far other things, whose height at x, y `top` says, reach into the fingers and the hand at a grasp, m."""
    side = np.array([-grasp.axis[1], grasp.axis[0], 0.0])
    tips = [(sign * along, across) for sign in (-1, 1) for along in FINGER for across in (-0.011, 0.011)]
    palm = [(along, across) for along in np.linspace(-PALM, PALM, 11) for across in (-0.035, 0.0, 0.035)]
    worst = 0.0
    for footprint, height in ((tips, -TIP), (palm, PALM_HEIGHT)):
        for along, across in footprint:
            x, y, z = grasp.point + along * grasp.axis + across * side
            worst = max(worst, top(x, y) - (z + height - 0.002))
    return worst


def closing_axis(rotation: np.ndarray) -> np.ndarray:
    """The direction [3] in which the fingers of a hand with this rotation [3, 3] close."""
    return np.asarray(rotation[:, 0])


def pointing_down(rotation: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """The rotation [3, 3] of a hand that points down and closes along `axis` [3] or against it, whichever is nearer to
    `rotation` [3, 3]."""
    x = axis if closing_axis(rotation) @ axis >= 0 else -axis
    z = np.array([0.0, 0.0, -1.0])
    return np.column_stack([x, np.cross(z, x), z])


def yaw_between(a: np.ndarray, b: np.ndarray) -> float:
    """The angle in rad, at most a quarter turn, between two horizontal directions [3] that may each be reversed."""
    angle = np.arctan2(b[1], b[0]) - np.arctan2(a[1], a[0])
    return float((angle + np.pi / 2) % np.pi - np.pi / 2)


def _horizontal(axis: np.ndarray) -> np.ndarray:
    flat = np.array([axis[0], axis[1], 0.0])
    return flat / max(float(np.linalg.norm(flat)), 1e-9)
