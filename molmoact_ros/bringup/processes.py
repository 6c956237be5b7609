"""Child processes of a profile's nodes: start, supervision, restart, shutdown."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import yaml

from molmoact_ros.bringup.profiles import SHOWING, Parameters, Profile, environment
from molmoact_ros.bringup.security import enclave_arguments
from molmoact_ros.ros.arguments import with_uniform_lists
from molmoact_ros.utils import child_process


def command(name: str, parameters_file: Path, namespace: str = "", package: str = "molmoact_ros.nodes") -> list[str]:
    """The command line of a node of `package`, in `namespace`, such as /left, unless that is empty."""
    arguments = ["--ros-args", "--params-file", str(parameters_file), *enclave_arguments(name)]
    if namespace:
        arguments += ["-r", f"__ns:=/{namespace.strip('/')}"]
    return [sys.executable, "-m", f"{package}.{name}", *arguments]


def write_parameters(folder: Path, name: str, parameters: Parameters) -> Path:
    """Write a node's ROS parameter file into `folder`; returns its path. The file matches the node in any namespace."""
    file = folder / f"{name}.yaml"
    contents = {f"/**/{name}": {"ros__parameters": with_uniform_lists(parameters)}} if parameters else {}
    file.write_text(yaml.safe_dump(contents))
    return file


class Bringup:
    """The node processes of a profile, as a `with` block that ends them all however it is left.

    Each node writes its output to `<logs>/<node>.log`. The nodes end with this process, even when it is killed.

    Args of `__init__`:
        profile: which nodes to start, with which parameters and environment.
        logs: folder of the logs and parameter files; it is created.
        namespace: of all nodes, such as /left; empty: none.

    Raises:
        OSError: `__enter__` where a process cannot be started; those started before are then ended.
        RuntimeError: `check` where a node has ended, with the last line that it wrote.

    Example:
        with Bringup(Profile.read("sim"), Path("logs")) as bringup:
            bringup.check()
    """

    def __init__(self, profile: Profile, logs: Path, namespace: str = "") -> None:
        self._profile, self._logs, self._namespace = profile, logs, namespace
        self._processes: dict[str, child_process.Child] = {}

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        try:
            for name in self._profile.nodes:
                self.start(name)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str) -> None:
        """Start one of the profile's nodes, or restart it after it ended."""
        file = write_parameters(self._logs, name, self._profile.nodes[name])
        with self.log(name).open("ab") as log, child_process.uninterrupted():
            self._processes[name] = child_process.start(
                command(name, file, self._namespace), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                cwd=self._logs, env=environment(self._profile.environment),
            )  # fmt: skip

    def kill(self, name: str) -> None:
        """Kill a node (SIGKILL), as a crash would."""
        self._processes[name].kill()
        self._processes[name].wait()

    def pid(self, name: str) -> int:
        """The process id of a node."""
        return self._processes[name].pid

    def log(self, name: str) -> Path:
        """The log file of a node."""
        return self._logs / f"{name}.log"

    def ended(self) -> dict[str, str]:
        """The nodes that have ended on their own, each with the last line that it wrote."""
        gone = [name for name, process in self._processes.items() if process.poll() is not None]
        return {name: self._last_line(name) for name in gone}

    def check(self, but: Collection[str] = ()) -> None:
        """Raise RuntimeError, with the last line that it wrote, when any node outside `but` has ended."""
        for name, line in self.ended().items():
            if name not in but:
                raise RuntimeError(f"{name} has ended: {line} (whole log: {self.log(name)})")

    def stop(self, patience: float = child_process.PATIENCE) -> None:
        """End all nodes in order, and kill those that have not ended after `patience` s."""
        child_process.end(list(self._processes.values()), patience)
        self._processes.clear()

    def _last_line(self, name: str) -> str:
        lines = self.log(name).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"


FIRST_DELAY: Final = 1.0
"""s until a display node is restarted; it doubles with each consecutive end."""
LONGEST_DELAY: Final = 30.0
"""Upper bound of that delay, s."""
RAN_WELL: Final = 60.0
"""s of running after which the delay starts over."""


class Restarts:
    """Restarts the nodes of SHOWING when they end. Times are of one clock, s."""

    def __init__(self, bringup: Bringup, tell: Callable[[str], None]) -> None:
        """tell: receives a line for each end."""
        self._bringup, self._print_line = bringup, tell
        self._due: dict[str, float] = {}  # when each ended node is restarted
        self._delay: dict[str, float] = {}
        self._began: dict[str, float] = {}  # when each restarted node was started

    def check(self, now: float) -> None:
        """Restart the nodes that are due. Raises RuntimeError when a node outside SHOWING has ended."""
        self._bringup.check(but=SHOWING)
        for name, line in self._bringup.ended().items():
            if name not in self._due:
                self._delay_restart(name, line, now)
            elif now >= self._due[name]:
                self._start(name, now)

    def _delay_restart(self, name: str, reason: str, now: float) -> None:
        ran_well = now - self._began.get(name, -RAN_WELL) >= RAN_WELL
        delay = FIRST_DELAY if ran_well else min(2 * self._delay[name], LONGEST_DELAY)
        self._delay[name], self._due[name] = delay, now + delay
        self._print_line(
            f"{name} has ended: {reason}; it is started again in {delay:g} s (whole log: {self._bringup.log(name)})"
        )

    def _start(self, name: str, now: float) -> None:
        del self._due[name]
        self._began[name] = now
        try:
            self._bringup.start(name)
        except OSError as error:  # out of memory, for example: nodes that move the arm go on all the same
            self._delay_restart(name, str(error), now)


def up(name: str, logs: Path, overrides: Mapping[str, Parameters] | None = None, namespace: str = "") -> None:
    """Run a profile until a signal, or until a node outside SHOWING ends (RuntimeError)."""
    with Bringup(Profile.read(name).with_parameters(overrides or {}), logs, namespace) as bringup:
        restarts = Restarts(bringup, _print_line)
        with suppress(KeyboardInterrupt):
            while True:
                restarts.check(time.monotonic())
                time.sleep(0.2)


def _print_line(line: str) -> None:
    with suppress(OSError):  # its reader is gone
        print(line, file=sys.stderr, flush=True)
