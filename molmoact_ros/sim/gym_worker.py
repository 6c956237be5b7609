"""Runs a Gymnasium environment in the Python that has it, for gym_cell.py, which starts this file as a program.

SimplerEnv and ManiSkill pin packages that do not fit ours; so this file needs numpy and Gymnasium only, and what it
sends are plain values. Requests and replies over the connection, whose file descriptor is the first argument:

    ("make", id, options)  -> ("made", {"robot": ..., "control": ...})
    ("reset", seed)        -> ("seen", observation)
    ("step", [values])     -> ("seen", observation)

An observation: images {name: (shape, bytes)} of uint8 RGB, state {name: [values]}, instruction ("" without one),
success, terminated, truncated. Whatever goes wrong is answered by ("error", one line).
"""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection
from typing import Any

import numpy as np


def _make(name: str, options: dict[str, Any]) -> Any:
    import gymnasium

    if name.startswith("mani_skill") and "swiftshader" in os.environ.get("VK_ICD_FILENAMES", ""):
        import sapien.render

        system = sapien.render.RenderSystem  # SwiftShader is no device that SAPIEN would find by what it is asked for
        sapien.render.RenderSystem = lambda *_: system()
        options = {"render_backend": "cpu", **options}
    return gymnasium.make(name, **options)


def _array(value: Any) -> np.ndarray:
    """A value of an observation without the axis of environments that run in parallel."""
    if hasattr(value, "cpu"):
        value = value.cpu()
    return np.asarray(value)


def _flag(value: Any) -> bool:
    return bool(_array(value).any())


def _seen(env: Any, observation: Any, info: dict[str, Any], terminated: Any, truncated: Any) -> dict[str, Any]:
    images, state = {}, {}
    cameras = observation.get("sensor_data", observation.get("image", {}))
    for name, camera in cameras.items():
        if "rgb" in camera:
            pixels = np.ascontiguousarray(_array(camera["rgb"]), np.uint8).reshape(camera["rgb"].shape[-3:])
            images[name] = (pixels.shape, pixels.tobytes())
    for name, value in observation.get("extra", {}).items():
        state[name] = [float(number) for number in _array(value).ravel()]
    inner = env.unwrapped
    words = inner.get_language_instruction() if hasattr(inner, "get_language_instruction") else ""
    return {
        "images": images, "state": state, "instruction": words if isinstance(words, str) else words[0],
        "success": _flag(info.get("success", terminated)), "terminated": _flag(terminated),
        "truncated": _flag(truncated),
    }  # fmt: skip


def _answer(request: tuple[Any, ...], env: Any) -> tuple[Any, Any]:
    """The environment from now on, and the reply."""
    kind = request[0]
    if kind == "make":
        env = _make(*request[1:])
        inner = env.unwrapped
        robot = getattr(inner, "robot_uids", getattr(inner, "robot_uid", "")) or ""
        robot = robot if isinstance(robot, str) else "+".join(map(str, robot))
        return env, ("made", {"robot": robot, "control": str(getattr(inner, "control_mode", ""))})
    if kind == "reset":
        observation, info = env.reset(seed=request[1])
        return env, ("seen", _seen(env, observation, info, False, False))
    observation, _, terminated, truncated, info = env.step(np.asarray(request[1], np.float32))
    return env, ("seen", _seen(env, observation, info, terminated, truncated))


def main() -> None:
    """Answer requests until the connection ends."""
    connection, env = Connection(int(sys.argv[1])), None
    while True:
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return
        try:
            env, reply = _answer(request, env)
        except Exception as error:  # of a foreign environment: any
            reply = ("error", " ".join(f"{type(error).__name__}: {error}".split()))
        connection.send(reply)


if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder, whose modules are not meant
    main()
