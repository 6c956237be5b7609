"""The environment variables that ROS reads, checked before it does.

rcl ends the process itself, from inside the import of rclpy, where RMW_IMPLEMENTATION names a middleware that is not
installed; other variables it reports in the midst of its source's paths, or not at all. So they are checked here first.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

MIDDLEWARE: Final = "RMW_IMPLEMENTATION"
DOMAIN: Final = "ROS_DOMAIN_ID"
LARGEST_DOMAIN: Final = 232
"""Of DDS: with a larger domain its UDP ports would be beyond 65535 (docs.ros.org, "The ROS_DOMAIN_ID")."""
FLAGS: Final = ("RCUTILS_COLORIZED_OUTPUT", "RCUTILS_LOGGING_USE_STDOUT", "RCUTILS_LOGGING_BUFFERED_STREAM")
"""Variables of rcutils' logging, which fails with every line where one is neither 0 nor 1."""


def environment_faults(environ: Mapping[str, str]) -> list[str]:
    """Why ROS cannot start with these variables, one line each; empty: it can. The log folder is created."""
    faults = (middleware_fault(environ), _domain_fault(environ), _log_fault(environ), *_flag_faults(environ))
    return [fault for fault in faults if fault]


def check_environment(environ: Mapping[str, str]) -> None:
    """Raise ValueError, in one line, where ROS cannot start with these variables."""
    if faults := environment_faults(environ):
        raise ValueError(faults[0])


def stop_without_middleware() -> None:
    """End the process, with one line on standard error, where rcl would end it during the import of rclpy."""
    if fault := middleware_fault(os.environ):
        sys.exit(f"error: {fault}")


def middleware_fault(environ: Mapping[str, str]) -> str:
    """Why the middleware that `environ` names cannot be loaded, in one line; empty: it can, or nobody knows."""
    name, installed = environ.get(MIDDLEWARE, ""), installed_middlewares(environ)
    if not name or not installed or name in installed:
        return ""
    return (
        f"{MIDDLEWARE} is {name!r}, which is not installed here; `unset {MIDDLEWARE}`, set it to "
        f"{' or '.join(installed)}, or install that middleware beside rclpy"
    )


def installed_middlewares(environ: Mapping[str, str]) -> list[str]:
    """Names of the middlewares that rclpy can load, such as rmw_fastrtps_cpp; empty where rclpy is not found."""
    found = find_spec("rclpy")
    if found is None or found.origin is None:
        return []
    prefixes = [folder for folder in Path(found.origin).parents if (folder / "lib" / "librmw.so").is_file()]
    # The wheels' rclpy is linked to one middleware; elsewhere a library loads it from any sourced prefix.
    if any((folder / "lib" / "librmw_implementation.so").is_file() for folder in prefixes):
        prefixes += map(Path, filter(None, environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)))
    names = {
        entry.name
        for prefix in prefixes
        for entry in (prefix / "share" / "ament_index" / "resource_index" / "rmw_typesupport").glob("*")
        if entry.name != "rmw_implementation" and (prefix / "lib" / f"lib{entry.name}.so").is_file()
    }
    return sorted(names)


def _domain_fault(environ: Mapping[str, str]) -> str:
    value = environ.get(DOMAIN, "")
    # rcl takes "-1" and "5.0" for other numbers than were meant, and "010" for eight.
    if not value or (re.fullmatch(r"0|[1-9][0-9]*", value) and int(value) <= LARGEST_DOMAIN):
        return ""
    return f"{DOMAIN} is {value!r}; give a whole number from 0 to {LARGEST_DOMAIN}, such as 7, or unset it"


def _log_fault(environ: Mapping[str, str]) -> str:
    try:
        folder = log_folder(environ)
    except RuntimeError:
        return "HOME is not set, and ROS writes its logs there; set HOME, ROS_HOME or ROS_LOG_DIR"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK | os.X_OK) else "no permission"
    except OSError as error:
        reason = error.strerror or "it cannot be created"
    if not reason:
        return ""
    return f"the folder of ROS' logs, {folder}, cannot be written ({reason}); set ROS_LOG_DIR or ROS_HOME"


def log_folder(environ: Mapping[str, str]) -> Path:
    """The folder that rcl writes its logs to. Raises RuntimeError where it is in the home folder and HOME is unset."""
    if own := environ.get("ROS_LOG_DIR", ""):
        return _expanded(own, environ)
    return _expanded(environ.get("ROS_HOME") or "~/.ros", environ) / "log"


def _expanded(path: str, environ: Mapping[str, str]) -> Path:
    if not path.startswith("~"):
        return Path(path)
    home = environ.get("HOME", "")
    if not home:
        raise RuntimeError("HOME is not set")
    return Path(home + path[1:])


def _flag_faults(environ: Mapping[str, str]) -> list[str]:
    wrong = ((name, environ.get(name, "")) for name in FLAGS)
    return [
        f"{name} is {value!r}; set it to 0 or 1, or unset it" for name, value in wrong if value not in ("", "0", "1")
    ]
