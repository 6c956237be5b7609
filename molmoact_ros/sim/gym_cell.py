"""A Gymnasium environment of SimplerEnv or ManiSkill 3 as a workcell in lock-step, in the Python that has it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from molmoact_ros.control.gym_actions import GymActions, GymArm, gym_arm
from molmoact_ros.utils import child_process

ENVIRONMENT: Final = Path(".venv-maniskill")
"""Virtual environment beside this package's own, unless MOLMOACT_GYM names another's Python (`make maniskill`)."""
WORKER: Final = Path(__file__).with_name("gym_worker.py")
OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "mani_skill": {"control_mode": "pd_ee_delta_pose", "num_envs": 1},
    "mani_skill2_real2sim": {"obs_mode": "rgbd", "prepackaged_config": True},
}
"""Options of `gymnasium.make` by the package of an environment; the second is SimplerEnv's."""


class GymError(RuntimeError):
    """The environment failed, or cannot be made; the message says in one line why."""


@dataclass(frozen=True)
class GymObservation:
    """What an environment shows after a step.

    images: uint8 [H, W, 3] RGB by the environment's names of its cameras. state: float64 [n] by name, what the
    environment tells beside images. instruction: "" where it has none. success, terminated, truncated: as it says.
    """

    images: dict[str, np.ndarray]
    state: dict[str, np.ndarray]
    instruction: str
    success: bool
    terminated: bool
    truncated: bool


def gym_python() -> Path:
    """The Python that has the environments: MOLMOACT_GYM, else that of ENVIRONMENT. Raises GymError without one."""
    named = os.environ.get("MOLMOACT_GYM")
    python = Path(named) if named else Path(sys.prefix).parent / ENVIRONMENT / "bin" / "python"
    if shutil.which(python) is None:
        raise GymError(f"{python} is no Python; run `make maniskill`, or name in MOLMOACT_GYM the Python that has the "
                       "environment")  # fmt: skip
    return python


def gym_options(name: str, images: bool) -> dict[str, Any]:
    """Options of `gymnasium.make` for an environment `MODULE:ID`. images: or its state, where it offers that."""
    package = name.partition(":")[0].partition(".")[0]
    options = OPTIONS.get(package, {})
    return options | {"obs_mode": "rgb" if images else "state_dict"} if package == "mani_skill" else options


class GymCell:
    """One environment.

        with GymCell("mani_skill.envs:PickCube-v1", images=False) as cell:
            cell.reset(seed=0)
            seen = cell.step(np.array([0, 0, -0.02, 0, 0, 0, 1.0]))  # an action of msg/ActionChunk.msg

    Args:
        name: MODULE:ID, as `gymnasium.make` takes it.
        images: whether images are wanted, or the state. Raises GymError if the environment cannot be made, ValueError
            if what its actions mean is not known.
        python: that has the environment; None: see `gym_python`.
    """

    def __init__(self, name: str, images: bool = True, python: Path | None = None) -> None:
        ours, theirs = socket.socketpair()
        command = [str(python or gym_python()), str(WORKER), str(theirs.fileno())]
        with child_process.uninterrupted():
            self._process = child_process.start(command, pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL)
        theirs.close()
        self._connection = Connection(ours.detach())
        try:
            made = self._ask("make", name, gym_options(name, images))
            self.arm: GymArm = gym_arm(made["robot"], made["control"])
        except (GymError, ValueError):
            self.close()
            raise
        self._actions = GymActions(self.arm)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reset(self, seed: int) -> GymObservation:
        """A new episode, drawn from `seed`."""
        self._actions = GymActions(self.arm)
        return self._seen("reset", seed)

    def step(self, action: np.ndarray) -> GymObservation:
        """One step with an action [7] in the meaning of msg/ActionChunk.msg (delta_ee_pose)."""
        return self._seen("step", self._actions.convert(action).tolist())

    def close(self) -> None:
        """End the environment's process."""
        self._connection.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            child_process.end([self._process])

    def _seen(self, *request: Any) -> GymObservation:
        fields = self._ask(*request)
        images = {
            name: np.frombuffer(data, np.uint8).reshape(shape) for name, (shape, data) in fields.pop("images").items()
        }
        state = {name: np.array(values) for name, values in fields.pop("state").items()}
        return GymObservation(images=images, state=state, **fields)

    def _ask(self, *request: Any) -> Any:
        try:
            self._connection.send(request)
            kind, reply = self._connection.recv()
        except (EOFError, OSError):
            raise GymError("the environment's process ended; its last lines are above") from None
        if kind == "error":
            raise GymError(f"the environment says: {reply}")
        return reply
