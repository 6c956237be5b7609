"""`molmoact-ros calibrate`: a camera's pose by a ChArUco board."""

from __future__ import annotations

import argparse
import select
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final, get_args

import numpy as np
import rclpy
from PIL import Image
from rclpy.signals import SignalHandlerOptions

from molmoact_ros.bringup.calibration_client import CalibrationClient, CalibrationTopics
from molmoact_ros.bringup.profiles import use_environment
from molmoact_ros.bringup.security import enclave_arguments
from molmoact_ros.cameras.board_page import print_board
from molmoact_ros.cameras.calibration import Calibration, CalibrationError, CalibrationView, calibrate
from molmoact_ros.cameras.charuco import BoardNotFoundError, CharucoBoard
from molmoact_ros.cameras.intrinsics import CameraIntrinsics
from molmoact_ros.cli.calibration_views import VIEWS, CameraShot, ViewFolder, read_views, views_of_bag
from molmoact_ros.cli.run_node import ARMS
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.robots.forward_kinematics import Links
from molmoact_ros.robots.franka import Arm
from molmoact_ros.ros import conversions
from molmoact_ros.ros.camera_pose import CameraPose
from molmoact_ros.ros.image_transport import ImageTransport
from molmoact_ros.utils.paths import robot_model
from molmoact_ros.visualization.calibration_report import draw_calibration

