"""Layout of LeRobot datasets, version 2.1: names of files and columns."""

from __future__ import annotations

from typing import Any, Final

CHUNKS_SIZE: Final = 1000

DATA: Final = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"

VIDEO: Final = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


def image_keys(count: int) -> list[str]:
    """Names of the image columns for `count` cameras, as MolmoAct's tools expect them."""
    return ["image", "wrist_image", *(f"wrist_image_{k}" for k in range(2, count))][:count]


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
