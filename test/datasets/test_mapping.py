"""Mappings follow names, whatever the order; what is printed gives the same mapping; nonsense is one line."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.datasets.camera_names import match_cameras
from molmoact_ros.datasets.feature_roles import ROLES, names_of, roles_of
from molmoact_ros.datasets.gripper_scale import TOLERANCE, GripperScale, parse_gripper
from molmoact_ros.datasets.hand_source import HandSource
from molmoact_ros.datasets.mapping import DatasetMapping
from molmoact_ros.datasets.mapping_options import MappingOptions, choose_mapping

FRAMES = 4
FIXED = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
SPELLINGS = {
    "x": ("x", "pos_x", "ee.x", "eef_pos_x", "delta_x", "dx", "delta_x_ee"),
    "y": ("y", "pos_y", "ee.y", "eef_pos_y", "delta_y", "dy", "delta_y_ee"),
    "z": ("z", "pos_z", "ee.z", "eef_pos_z", "delta_z", "dz", "delta_z_ee"),
    "roll": ("roll", "euler_x", "delta_roll", "eef.roll"),
    "pitch": ("pitch", "euler_y", "delta_pitch", "eef.pitch"),
    "yaw": ("yaw", "euler_z", "delta_yaw", "eef.yaw"),
    "gripper": ("gripper", "gripper.pos", "gripper_position", "gripper_open"),
}
UNUSED = ("pad", "timestamp", "x_velocity", "gripper_force", "joint_vel_3", "rot_x", "motor_1")


def no_kinematics() -> Kinematics:
    raise AssertionError("poses need no kinematics")


def mapping_of(features: dict[str, Any], table: dict[str, np.ndarray], options: MappingOptions) -> DatasetMapping:
    stated = {"info": {"gripper": {"open": 1.0, "closed": 0.0}}}
    return choose_mapping({key: of | stated for key, of in features.items()}, ["front", "wrist"], options)


def poses(seed: int) -> np.ndarray:
    """Rows as FIXED has them [FRAMES, 7], with a gripper that opens."""
    random = np.random.default_rng(seed)
    low, high = [0.2, -0.4, 0.0, -3.1, -1.5, -3.1], [0.7, 0.4, 0.6, 3.1, 1.5, 3.1]
    return np.column_stack([random.uniform(low, high, (FRAMES, 6)), np.linspace(0, 1, FRAMES)])


@given(st.permutations(range(7)), st.lists(st.sampled_from(UNUSED), max_size=3), st.integers(0, 6), st.integers(0, 99))
def test_states_follow_names_whatever_their_order(
    order: list[int], unused: list[str], spelling: int, seed: int
) -> None:
    rows, names = poses(seed), [SPELLINGS[role][spelling % len(SPELLINGS[role])] for role in FIXED]
    mixed = np.column_stack([rows[:, order], np.full((FRAMES, len(unused)), 1e3)])
    features = {
        "observation.state": {"shape": [mixed.shape[1]], "names": {"motors": [names[k] for k in order] + unused}},
        "action": {"shape": [7], "names": None},
    }
    table = {"observation.state": mixed.astype(np.float32), "action": np.zeros((FRAMES, 7), np.float32)}
    mapping = mapping_of(features, table, MappingOptions())
    np.testing.assert_array_equal(mapping.states(table, no_kinematics), rows.astype(np.float32))
    again = shlex.split(str(mapping))
    given_in_full = MappingOptions(again[1].split(","), *again[3::2])
    assert str(mapping_of(features, table, given_in_full)) == str(mapping)
    np.testing.assert_array_equal(
        mapping_of(features, table, given_in_full).states(table, no_kinematics), rows.astype(np.float32)
    )


@given(st.integers(0, 999))
def test_the_forms_of_a_rotation_mean_the_same(seed: int) -> None:
    rows = poses(seed)
    turns = Rotation.from_euler("xyz", rows[:, 3:6])
    forms = {"x,y,z,rx,ry,rz,gripper": turns.as_rotvec(), "x,y,z,qx,qy,qz,qw,gripper": turns.as_quat()}
    for roles, values in forms.items():
        state = np.column_stack([rows[:, :3], values, rows[:, 6]])
        features = {"state": {"shape": [state.shape[1]]}, "actions": {"shape": [7]}}
        table = {"state": state, "actions": np.zeros((FRAMES, 7))}
        states = mapping_of(features, table, MappingOptions(state=roles)).states(table, no_kinematics)
        found = Rotation.from_euler("xyz", states[:, 3:6])
        assert (found * turns.inv()).magnitude().max() < 1e-5


@given(st.integers(0, 999), st.floats(0.01, 2.0), st.floats(0.01, 2.0))
def test_displacements_are_scaled_and_poses_add_up(seed: int, position: float, angle: float) -> None:
    rows = poses(seed)
    features = {"state": {"shape": [7]}, "actions": {"shape": [7]}}
    rows[:, :3] = rows[0, :3] + 0.1 * (rows[:, :3] - rows[0, :3])  # targets are near the states
    table = {"state": rows, "actions": np.roll(rows, -1, axis=0)}
    as_poses = mapping_of(features, table, MappingOptions(actions="x,y,z,roll,pitch,yaw,gripper"))
    moved = as_poses.deltas(table, rows, 10, no_kinematics)
    np.testing.assert_allclose(rows[0, :3] + np.cumsum(moved[:, :3], axis=0), table["actions"][:, :3], atol=1e-5)
    turn = Rotation.from_euler("xyz", rows[0, 3:6])
    for k in range(FRAMES):
        turn = Rotation.from_euler("xyz", moved[k, 3:6]) * turn
    assert (turn * Rotation.from_euler("xyz", table["actions"][-1, 3:6]).inv()).magnitude() < 1e-5
    scaled = mapping_of(features, table, MappingOptions(action_scale=f"{position},{angle}"))
    expected = table["actions"] * [*[position] * 3, *[angle] * 3, 1.0]
    np.testing.assert_allclose(scaled.deltas(table, rows, 10, no_kinematics), expected, rtol=1e-5, atol=1e-6)


@given(st.floats(-300, 300), st.floats(-300, 300), st.lists(st.floats(0, 1), min_size=1, max_size=9), st.floats(0.1, 9))
def test_a_gripper_scale_leads_to_open_and_closed(opened: float, closed: float, parts: list[float], out: float) -> None:
    if abs(opened - closed) < 1e-3:
        return
    scale = parse_gripper(f"state={opened!r}:{closed!r}")["state"]
    values = closed + np.array(parts) * (opened - closed)
    np.testing.assert_allclose(scale.apply(values, "state"), parts, atol=1e-6)
    beyond = np.append(values, opened + (TOLERANCE + out) * (opened - closed))
    with pytest.raises(ValueError, match="the gripper's actions lie in .* say how they are meant: --gripper libero"):
        scale.apply(beyond, "actions")


@given(st.permutations(["top", "wrist_cam", "side"]), st.permutations(["a/front", "hand", "exterior_2"]))
def test_cameras_follow_names_whatever_their_order(first: list[str], second: list[str]) -> None:
    assert match_cameras(first, ["front", "wrist"]) == {"front": "top", "wrist": "wrist_cam"}
    assert match_cameras(second, ["front", "wrist"]) == {"front": "a/front", "wrist": "hand"}
    assert match_cameras(second, ["wrist"]) == {"wrist": "hand"}
    assert match_cameras(first, ["front=side", "wrist"]) == {"front": "side", "wrist": "wrist_cam"}


@given(st.permutations(["cam_high", "cam_left_wrist", "cam_right_wrist"]))
def test_sides_are_told_apart(keys: list[str]) -> None:
    wanted = ["front", "right_wrist", "left_wrist"]
    expected = {"front": "cam_high", "right_wrist": "cam_right_wrist", "left_wrist": "cam_left_wrist"}
    assert match_cameras(keys, wanted) == expected


@given(
    st.lists(st.sampled_from(["wrist", "image", "image_2", "hand_eye", "front", "top", "x.y"]), unique=True),
    st.lists(st.sampled_from(["front", "wrist", "left_wrist", "side", "front=top", "side=nowhere"]), max_size=4),
)
def test_every_camera_is_used_once_or_refused_in_a_line(keys: list[str], wanted: list[str]) -> None:
    try:
        found = match_cameras(keys, wanted)
    except ValueError as refusal:
        assert "\n" not in str(refusal)
        return
    assert list(found) == [name.split("=")[0] for name in wanted]
    assert len(set(found.values())) == len(found) and set(found.values()) <= set(keys)


@given(st.recursive(st.one_of(st.none(), st.integers(-3, 9), st.text(max_size=6), st.floats()), lambda inner: st.one_of(
    st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)), max_leaves=9))  # fmt: skip
def test_names_of_any_form_are_read_or_ignored(names: Any) -> None:
    found = names_of({"shape": [3], "names": names})
    assert len(found) in (0, 3)
    assert set(roles_of(found)) <= ROLES


@given(st.text(alphabet="abxyz0123456789.:=,-;dgripoe ", max_size=30))
def test_options_are_understood_or_refused_in_a_line(text: str) -> None:
    features = {"state": {"shape": [7]}, "actions": {"shape": [7]}}
    table = {"state": poses(0), "actions": np.zeros((FRAMES, 7))}
    for field in ("state", "actions", "gripper", "action_scale"):
        try:
            given_alone: dict[str, Any] = {field: text}
            mapping_of(features, table, MappingOptions(**given_alone))
        except ValueError as refusal:
            assert "\n" not in str(refusal)
    try:
        HandSource.parse(text)
    except ValueError as refusal:
        assert "\n" not in str(refusal)


@pytest.mark.parametrize(("given", "expected"), [
    ("libero", {"state": GripperScale(0.08, 0.0), "actions": GripperScale(-1.0, 1.0)}),
    ("droid", {"state": GripperScale(0.0, 1.0), "actions": GripperScale(0.0, 1.0)}),
    ("actions=-1:1", {"actions": GripperScale(-1.0, 1.0)}),
    ("state=0.8:0, actions=255:0", {"state": GripperScale(0.8, 0.0), "actions": GripperScale(255.0, 0.0)}),
    ("", {}),
])  # fmt: skip
def test_gripper_options(given: str, expected: dict[str, GripperScale]) -> None:
    assert parse_gripper(given) == expected


@pytest.mark.parametrize("given", ["open", "state=1", "state=1:1", "state=nan:0", "state=1:inf", "hand=1:0", ","])
def test_wrong_gripper_options(given: str) -> None:
    with pytest.raises(ValueError, match="--gripper .*(not understood|the same)"):
        parse_gripper(given)


@pytest.mark.parametrize(("names", "roles"), [
    (["x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3", "gripper", "gripper"],
     "x y z rx ry rz finger finger"),
    (["x", "y", "z", "roll", "pitch", "yaw", "pad", "gripper"], "x y z roll pitch yaw - gripper"),
    (["x", "y", "z", "rx", "ry", "rz", "rw", "gripper"], "x y z qx qy qz qw gripper"),  # Open X's POS_QUAT
    ([f"panda_joint{k}" for k in range(1, 8)], " ".join(f"joint{k}" for k in range(1, 8))),
    ([f"fr3_joint{k}.pos" for k in range(1, 8)] + ["fr3_finger_joint1"],
     " ".join(f"joint{k}" for k in range(1, 8)) + " finger"),
    ([f"joint_position_{k}" for k in range(7)], " ".join(f"joint{k}" for k in range(1, 8))),
    ([f"joint_{k}" for k in range(6)], " ".join("-" * 6)),
    (["shoulder_pan.pos", "elbow_flex.pos", "wrist_roll.pos", "gripper.pos"], "- - - gripper"),
    (["quat_x", "quat_y", "quat_z", "quat_w"], "qx qy qz qw"),
    (["q0", "q1", "q2", "q3", "q4", "q5", "q6"], " ".join(f"joint{k}" for k in range(1, 8))),
])  # fmt: skip
def test_names_of_known_datasets(names: list[str], roles: str) -> None:
    assert roles_of(names) == tuple(roles.split())