ABOUT = """Finds where a camera is: on the hand (eye in hand; the board lies still) or beside the arm (eye to hand; the
board is fixed to the hand). It listens to the camera and to the arm's joints and moves nothing: you move the arm, in
its guiding mode or by teleoperation. Whenever the arm stands still at a new pose and the board is seen, that is a view;
Enter takes one at once. Tilt the hand by 20 to 40 degrees to different sides between the views, and show the board near
and far. docs/calibration.md has images."""
EXAMPLES = """examples:
  molmoact-ros calibrate --print-board board.pdf       (print at 100 %, measure a square, glue it onto a flat plate)
  molmoact-ros calibrate --camera wrist                (15 views; then a static transform and an image of them)
  molmoact-ros calibrate --camera front --square 34.8 --marker 25.9
  molmoact-ros calibrate runs/calibration-front        (again from the views of a folder)
  molmoact-ros calibrate bag --camera front            (from a bag; the arm has to stand at each pose)
"""
FOUND: Final = 10.0
"""s to discover camera and joints."""
LOOK: Final = 0.05
"""s between looks."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.description, parser.epilog = ABOUT, EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", nargs="?", type=Path, metavar="FOLDER", help="views of before, or a bag; none: live")
    parser.add_argument("--print-board", type=Path, metavar="FILE", help="write the board as .pdf or .png, and end")
    board = parser.add_argument_group("the board")
    board.add_argument("--board", default="5x7", metavar="CxR", help="its columns and rows of squares (default: 5x7)")
    board.add_argument("--square", type=float, default=35.0, help="side of a square as measured, mm (default: 35)")
    board.add_argument("--marker", type=float, default=26.0, help="side of a marker as measured, mm (default: 26)")
    board.add_argument("--dictionary", default="4X4_50", help="of its markers (default: 4X4_50)")
    board.add_argument("--legacy", action="store_true", help="a board of OpenCV before 4.6 with an even number of rows")
    where = parser.add_argument_group("camera and arm")
    where.add_argument("--camera", default="front", help="name of the camera (default: front)")
    where.add_argument("--mount", choices=["hand", "fixed"], help="what carries it; without this, the views tell")
    where.add_argument("--arm", choices=["left", "right"], help="of two arms, the one that moves")
    where.add_argument("--image-topic", metavar="TOPIC", help="default: CAMERA/color/image_raw")
    where.add_argument(
        "--image-transport", choices=get_args(ImageTransport), default="raw", help="of live images (default: raw)"
    )  # fmt: skip
    where.add_argument("--info-topic", metavar="TOPIC", help="default: camera_info beside the image")
    where.add_argument("--joint-states", default="joint_states", metavar="TOPIC", help="default: joint_states")
    where.add_argument("--hand-frame", metavar="FRAME", help="the arm's frame that carries the camera or the board")
    views = parser.add_argument_group("views")
    views.add_argument("--views", type=int, default=15, help="how many to take (default: 15)")
    views.add_argument("--by-key", action="store_true", help="take views by Enter alone, none by itself")
    views.add_argument("--out", type=Path, help="a new folder for views, transform and image")


def run(args: argparse.Namespace) -> int:
    """Calibrate, or print the board; returns 0, or raises an error of one line."""
    board = _board(args)
    if args.print_board:
        print(print_board(board, args.print_board))
        return 0
    out = args.out or Path("runs") / f"calibration-{args.camera}-{datetime.now():%Y%m%d-%H%M%S}"
    if args.source is None:
        _calibrate_live(args, board, out)
    else:
        _calibrate_again(args, board, out)
    return 0


def _board(args: argparse.Namespace) -> CharucoBoard:
    columns, _, rows = args.board.lower().partition("x")
    if not (columns.isdigit() and rows.isdigit()):
        raise ValueError(f"--board {args.board} is not of the form 5x7, columns by rows")
    return CharucoBoard(
        int(columns), int(rows), 1e-3 * args.square, 1e-3 * args.marker, args.dictionary.upper().removeprefix("DICT_"),
        args.legacy,
    )  # fmt: skip


def _topics(args: argparse.Namespace) -> CalibrationTopics:
    image = args.image_topic or f"{args.camera}/color/image_raw"
    info = args.info_topic or f"{image.rpartition('/')[0]}/camera_info"
    return CalibrationTopics(image, info, args.joint_states, args.image_transport)


class _Solver:
    """Turns shots into views, and views into a transform, for one camera, board and arm."""

    def __init__(self, args: argparse.Namespace, board: CharucoBoard, intrinsics: CameraIntrinsics) -> None:
        self._args, self.board, self._intrinsics = args, board, intrinsics
        self._arm = Arm(ARMS[args.arm][0])
        arms = (Arm("left_"), Arm("right_")) if args.arm else (self._arm,)
        self._links = Links(robot_model(), arms)
        self.hand_frame = args.hand_frame or f"{self._arm.prefix}{self._arm.robot}_hand"
        if self.hand_frame not in self._links.names:
            raise ValueError(
                f"--hand-frame {self.hand_frame} is no frame of the arm; it has {', '.join(self._links.names)}"
            )
        self.views: list[CalibrationView] = []
        self.images: dict[str, np.ndarray] = {}

    @property
    def robot_frames(self) -> list[str]:
        """Frames of the robot, below which a camera's own frames begin."""
        return [*self._links.names, "world"]

    def view_of(self, shot: CameraShot) -> int:
        """Process a shot; the number of corners in it. Raises BoardNotFoundError, and ValueError for a wrong image."""
        height, width = shot.image.shape[:2]
        if (width, height) != (self._intrinsics.width, self._intrinsics.height):
            raise ValueError(
                f"the images are {width}x{height} and camera_info is for {self._intrinsics.width}x"
                f"{self._intrinsics.height}; take both from one stream"
            )
        if missing := [joint for joint in self._arm.joints if joint not in shot.joints]:
            raise ValueError(f"view {shot.name} has no position of {missing[0]}")
        sighting = self.board.find(shot.image)
        self._links.update(shot.joints)
        hand = np.linalg.inv(self._links.pose(self._arm.base_frame)) @ self._links.pose(self.hand_frame)
        self.views.append(CalibrationView(shot.name, sighting, hand))
        self.images[shot.name] = shot.image
        return len(sighting.pixels)

    def solve(self) -> Calibration:
        """The calibration. Raises CalibrationError."""
        return calibrate(self.views, self._intrinsics, self.board.square, self._args.mount)

    def write(self, found: Calibration, out: Path, mounted: tuple[str, np.ndarray]) -> None:
        """Write transform and image, and print what they say. mounted: the frame to place, and the camera in it."""
        child, inside = mounted
        parent = self.hand_frame if found.mount == "hand" else self._arm.base_frame
        about = {
            "camera": self._args.camera, "mount": found.mount, "board": str(self.board), "views": len(found.residuals),
            "residual_px": round(found.px, 3), "residual_mm": round(found.mm, 2),
            "sigma_mm": round(found.sigma_mm, 2), "sigma_deg": round(found.sigma_deg, 3),
        }  # fmt: skip
        pose = CameraPose.of(parent, child, found.camera @ np.linalg.inv(inside), about)
        file, picture = (out / f"{self._args.camera}.yaml").resolve(), out / f"{self._args.camera}.jpg"
        pose.write(file)
        lines = [*_summary(found, self._args.camera, parent), *found.warnings]
        Image.fromarray(draw_calibration(self.views, self.images, found, lines)).save(picture, quality=90)
        print("\n".join([*lines, f"views and residuals: {picture}", f"static transform {parent} -> {child}: {file}"]))
        print(f"in your profile:  view: {{calibrations: [{file}]}}\nor by ROS:  {pose.command()}")


