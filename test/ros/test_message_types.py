"""Message classes by the names that bags and graphs give them."""

from __future__ import annotations

import pytest
from sensor_msgs.msg import JointState

from molmoact_ros.ros.message_types import message_class


@pytest.mark.parametrize(
    "name",
    ["", "Note", "foxglove.Log", "sensor_msgs/JointState", "sensor_msgs/msg/", "/msg/JointState",
     "std_srvs/srv/Trigger_Event", "nowhere_msgs/msg/Thing", "sensor_msgs/msg/Nothing"],
)  # fmt: skip
def test_a_name_that_no_message_has_is_none(name: str) -> None:
    assert message_class(name) is None


def test_a_message_is_found() -> None:
    assert message_class("sensor_msgs/msg/JointState") is JointState
