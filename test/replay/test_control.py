"""What people said in a bag, as the replayed controller hears it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from molmoact_ros.control.controller import Controller, ControllerConfig
from molmoact_ros.control.teleop import TeleopConfig
from molmoact_ros.replay.control import _pass_teleop_on
from molmoact_ros.utils.paths import robot_model


@pytest.mark.parametrize("stamped", ["", "_stamped"])
def test_c5_a_gripper_and_a_dead_mans_switch_are_heard_with_a_stamp_and_without(stamped: str) -> None:
    controller = Controller(robot_model(), ControllerConfig(teleop=TeleopConfig(deadman=True)))
    held = SimpleNamespace(held=True) if stamped else SimpleNamespace(data=True)
    opening = SimpleNamespace(opening=0.03) if stamped else SimpleNamespace(data=0.03)
    _pass_teleop_on(controller, f"gripper{stamped}", opening, 1.0)
    assert not controller.arms[0].teleop.active(1.0), "nobody holds the switch"
    _pass_teleop_on(controller, f"deadman{stamped}", held, 1.0)
    assert controller.arms[0].teleop.wish(1.0).opening == 0.03