def _summary(found: Calibration, camera: str, parent: str) -> list[str]:
    x, y, z = found.camera[:3, 3]
    scale, sigma = found.scale
    return [
        f"{camera} on {parent}: x {x:.4f}, y {y:.4f}, z {z:.4f} m, {len(found.residuals)} views",
        f"residual {found.px:.2f} px and {found.mm:.1f} mm (root mean square); known to {found.sigma_mm:.2f} mm and "
        f"{found.sigma_deg:.3f} deg (one sigma)",
        f"size of the board by the arm's motion: {100 * scale:.2f} % of what was given (sigma {100 * sigma:.2f} %)",
    ]


def _calibrate_again(args: argparse.Namespace, board: CharucoBoard, out: Path) -> None:
    """From a folder of views, or from a bag."""
    if (args.source / VIEWS).exists():
        intrinsics, about, shots = read_views(args.source)
        args.camera = about.get("camera", args.camera)
        out = args.out or args.source
    else:
        intrinsics, shots = views_of_bag(args.source, _topics(args), Arm(ARMS[args.arm][0]).joints)
    solver, without = _Solver(args, board, intrinsics), list[CameraShot]()
    for shot in shots:
        try:
            solver.view_of(shot)
        except BoardNotFoundError:
            without.append(shot)
    if without:
        line = f"the board is not found in {len(without)} of {len(shots)} views: {board.explain(without[0].image)}"
        if not solver.views:
            raise CalibrationError(line)
        print(line)
    found = solver.solve()
    out.mkdir(parents=True, exist_ok=True)
    frame = conversions.optical_frame(args.camera)
    solver.write(found, out, (frame, np.eye(4)))


def _calibrate_live(args: argparse.Namespace, board: CharucoBoard, out: Path) -> None:
    use_environment()
    rclpy.init(args=["--ros-args", *enclave_arguments("calibrate")], signal_handler_options=SignalHandlerOptions.NO)
    client = CalibrationClient(_topics(args), Arm(ARMS[args.arm][0]))
    try:
        intrinsics = client.wait(FOUND)
        solver = _Solver(args, board, intrinsics)
        folder = ViewFolder(out, intrinsics, {"camera": args.camera})
        print(f"views go to {out}; move the arm and let it stand: each new pose is a view. Enter takes one, q ends")
        found = _collect(args, client, solver, folder)
        frame = conversions.optical_frame(args.camera)
        solver.write(found, out, client.frames.mounted(frame, solver.robot_frames))
    finally:
        client.close()
        rclpy.try_shutdown()


def _collect(args: argparse.Namespace, client: CalibrationClient, solver: _Solver, folder: ViewFolder) -> Calibration:
    """Take views until they give a calibration."""
    tell, typed = _teller(), _Keys()
    while True:
        time.sleep(LOOK)
        key = typed.line()
        if key == "q":
            return solver.solve()
        stands, due = client.state()
        if key is not None and not stands:
            tell("the arm moves, or has stood for less than half a second; wait, then press Enter again")
        if not ((key is not None and stands) or (due and not args.by_key)):
            continue
        if _take_view(client, solver, folder, tell) and len(solver.views) >= args.views:
            try:
                return solver.solve()
            except CalibrationError as error:
                tell(f"not yet: {error}; more views may help, q gives up")


def _take_view(client: CalibrationClient, solver: _Solver, folder: ViewFolder, tell: Callable[[str], None]) -> bool:
    """Try a view of this moment; whether the board was found in it."""
    try:
        image, joints = client.shot()
        shot = CameraShot(f"{len(solver.views) + 1:02d}", image, joints)
        corners = solver.view_of(shot)
    except (BoardNotFoundError, RefusedStep) as error:
        client.note_view(None)
        tell(f"no view here: {solver.board.explain(image) if isinstance(error, BoardNotFoundError) else error}")
        return False
    folder.write_view(shot)
    client.note_view(joints)
    tell(f"view {shot.name}: {corners} corners; now another pose")
    return True


def _teller() -> Callable[[str], None]:
    """Prints a line unless it is the one before."""
    before = ""

    def tell(line: str) -> None:
        nonlocal before
        if line != before:
            before = line
            print(line, flush=True)

    return tell


class _Keys:
    """Lines that somebody types; none where there is no terminal."""

    def __init__(self) -> None:
        self._open = sys.stdin is not None and sys.stdin.isatty()

    def line(self) -> str | None:
        """The line typed since the last call, q at the end of input; None: none was."""
        if not self._open or not select.select([sys.stdin], [], [], 0)[0]:
            return None
        read = sys.stdin.readline()
        self._open = bool(read)
        return read.strip().lower() if read else "q"
