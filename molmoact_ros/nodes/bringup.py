"""Profiles: which nodes run with which parameters, and starting and ending them as child processes."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from molmoact_ros.nodes.keys import enclave_arguments
from molmoact_ros.paths import fastdds_profile, profile

NODES: Final = (
    "sim", "realsense", "controller", "policy", "policies", "expert", "view", "foxglove", "joystick", "recorder",
    "player", "panel",
)  # fmt: skip
Parameters = dict[str, Any]
"""ROS parameters of one node, by name."""
_DIES_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG of prctl(2)


class Profile(BaseModel):
    """A file in config/profiles.

    nodes: parameters of each node to start, in that order. environment: variables for all of them, beside those of
    `environment()`.
    """

    model_config = ConfigDict(extra="forbid")
    nodes: dict[str, Parameters]
    environment: dict[str, str] = {}

    @staticmethod
    def read(name: str) -> Profile:
        """The profile called `name`. Raises FileNotFoundError, naming those there are, or ValueError, in one line."""
        file = profile(name)
        try:
            read = Profile.model_validate(yaml.safe_load(file.read_text()))
        except (yaml.YAMLError, ValidationError) as error:
            raise ValueError(f"{file} is not a profile: {str(error).splitlines()[0]}") from None
        if unknown := sorted(set(read.nodes) - set(NODES)):
            raise ValueError(f"{file} names the node {unknown[0]!r}; there are {', '.join(NODES)}")
        return read

    def with_parameters(self, overrides: Mapping[str, Parameters]) -> Profile:
        """The same with some parameters replaced, and nodes added that it lacks."""
        names = dict.fromkeys((*self.nodes, *overrides))
        nodes = {name: self.nodes.get(name, {}) | overrides.get(name, {}) for name in names}
        return Profile(nodes=nodes, environment=self.environment)

    def without(self, name: str) -> Profile:
        """The same without a node."""
        rest = {node: parameters for node, parameters in self.nodes.items() if node != name}
        return Profile(nodes=rest, environment=self.environment)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of our nodes: this process', shared memory for images, discovery on this machine only.

    What the user has set stays; `extra` comes before both.
    """
    defaults = {
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(fastdds_profile()),
        "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "OMP_NUM_THREADS": "1",
    }
    return defaults | dict(os.environ) | dict(extra or {})


def use_environment() -> None:
    """Give this process the environment of our nodes; before rclpy is first used in it."""
    os.environ.update(environment())


def command(name: str, parameters_file: Path) -> list[str]:
    """The command line of a node."""
    module = f"molmoact_ros.nodes.{name}"
    parameters = ["--params-file", str(parameters_file)]
    return [sys.executable, "-m", module, "--ros-args", *parameters, *enclave_arguments(name)]


def write_parameters(folder: Path, name: str, parameters: Parameters) -> Path:
    """Write a node's ROS parameter file into `folder`; its path."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({f"/{name}": {"ros__parameters": parameters}} if parameters else {}))
    return file


class Bringup:
    """The processes of a profile; use it in a `with` block, which ends them all however it is left.

    Each writes its output to `<logs>/<node>.log`. They end with this process, even when it is killed.
    """

    def __init__(self, profile: Profile, logs: Path) -> None:
        self._profile, self._logs = profile, logs
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

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
        """Start one of the profile's nodes, or start it again after it ended."""
        file = write_parameters(self._logs, name, self._profile.nodes[name])
        with self.log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command(name, file), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._logs,
                env=environment(self._profile.environment), start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip

    def kill(self, name: str) -> None:
        """End a node at once, as a crash would."""
        self._processes[name].kill()
        self._processes[name].wait()

    def pid(self, name: str) -> int:
        """The process of a node."""
        return self._processes[name].pid

    def log(self, name: str) -> Path:
        """The file with a node's output."""
        return self._logs / f"{name}.log"

    def ended(self) -> dict[str, str]:
        """The nodes that have ended by themselves, each with the last line it wrote."""
        gone = [name for name, process in self._processes.items() if process.poll() is not None]
        return {name: self._last_line(name) for name in gone}

    def check(self) -> None:
        """Raise RuntimeError, with the node's own last line, when any has ended."""
        for name, line in self.ended().items():
            raise RuntimeError(f"{name} has ended: {line} (whole log: {self.log(name)})")

    def stop(self, patience: float = 5.0) -> None:
        """End all nodes: SIGINT, and SIGKILL for those that have not ended after `patience` s."""
        running = [process for process in self._processes.values() if process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + patience
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def _last_line(self, name: str) -> str:
        lines = self.log(name).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"


def up(name: str, logs: Path, overrides: Mapping[str, Parameters] | None = None) -> None:
    """Run a profile until Ctrl-C, or until one of its nodes ends (RuntimeError)."""
    with Bringup(Profile.read(name).with_parameters(overrides or {}), logs) as bringup:
        try:
            while True:
                bringup.check()
                time.sleep(0.2)
        except KeyboardInterrupt:
            return


_libc = ctypes.CDLL(None)


def die_with_parent() -> None:
    """In the child, between fork and exec: be sent SIGTERM when the parent's thread ends."""
    _libc.prctl(_DIES_WITH_PARENT, signal.SIGTERM)
