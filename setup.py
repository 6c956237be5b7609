"""Builds the ROS interfaces with CMake, as colcon does, and puts them into the wheel beside the Python sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import ament_package
import ninja
from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SOURCES = {ROOT: ROOT / "build" / "cmake", ROOT / "interfaces" / "tf2_msgs": ROOT / "build" / "tf2_msgs"}
"""What is built by CMake, and where: this package, and a message that PyPI lacks."""
STAGE = ROOT / "build" / "stage"
# Where ROS 2 is installed: the environment, or pip's temporary build environment.
ROS_PREFIX = Path(ament_package.__file__).parents[4]


class BuildWithInterfaces(build_py):
    """CMake generates, compiles and stages everything; setuptools only packs it."""

    def run(self) -> None:
        """Fill build_lib with the Python packages, and name libraries and data as data files of the wheel."""
        stage()
        for package in (f.parent for f in STAGE.glob("lib/python*/site-packages/*/__init__.py")):
            destination = Path(self.build_lib) / package.name
            shutil.rmtree(destination, ignore_errors=True)
            shutil.copytree(package, destination)
        files = [*STAGE.glob("lib/*.so"), *(f for f in STAGE.glob("share/**/*") if f.is_file())]
        folders = sorted({f.parent for f in files})
        self.distribution.data_files = [
            (str(folder.relative_to(STAGE)), [str(f.relative_to(ROOT)) for f in files if f.parent == folder])
            for folder in folders
        ]


class BinaryDistribution(Distribution):
    """The wheel holds compiled interfaces, so it is for one Python and one kind of machine."""

    def has_ext_modules(self) -> bool:
        """Always."""
        return True


def stage() -> None:
    """Configure, build and install all into STAGE. The build folders are kept, so a second time is quick."""
    shutil.rmtree(STAGE, ignore_errors=True)
    for source, folder in SOURCES.items():
        build(source, folder)


def build(source: Path, folder: Path) -> None:
    """Configure, build and install one CMake project."""
    libraries = os.pathsep.join(filter(None, [str(ROS_PREFIX / "lib"), os.environ.get("LD_LIBRARY_PATH")]))
    environment = os.environ | {
        "AMENT_PREFIX_PATH": str(ROS_PREFIX),
        "CMAKE_PREFIX_PATH": str(ROS_PREFIX),
        "LD_LIBRARY_PATH": libraries,
    }
    cache = folder / "CMakeCache.txt"
    if cache.exists() and str(ROS_PREFIX) not in cache.read_text():
        shutil.rmtree(folder)  # another environment's
    options = {
        "CMAKE_INSTALL_PREFIX": STAGE,
        "CMAKE_MAKE_PROGRAM": Path(ninja.BIN_DIR) / "ninja",
        "Python3_EXECUTABLE": sys.executable,
        "BUILD_TESTING": "OFF",
    }
    settings = [f"-D{key}={value}" for key, value in options.items()]
    for arguments in (
        ["-S", source, "-B", folder, "-G", "Ninja", *settings],
        ["--build", folder],
        ["--install", folder],
    ):
        subprocess.run(["cmake", *map(str, arguments)], check=True, env=environment)


setup(
    packages=["molmoact_ros"],
    cmdclass={"build_py": BuildWithInterfaces},
    distclass=BinaryDistribution,
    setup_requires=[] if shutil.which("cmake") else ["cmake>=3.20"],  # the wheel is three times the distribution's
)
