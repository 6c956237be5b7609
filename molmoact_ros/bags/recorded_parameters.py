"""Parameters of a recorded node."""

from __future__ import annotations

from typing import Any

import numpy as np

from molmoact_ros.bags.recording import Recording


def parameters(recording: Recording, node: str) -> dict[str, Any]:
    """The last recorded values of a node's parameters; empty if none were recorded."""
    out: dict[str, Any] = {}
    for _, event in [*recording.decoded("/recorder/parameters"), *recording.decoded("/parameter_events")]:
        if event.node == recording.names.namespace + node:
            for parameter in [*event.new_parameters, *event.changed_parameters]:
                out[parameter.name] = _value(parameter.value)
    return out


def _value(value: Any) -> Any:
    """The value of a ParameterValue, by its type in rcl_interfaces/msg/ParameterType."""
    names = {1: "bool", 2: "integer", 3: "double", 4: "string", 5: "byte_array", 6: "bool_array", 7: "integer_array",
             8: "double_array", 9: "string_array"}  # fmt: skip
    name = names.get(value.type)
    held: Any = None if name is None else getattr(value, f"{name}_value")
    return held.tolist() if isinstance(held, np.ndarray) else held
