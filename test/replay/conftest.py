"""The golden bag, and copies of it with one thing changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from molmoact_ros.bags.bag import BagMessage, BagReader, BagWriter
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.utils.paths import default_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "bags"
Change = Callable[[str, Any], Any]
"""Of a topic and a message: the message to be written instead; None: none."""


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN / "pick"


@pytest.fixture(scope="session")
def nano() -> TorchEngine:
    return TorchEngine.load(default_checkpoint(), threads=1)


@pytest.fixture
def changed(tmp_path: Path, golden: Path) -> Callable[[Change], Path]:
    """A copy of the golden bag in which a function has changed the messages."""

    def copy(change: Change) -> Path:
        out = tmp_path / "changed"
        with BagReader(golden) as reader, BagWriter(out) as writer:
            for message in reader.messages():
                after = change(message.topic, reader.decode(message))
                if after is not None:
                    # As messages of today, which may have more fields than those of the bag.
                    data = writer.types.encode(writer.types.make(message.type_name, **vars(after)))
                    writer.write(BagMessage(message.topic, message.type_name, data, message.stamp_ns))
        return out

    return copy
