"""Paths of the installed data: models, configuration and launch files."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path


def share() -> Path:
    """The folder with `models`, `config` and `launch`: `<prefix>/share/molmoact_ros`, or a source checkout's root.

    Works for a pip environment and for a colcon workspace: both keep Python in `<prefix>/lib/python3.x/...`.
    Raises FileNotFoundError when the installation is incomplete.
    """
    for parent in Path(__file__).resolve().parents[1:]:
        for folder in (parent / "share" / "molmoact_ros", parent):
            if (folder / "package.xml").is_file() and (folder / "models").is_dir():
                return folder
    raise FileNotFoundError("the data of molmoact_ros is not installed; run `make setup`, or `colcon build`, again")


def robot_model() -> Path:
    """The FR3's MJCF file."""
    return share() / "models" / "fr3" / "fr3.xml"


def default_checkpoint() -> Path:
    """The folder of the nano model."""
    return share() / "models" / "nano"


def shape(name: str) -> Path:
    """The folder with the config.json of a model shape, such as 7b-d; `name` may also be the path of a checkpoint."""
    folder = share() / "config" / "shapes" / name
    return folder if folder.is_dir() else Path(name)


def profile(name: str) -> Path:
    """The file of a profile; `name` may also be the path of your own profile, such as mine.yaml.

    Raises FileNotFoundError that lists the known profiles.
    """
    folder = share() / "config" / "profiles"
    file = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(f.stem for f in folder.glob("*.yaml")))
        raise FileNotFoundError(f"there is no profile {name!r}; choose one of: {known}, or a .yaml file of your own")
    return file


def fastdds_profile() -> Path:
    """Fast DDS settings with shared memory sized for RGB-D images; set FASTRTPS_DEFAULT_PROFILES_FILE to this path."""
    return share() / "config" / "fastdds.xml"


def checkpoint_of(args: Namespace) -> Path:
    """The checkpoint folder given on the command line, or the default one."""
    return Path(args.checkpoint or default_checkpoint()).resolve()
