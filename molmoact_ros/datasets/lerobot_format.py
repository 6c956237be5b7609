"""Layouts of LeRobot datasets, versions 2.1 and 3.0: names of files, columns and fields of meta/info.json."""

from __future__ import annotations

from typing import Any, Final, Literal

Version = Literal["3.0", "2.1"]
VERSIONS: Final[tuple[Version, ...]] = ("3.0", "2.1")
"""The versions that are written, the default first."""
CHUNKS_SIZE: Final = 1000
"""Files in a folder at most."""
DATA_MB: Final = 100
"""Size of a file of version 3.0, in memory, from which on another one begins, MB: LeRobot's default."""

DATA: Final = {
    "2.1": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "3.0": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
}
VIDEO: Final = {
    "2.1": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    "3.0": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}
EPISODES: Final = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
TASKS: Final = "meta/tasks.parquet"

INTERVENTION: Final = "intervention"
OUTCOME: Final = "outcome"
"""Columns of ours: whether a person had taken over from a policy; success or failure, empty where it is not known."""


def image_keys(count: int) -> list[str]:
    """Names of the image columns for `count` cameras, as MolmoAct's tools expect them."""
    return ["image", "wrist_image", *(f"wrist_image_{k}" for k in range(2, count))][:count]


def file_place(number: int) -> dict[str, int]:
    """The folder and the name of the file `number` of version 3.0."""
    return {"chunk_index": number // CHUNKS_SIZE, "file_index": number % CHUNKS_SIZE}


def import_pyarrow() -> Any:
    """Import pyarrow. Raises RuntimeError, with how to install it, if it is missing."""
    try:
        import pyarrow
    except ImportError:
        raise RuntimeError("LeRobot datasets need pyarrow: pip install 'molmoact_ros[lerobot]'") from None
    return pyarrow


def import_parquet() -> Any:
    """Import pyarrow.parquet. Raises RuntimeError like `import_pyarrow`."""
    import_pyarrow()
    import pyarrow.parquet

    return pyarrow.parquet
