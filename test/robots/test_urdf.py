"""The URDF says of every link where it is what the MJCF model says. MuJoCo reads it back."""

from __future__ import annotations

from xml.etree import ElementTree

import mujoco
import numpy as np
import pytest

from molmoact_ros.robots.forward_kinematics import Links
from molmoact_ros.robots.franka import PAIR, SINGLE, Arm
from molmoact_ros.robots.urdf import urdf
from molmoact_ros.utils.paths import robot_model

# MuJoCo joins fixed links and leaves their names out, unless told not to.
KEEP = '<mujoco><compiler fusestatic="false" discardvisual="false"/></mujoco>'


@pytest.mark.parametrize("arms", [(SINGLE,), PAIR])
def test_every_link_is_where_the_model_has_it(arms: tuple[Arm, ...]) -> None:
    links = Links(robot_model(), arms)
    text = urdf(links, arms)
    read = mujoco.MjModel.from_xml_string(text.replace("</robot>", f"{KEEP}</robot>"))
    data, rng = mujoco.MjData(read), np.random.default_rng(1)
    for _ in range(5):
        q = {name: rng.uniform(*links.model.joint(name).range) for name in links.joints}
        links.update(q)
        for name, value in q.items():
            data.qpos[read.joint(name).qposadr[0]] = value
            np.testing.assert_allclose(read.joint(name).range, links.model.joint(name).range, atol=1e-6)
        mujoco.mj_kinematics(read, data)
        for name in links.names:
            if name in [read.body(i).name for i in range(read.nbody)]:
                np.testing.assert_allclose(data.body(name).xpos, links.pose(name)[:3, 3], atol=1e-6)
                np.testing.assert_allclose(data.body(name).xmat.reshape(3, 3), links.pose(name)[:3, :3], atol=1e-6)
    assert read.body_mass.sum() == pytest.approx(links.model.body_mass.sum(), abs=1e-4)


def test_it_is_a_tree_of_all_frames_with_the_fcis_limits() -> None:
    robot = ElementTree.fromstring(urdf(Links(robot_model()), (SINGLE,)))
    links = [link.get("name") for link in robot.iter("link")]
    children = [joint.find("child").get("link") for joint in robot.iter("joint")]  # type: ignore[union-attr]
    assert set(links) - set(children) == {"fr3_link0"} and len(children) == len(set(children))
    assert {"fr3_link7", "fr3_hand", "fr3_hand_tcp", "fr3_leftfinger"} <= set(links)
    speeds = {joint.get("name"): joint.find("limit") for joint in robot.iter("joint")}
    for name, speed in zip(SINGLE.joints, SINGLE.limits.velocity_max, strict=True):
        assert float(speeds[name].get("velocity")) == pytest.approx(speed)  # type: ignore[union-attr,arg-type]
    assert len(list(robot.iter("visual"))) > 20
