"""A simulated robot for libfranka's network protocol: franka-sim, which rejects what a real FR3's control rejects.

franka-sim pins old numpy and MuJoCo, so it has a virtual environment of its own, which `make franka-sim` builds.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from molmoact_ros.utils import child_process

ENVIRONMENT: Final = Path(".venv-franka-sim")
"""Virtual environment beside this package's own, unless MOLMOACT_FRANKA_SIM names another."""
PORT: Final = 1337
"""libfranka's fixed port, so every server has an address of its own in 127.0.0.0/8."""
START: Final = 60.0
"""s to wait for a server to listen."""
_COUNTER: Final = itertools.count()
SERVER: Final = """
import contextlib, gc, logging, os, sys
with contextlib.suppress(PermissionError):  # a robot has a computer to itself
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
sys.setswitchinterval(0.0002)  # its threads share a lock that by default they keep for 5 ms
from franka_sim import FrankaSimServer
# What it has to say every second it says from the loop that serves the robot, which then waits for the disk.
logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
gc.freeze()
gc.disable()  # a collection stops it for 6 ms, of which a robot would know nothing
enforced = dict(enforce_comm_constraints=True, enforce_motion_limits=True)
FrankaSimServer(host=sys.argv[1], enable_gripper=False, **enforced).start()
"""


class FrankaSim:
    """A simulated FR3 at `address`, in a process of its own; use it in a `with` block.

    It enforces motion limits and communication constraints. Its output goes to the file `log`. `model`: the robot's
    MJCF file. Self-collision is not checked: the geoms in our model have other names than franka-sim expects.
    """

    def __init__(self, model: Path, log: Path) -> None:
        """Raises FileNotFoundError, with what to do, if franka-sim is not installed."""
        self._model, self.log = model, log
        number = os.getpid() % 60_000 + 300
        self.address = f"127.{1 + next(_COUNTER) % 250}.{number // 250 + 1}.{number % 250 + 1}"

    def __enter__(self) -> Self:
        environment = os.environ | {"FR3_MJCF": str(self._model), "OMP_NUM_THREADS": "1"}
        command = [str(python()), "-c", SERVER, self.address]
        with self.log.open("wb") as log:
            self._process = child_process.start(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._end()
                raise RuntimeError(f"franka-sim does not start: {self.log.read_text().strip()[-300:]}")
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def refusals(self) -> list[str]:
        """What the simulated robot rejected according to its log, one line each."""
        lines = self.log.read_text().splitlines()
        return [line for line in lines if "violat" in line or "reflex" in line.lower()]

    def _answers(self) -> bool:
        # From the kernel's socket table: a connection would count as a client.
        hexadecimal = "".join(f"{int(part):02X}" for part in reversed(self.address.split(".")))
        return f" {hexadecimal}:{PORT:04X} 00000000:0000 0A " in Path("/proc/net/tcp").read_text()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()


def python() -> Path:
    """The interpreter of franka-sim's environment. Raises FileNotFoundError, with what to do, if there is none."""
    named = os.environ.get("MOLMOACT_FRANKA_SIM")
    folder = Path(named) if named else Path(sys.prefix).parent / ENVIRONMENT
    file = folder / "bin" / "python"
    if not file.is_file():
        do = "run `make franka-sim`, or name its environment in MOLMOACT_FRANKA_SIM"
        raise FileNotFoundError(f"franka-sim is not installed in {folder}; {do}")
    return file
