"""Hand-eye calibration: a camera's pose from views of a ChArUco board and the hand's pose in each of them.

A camera on the hand looks at a board that lies still, or a camera that stands still looks at a board on the hand. Both
are one problem. Let A_i be the pose of what carries the camera in the frame of what carries the board, B_i the board's
pose in the camera, X the camera's pose on its carrier and Y the board's on its own; then A_i X B_i = Y in each view.
Rotation vectors (Park and Martin, 1994) give the rotation of X to begin with; X and Y then minimise the reprojection
error of all corners. OpenCV 5 has no calibrateHandEye any more. Units: m, rad and pixels; poses are homogeneous [4, 4].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import cv2
import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from molmoact_ros.cameras.charuco import BoardSighting
from molmoact_ros.cameras.intrinsics import CameraIntrinsics

Mount = Literal["hand", "fixed"]
"""What carries the camera: the hand, or something that stands still in the arm's base frame."""

FEWEST_VIEWS: Final = 6
"""Views at least; fifteen are better."""
SPREAD: Final = 3.0
"""deg by which the views must turn the hand about a second axis, root mean square; 10 and more are better."""
GOOD_PX: Final = 1.0
"""Residual of a good calibration at most, pixels."""
WORST_PX: Final = 3.0
"""Typical residual of a view above which the views do not belong together, pixels."""
OUTLIER: Final = 4.0
"""Multiple of the median residual, and at least GOOD_PX, above which a view is left out."""
WRONG_SCALE: Final = 0.015
"""Difference of the estimated scale of the board from 1 at which its size is wrong; printers are within 0.5 %."""
UNSURE_M: Final = 0.005
"""Standard deviation of the camera's position above which it is not known, m: the views are too alike."""
UNSURE_DEG: Final = 1.0
"""The same of its rotation."""
_TRIALS: Final = 40


class CalibrationError(ValueError):
    """The views do not give the camera's pose; one line says what is wrong, and what to do."""


@dataclass(frozen=True)
class CalibrationView:
    """One view: the board's corners, and the hand's pose [4, 4] in the base at that time. name: for people."""

    name: str
    sighting: BoardSighting
    hand: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """The camera's pose, and how well it is known.

    mount: what carries the camera. camera: pose [4, 4] of its optical frame in the hand or in the base. board: pose
    [4, 4] of the board in the base or in the hand. px: root mean square reprojection error of the corners, pixels. mm:
    root mean square distance between the corners where each view puts them and where all views do, mm. sigma_mm,
    sigma_deg: standard deviation of the camera's position and rotation, of the axis that is known least. scale: size
    of the board by the arm's motion, as a multiple of what was given, and its standard deviation. spread: of the hand's
    rotation about its second axis, deg. residuals: of each view, [n, 2] pixels, by its name. left_out: views that do
    not fit, with their residual in pixels.
    """

    mount: Mount
    camera: np.ndarray
    board: np.ndarray
    px: float
    mm: float
    sigma_mm: float
    sigma_deg: float
    scale: tuple[float, float]
    spread: float
    residuals: dict[str, np.ndarray]
    left_out: dict[str, float]

    @property
    def warnings(self) -> list[str]:
        """What makes this calibration less sure than it could be, one line each."""
        lines = []
        if self.left_out:
            named = ", ".join(f"{name} ({px:.1f} px)" for name, px in self.left_out.items())
            lines.append(f"left out, since they do not fit the others: {named}; did the arm still move?")
        if self.px > GOOD_PX:
            lines.append(f"a residual of {self.px:.1f} px is large; is camera_info this camera's, and the board flat?")
        if self.spread < 3 * SPREAD:
            lines.append(
                f"the hand turned by {self.spread:.0f} deg only about its second axis; tilt it more, both ways"
            )
        if len(self.residuals) < 12:
            lines.append(f"{len(self.residuals)} views are few; fifteen are better")
        return lines


