"""Two arms, one controller and the scripted expert, as the profile starts them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import TwistStamped
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from molmoact_ros.bringup.episode_client import EpisodeClient, Session
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.msg import ActionChunk, SafetyStatus
from molmoact_ros.ros import qos

CAMERAS = ("front", "left_wrist", "right_wrist")
SMALL = {"front_size": [320, 240], "wrist_size": [212, 120]}


@pytest.mark.alone
def test_the_expert_lifts_the_tray_over_the_topics_and_a_person_may_take_one_arm(domain: int, tmp_path: Path) -> None:
    profile = Profile.read("bimanual_sim").with_parameters({"sim": SMALL})
    with Bringup(profile, tmp_path) as graph, Session("expert", CAMERAS) as client:
        client.wait_until_ready(profile.nodes, graph.check)
        chunks: list[ActionChunk] = []
        client.create_subscription(ActionChunk, "/expert/action_chunk", chunks.append, qos.RELIABLE)
        asked = client.reset(3)
        assert asked == "lift the tray"
        episode = client.run(asked, 3, 60.0, graph.check)
        assert episode.success, episode.message
        assert {chunk.dimensions for chunk in chunks} == {14}
        assert client.now.images["left_wrist"].width == 212
        _a_person_takes_the_right_arm(client)


def _a_person_takes_the_right_arm(client: EpisodeClient) -> None:
    joints: list[JointState] = []
    client.create_subscription(JointState, "/joint_states", joints.append, qos.SENSOR)
    twists = client.create_publisher(TwistStamped, "/controller/teleop/right_twist", qos.RELIABLE)
    message = TwistStamped()
    message.header.frame_id, message.twist.linear.z = "right_fr3_link0", 0.1
    client.reset(4)
    client._spin(3.0)  # a stream that is there when its sender is discovered has to pause once
    before = dict(zip(joints[-1].name, joints[-1].position, strict=True))
    for _ in range(200):
        twists.publish(message)
        client._spin(0.05)
        if client.now.safety.state == SafetyStatus.TELEOP and _moved(joints[-1], before, "right_") > 0.05:
            break
    assert client.now.safety.reason == "an operator moves the arm: right_twist"
    assert _moved(joints[-1], before, "right_") > 0.05 > 0.01 > _moved(joints[-1], before, "left_")
    assert client._wait(client.create_client(Trigger, "/controller/stop").call_async(Trigger.Request()), "x").success


def _moved(message: JointState, before: dict[str, float], prefix: str) -> float:
    """By how many rad the joints of an arm have moved at most."""
    pairs = zip(message.name, message.position, strict=True)
    return float(np.max([abs(q - before[name]) for name, q in pairs if name.startswith(f"{prefix}fr3_joint")]))
