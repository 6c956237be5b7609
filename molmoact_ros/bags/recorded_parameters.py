"""Parameters of a recorded node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from molmoact_ros.bags.recording import Recording


def parameters(recording: Recording, node: str) -> dict[str, Any]:
    """The last recorded values of a node's parameters; empty if none were recorded."""
    events = [*recording.decoded("/recorder/parameters"), *recording.decoded("/parameter_events")]
    return parameter_values(event for _, event in events).get(recording.names.namespace + node, {})


def parameter_values(events: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """The last values of each node's parameters by decoded ParameterEvents, in their order."""
    out: dict[str, dict[str, Any]] = {}
    for event in events:
        for parameter in [*event.new_parameters, *event.changed_parameters]:
            out.setdefault(str(event.node), {})[parameter.name] = _value(parameter.value)
    return out


def _value(value: Any) -> Any:
    """The value of a ParameterValue, by its type in rcl_interfaces/msg/ParameterType."""
    names = {1: "bool", 2: "integer", 3: "double", 4: "string", 5: "byte_array", 6: "bool_array", 7: "integer_array",
             8: "double_array", 9: "string_array"}  # fmt: skip
    name = names.get(value.type)
    held: Any = None if name is None else getattr(value, f"{name}_value")
    return held.tolist() if isinstance(held, np.ndarray) else held