def calibrate(
    views: Sequence[CalibrationView], intrinsics: CameraIntrinsics, square: float, mount: Mount | None = None
) -> Calibration:
    """The camera's pose from `views`. square: side of the board's squares as given, m. mount: None finds it out.

    Raises CalibrationError, in one line, where the views are too few or too alike, do not belong together, or show a
    board of another size than given.
    """
    if len(views) < FEWEST_VIEWS:
        raise CalibrationError(
            f"{len(views)} views of the board are too few; take {FEWEST_VIEWS} at least, better fifteen, and tilt the "
            "hand by 20 to 40 degrees to different sides"
        )
    spread = rotation_spread([view.hand for view in views])
    if spread < SPREAD:
        raise CalibrationError(
            f"the views are too alike: beside one axis the hand turned by {spread:.1f} deg only; tilt it by 20 to 40 "
            "degrees about different axes between the views"
        )
    problems = {kind: _Problem(views, intrinsics, kind) for kind in ((mount,) if mount else ("hand", "fixed"))}
    fits = {kind: problem.begin() for kind, problem in problems.items()}
    kind = min(fits, key=lambda kind: fits[kind].typical)
    if mount and fits[mount].typical > WORST_PX:
        _check_other_mount(views, intrinsics, mount, fits[mount])
    return _finish(problems[kind], fits[kind], square, spread)


def rotation_spread(hands: Sequence[np.ndarray]) -> float:
    """How far poses [4, 4] turn about the second of their axes of rotation, root mean square, deg.

    Rotations about a single axis, however large, leave a hand-eye calibration open.
    """
    turns = Rotation.from_matrix([hand[:3, :3] for hand in hands])
    about = (turns.mean().inv() * turns).as_rotvec()
    return float(np.degrees(np.linalg.svd(about, compute_uv=False)[1] / np.sqrt(len(hands))))


def _check_other_mount(views: Sequence[CalibrationView], intrinsics: CameraIntrinsics, mount: Mount, fit: _Fit) -> None:
    other: Mount = "fixed" if mount == "hand" else "hand"
    if _Problem(views, intrinsics, other).begin().typical < fit.typical / 3:
        raise CalibrationError(f"these views fit a camera whose mount is {other}, not {mount}; give --mount {other}")


def _finish(problem: _Problem, fit: _Fit, square: float, spread: float) -> Calibration:
    """Leave out what does not fit, refine, and judge the outcome."""
    kept = fit.rms <= max(OUTLIER * fit.typical, GOOD_PX)
    if fit.typical > WORST_PX or kept.sum() < max(FEWEST_VIEWS, 2 * len(kept) / 3):
        raise CalibrationError(
            f"the views do not belong together (a typical residual is {fit.typical:.1f} px): board and camera must "
            "stay where they are, the arm must stand still in each view, and camera_info must be this camera's"
        )
    free = problem.refine(fit, kept, scaled=True)
    if free.sigma[:3].max() > UNSURE_M or np.degrees(free.sigma[3:6].max()) > UNSURE_DEG:
        raise CalibrationError(
            "the views are too alike to tell where the camera is (to within "
            f"{1e3 * free.sigma[:3].max():.0f} mm and {np.degrees(free.sigma[3:6].max()):.1f} deg); tilt the hand "
            "more, and take some views from nearer and some from farther"
        )
    off = abs(free.scale - 1.0)
    if off > max(WRONG_SCALE, 4 * free.sigma[-1]):
        raise CalibrationError(
            f"the squares seem to be {1e3 * square * free.scale:.1f} mm, not {1e3 * square:g}: by the arm's motion the "
            f"board is {free.scale:.3f} times as large as given; measure a square with a ruler and give its size "
            "(--square, --marker), or print the board at 100 %"
        )
    return _outcome(problem, problem.refine(free, kept, scaled=False), free, kept, spread)


def _outcome(problem: _Problem, best: _Fit, free: _Fit, kept: np.ndarray, spread: float) -> Calibration:
    names, residuals = np.array([view.name for view in problem.views]), problem.residuals(best)
    return Calibration(
        mount=problem.mount,
        camera=best.camera,
        board=best.board,
        px=float(np.sqrt(np.mean(best.rms[kept] ** 2))),
        mm=problem.closure(best, kept),
        sigma_mm=1e3 * float(best.sigma[:3].max()),
        sigma_deg=float(np.degrees(best.sigma[3:6].max())),
        scale=(free.scale, float(free.sigma[-1])),
        spread=spread,
        residuals={str(name): residuals[name] for name in names[kept]},
        left_out={str(name): float(rms) for name, rms in zip(names[~kept], best.rms[~kept], strict=True)},
    )


