"""The arms' URDF, generated from the MJCF model, for rviz and robot_state_publisher.

It has the frames, joints, limits, masses and primitive geoms of models/fr3. franka_description has the robot's meshes;
where robot_state_publisher already publishes that description, this one is not needed.
"""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import mujoco
import numpy as np

from molmoact_ros.robots.forward_kinematics import WORLD, Links
from molmoact_ros.robots.franka import Arm

FINGER_SPEED, FINGER_FORCE = 0.05, 70.0  # m/s, N (Franka Hand datasheet)


def urdf(links: Links, arms: tuple[Arm, ...]) -> str:
    """The URDF of `links`, which were built from `arms`."""
    robot = Element("robot", name=arms[0].robot)
    if WORLD in links.parents.values():
        SubElement(robot, "link", name=WORLD)
    limits = {
        joint: (float(speed), float(force))
        for arm in arms
        for joint, speed, force in zip(arm.joints, arm.limits.velocity_max, arm.limits.torque_max, strict=True)
    }
    limits |= {finger: (FINGER_SPEED, FINGER_FORCE) for arm in arms for finger in arm.fingers}
    links.update(dict.fromkeys(links.joints, 0.0))
    for name in links.names:
        _add_link(robot, links.model, name)
        if name in links.parents:
            _add_joint(robot, links, name, limits)
    ElementTree.indent(robot)
    return ElementTree.tostring(robot, encoding="unicode", xml_declaration=True)


def _add_link(robot: Element, model: mujoco.MjModel, name: str) -> None:
    link = SubElement(robot, "link", name=name)
    body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)
    if body < 0:
        return  # a frame without mass or geometry
    inertial = SubElement(link, "inertial")
    _origin(inertial, model.body_ipos[body], _turn(model.body_iquat[body]))
    SubElement(inertial, "mass", value=_text(model.body_mass[body]))
    xx, yy, zz = map(_text, model.body_inertia[body])
    SubElement(inertial, "inertia", ixx=xx, iyy=yy, izz=zz, ixy="0", ixz="0", iyz="0")
    for geom in range(model.body_geomadr[body], model.body_geomadr[body] + model.body_geomnum[body]):
        _add_shape(link, model, geom)


def _add_shape(link: Element, model: mujoco.MjModel, geom: int) -> None:
    at, turn, size = model.geom_pos[geom], _turn(model.geom_quat[geom]), model.geom_size[geom]
    kind, colour = model.geom_type[geom], model.geom_rgba[geom]
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        _visual(link, at, turn, colour, "box", size=_text(*(2 * size)))
        return
    length = _text(2 * size[1])
    _visual(link, at, turn, colour, "cylinder", radius=_text(size[0]), length=length)
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:  # URDF has no capsule
        for end in (-size[1], size[1]):
            _visual(link, at + turn @ [0, 0, end], turn, colour, "sphere", radius=_text(size[0]))


def _visual(
    link: Element, at: np.ndarray, turn: np.ndarray, colour: np.ndarray, shape: str, **sizes: str
) -> None:  # fmt: skip
    visual = SubElement(link, "visual")
    _origin(visual, at, turn)
    SubElement(SubElement(visual, "geometry"), shape, sizes)
    material = SubElement(visual, "material", name="_".join(f"{round(255 * c):02x}" for c in colour))
    SubElement(material, "color", rgba=_text(*colour))


def _add_joint(robot: Element, links: Links, name: str, limits: dict[str, tuple[float, float]]) -> None:
    model, pose = links.model, links.in_parent(name)
    body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)
    moves = body >= 0 and model.body_jntnum[body] == 1
    number = model.body_jntadr[body]
    kind = "fixed"
    if moves:
        kind = "prismatic" if model.jnt_type[number] == mujoco.mjtJoint.mjJNT_SLIDE else "revolute"
    joint = SubElement(robot, "joint", name=model.joint(number).name if moves else f"{name}_fixed", type=kind)
    _origin(joint, pose[:3, 3], pose[:3, :3])
    SubElement(joint, "parent", link=links.parents[name])
    SubElement(joint, "child", link=name)
    if moves:
        low, high = model.jnt_range[number]
        speed, force = limits[model.joint(number).name]
        SubElement(joint, "axis", xyz=_text(*model.jnt_axis[number]))
        SubElement(
            joint, "limit", lower=_text(low), upper=_text(high), velocity=_text(speed), effort=_text(force)
        )  # fmt: skip


def _origin(element: Element, at: np.ndarray, turn: np.ndarray) -> None:
    SubElement(element, "origin", xyz=_text(*at), rpy=_text(*_roll_pitch_yaw(turn)))


def _roll_pitch_yaw(turn: np.ndarray) -> tuple[float, float, float]:
    """Roll, pitch, yaw of a rotation [3, 3] about fixed axes; in gimbal lock, yaw is 0 and roll has all of the turn."""
    flat = np.hypot(turn[0, 0], turn[1, 0])
    pitch = np.arctan2(-turn[2, 0], flat)
    if flat < 1e-9:
        return float(np.arctan2(-turn[1, 2], turn[1, 1])), float(pitch), 0.0
    return float(np.arctan2(turn[2, 1], turn[2, 2])), float(pitch), float(np.arctan2(turn[1, 0], turn[0, 0]))


def _turn(quaternion: np.ndarray) -> np.ndarray:
    out = np.empty(9)
    mujoco.mju_quat2Mat(out, quaternion)
    return out.reshape(3, 3)


def _text(*values: float) -> str:
    return " ".join(f"{value:.9g}" for value in values)