@dataclass(frozen=True)
class _Fit:
    """camera: X. board: Y. scale: of the board. rms: residual of each view, pixels. sigma: standard deviations of X (m,
    then rad) and, last, of the scale where it was free."""

    camera: np.ndarray
    board: np.ndarray
    scale: float
    rms: np.ndarray
    sigma: np.ndarray

    @property
    def typical(self) -> float:
        """Median residual of a view, pixels."""
        return float(np.median(self.rms))


class _Problem:
    """A X B = Y of one arrangement, over all views, with the corners undistorted."""

    def __init__(self, views: Sequence[CalibrationView], intrinsics: CameraIntrinsics, mount: Mount) -> None:
        self.views, self.mount = views, mount
        self._focal = np.array([intrinsics.fx, intrinsics.fy])
        self._carriers = [view.hand if mount == "hand" else np.linalg.inv(view.hand) for view in views]
        self._inverses = np.linalg.inv(self._carriers)
        self._rays = [undistorted(view.sighting.pixels, intrinsics) for view in views]
        self._of = np.repeat(np.arange(len(views)), [len(rays) for rays in self._rays])  # the view of each corner
        self._seen, self._points = np.vstack(self._rays), np.vstack([view.sighting.points for view in views])
        self._boards = [_board_pose(view.sighting.points, rays) for view, rays in zip(views, self._rays, strict=True)]

    def begin(self) -> _Fit:
        """The best of many closed-form solutions, each of a few views: some may be wrong. The scale is free."""
        rng, count = np.random.default_rng(0), len(self.views)
        subsets = [np.arange(count)] + [rng.choice(count, min(5, count), replace=False) for _ in range(_TRIALS)]
        fits = [fit for subset in subsets if (fit := self._closed_form(subset)) is not None]
        if not fits:
            raise CalibrationError(
                "the views are too alike to tell where the camera is; tilt the hand more between them"
            )
        return min(fits, key=lambda fit: fit.typical)

    def _closed_form(self, subset: np.ndarray) -> _Fit | None:
        a, b = [self._carriers[k] for k in subset], [self._boards[k] for k in subset]
        turn = _rotation(np.array(a)[:, :3, :3], np.array(b)[:, :3, :3])
        if turn is None:
            return None
        # R_A (s R_X t_B + t_X) + t_A = t_Y is linear in s, t_X and t_Y.
        rows = [
            np.column_stack([p[:3, :3] @ turn @ q[:3, 3], p[:3, :3], -np.eye(3)]) for p, q in zip(a, b, strict=True)
        ]
        found, *_ = np.linalg.lstsq(np.vstack(rows), -np.concatenate([pose[:3, 3] for pose in a]), rcond=None)
        if not 0.05 < found[0] < 20:
            return None
        camera, board = np.eye(4), np.eye(4)
        camera[:3, :3], camera[:3, 3], board[:3, 3] = turn, found[1:4], found[4:]
        turns = [p[:3, :3] @ turn @ q[:3, :3] for p, q in zip(a, b, strict=True)]
        board[:3, :3] = Rotation.from_matrix(turns).mean().as_matrix()
        return _Fit(camera, board, float(found[0]), self._rms(camera, board, float(found[0])), np.zeros(7))

    def refine(self, fit: _Fit, kept: np.ndarray, scaled: bool) -> _Fit:
        """Minimise the reprojection error of the views `kept`, bool [n], from `fit` on; scaled: and find the scale."""
        use = np.repeat(kept[self._of], 2)
        base_x, base_y = fit.camera, fit.board

        def poses(step: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
            return _moved(base_x, step[:6]), _moved(base_y, step[6:12]), float(step[12]) if scaled else 1.0

        first = np.array([0.0] * 12 + ([fit.scale] if scaled else []))
        solved = least_squares(lambda step: self._errors(*poses(step)).ravel()[use], first, method="lm", x_scale="jac")
        variance = 2 * solved.cost / max(len(solved.fun) - len(first), 1)
        sigma = np.sqrt(np.maximum(np.diag(variance * np.linalg.pinv(solved.jac.T @ solved.jac)), 0.0))
        camera, board, scale = poses(solved.x)
        return _Fit(camera, board, scale, self._rms(camera, board, scale), np.concatenate([sigma[:6], sigma[12:]]))

    def residuals(self, fit: _Fit) -> dict[str, np.ndarray]:
        """Reprojected corners minus those that were seen, of each view by name, [n, 2] pixels."""
        errors = self._errors(fit.camera, fit.board, fit.scale)
        return {view.name: errors[self._of == k] for k, view in enumerate(self.views)}

    def closure(self, fit: _Fit, kept: np.ndarray) -> float:
        """Root mean square distance of the corners by each view's own board pose from those of `fit`, mm."""
        squares = []
        for k in np.flatnonzero(kept).tolist():
            own = self._carriers[k] @ fit.camera @ self._boards[k]
            points = self.views[k].sighting.points
            squares.append(np.sum((_apply(own, points) - _apply(fit.board, points)) ** 2, axis=1))
        return 1e3 * float(np.sqrt(np.mean(np.concatenate(squares))))

    def _errors(self, camera: np.ndarray, board: np.ndarray, scale: float) -> np.ndarray:
        """Reprojection errors [m, 2], pixels, of all corners."""
        chains = np.linalg.inv(camera) @ self._inverses @ board
        turned = np.einsum("kij,kj->ki", chains[self._of, :3, :3], scale * self._points) + chains[self._of, :3, 3]
        depth = np.maximum(turned[:, 2:], 1e-3)  # behind the camera: an error that is large, and finite
        result: np.ndarray = (turned[:, :2] / depth - self._seen) * self._focal
        return result

    def _rms(self, camera: np.ndarray, board: np.ndarray, scale: float) -> np.ndarray:
        squares = np.sum(self._errors(camera, board, scale) ** 2, axis=1)
        return np.sqrt(np.bincount(self._of, squares) / np.bincount(self._of))


def undistorted(pixels: np.ndarray, intrinsics: CameraIntrinsics) -> np.ndarray:
    """Pixels [n, 2] as rays [n, 2] (x / z, y / z) without the lens' distortion.

    Raises CalibrationError for a model that OpenCV has not.
    """
    k = np.array([[intrinsics.fx, 0, intrinsics.cx], [0, intrinsics.fy, intrinsics.cy], [0, 0, 1.0]])
    lens, given = np.array(intrinsics.distortion, np.float64), pixels.reshape(-1, 1, 2).astype(np.float64)
    if intrinsics.model == "equidistant":
        rays = cv2.fisheye.undistortPoints(given, k, lens[:4])
    elif intrinsics.model in ("plumb_bob", "rational_polynomial", ""):
        rays = cv2.undistortPoints(given, k, lens)
    else:
        raise CalibrationError(
            f"camera_info has the distortion model {intrinsics.model!r}; plumb_bob, rational_polynomial and "
            "equidistant are known"
        )
    return np.asarray(rays, np.float64).reshape(-1, 2)


def _board_pose(points: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """The board's pose [4, 4] in the camera by one view: of the two that a plane allows, the one that fits better."""
    count, turns, places, errors = cv2.solvePnPGeneric(
        points, rays.reshape(-1, 1, 2), np.eye(3), None, flags=cv2.SOLVEPNP_IPPE
    )
    best = int(np.argmin(np.ravel(errors)[:count]))
    turn, place = cv2.solvePnPRefineLM(points, rays.reshape(-1, 1, 2), np.eye(3), None, turns[best], places[best])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(turn)[0], np.ravel(place)
    return pose


def _rotation(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """R_X [3, 3] of R_A R_X R_B = R_Y, from rotations [n, 3, 3]; None where no two differ.

    Of two views, R_X turns the rotation vector of R_Bj R_Bi' into that of R_Aj' R_Ai.
    """
    i, j = np.triu_indices(len(a), 1)
    left = Rotation.from_matrix(np.swapaxes(a[j], 1, 2) @ a[i]).as_rotvec()
    right = Rotation.from_matrix(b[j] @ np.swapaxes(b[i], 1, 2)).as_rotvec()
    if np.linalg.norm(left) < 1e-6 or np.linalg.norm(right) < 1e-6:
        return None
    u, _, v = np.linalg.svd(left.T @ right)
    result: np.ndarray = u @ np.diag([1.0, 1.0, np.linalg.det(u @ v)]) @ v
    return result


def _moved(pose: np.ndarray, step: np.ndarray) -> np.ndarray:
    """`pose` [4, 4] moved by `step` [6]: m, then a rotation vector about its own origin, rad."""
    out = pose.copy()
    out[:3, 3] += step[:3]
    out[:3, :3] = Rotation.from_rotvec(step[3:]).as_matrix() @ pose[:3, :3]
    return out


def _apply(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    result: np.ndarray = points @ pose[:3, :3].T + pose[:3, 3]
    return result
