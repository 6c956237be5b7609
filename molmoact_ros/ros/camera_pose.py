"""The result of a calibration as a file: a camera's pose as a static transform."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Self

import numpy as np
import yaml
from geometry_msgs.msg import TransformStamped
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from scipy.spatial.transform import Rotation

from molmoact_ros.ros import conversions
from molmoact_ros.ros.transforms import transform_message
from molmoact_ros.utils.whole_file import write_whole

UNIT: Final = 1e-3
"""Greatest difference of a quaternion's norm from 1."""
Number = Annotated[float, Field(allow_inf_nan=False)]


class CameraPose(BaseModel):
    """A static transform as `molmoact-ros calibrate` writes it, and `view` publishes it.

    parent, child: frames. translation: of the child in the parent, x, y, z in m. rotation: quaternion x, y, z, w.
    about: what it was computed from, for people.

    Example:
        CameraPose.of("fr3_link0", "front_color_optical_frame", np.eye(4)).write(Path("front.yaml"))
        pose = CameraPose.read(Path("front.yaml"))  # ValueError, in one line, for what is none
    """

    model_config = ConfigDict(extra="forbid")
    parent: str = Field(min_length=1)
    child: str = Field(min_length=1)
    translation: tuple[Number, Number, Number]
    rotation: tuple[Number, Number, Number, Number]
    about: dict[str, Any] = {}

    @field_validator("rotation")
    @classmethod
    def _is_unit(cls, rotation: tuple[float, ...]) -> tuple[float, ...]:
        if abs(float(np.linalg.norm(rotation)) - 1.0) > UNIT:
            raise ValueError("the quaternion x, y, z, w has not the length 1")
        return rotation

    @classmethod
    def of(cls, parent: str, child: str, pose: np.ndarray, about: dict[str, Any] | None = None) -> Self:
        """From the child's pose [4, 4] in the parent."""
        x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat().tolist()
        place = tuple(pose[:3, 3].tolist())
        return cls(parent=parent, child=child, translation=place, rotation=(x, y, z, w), about=about or {})

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read a file. Raises FileNotFoundError, and ValueError in one line for what is no such file."""
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} does not exist; write it with molmoact-ros calibrate, and give its whole path"
            )
        try:
            return cls.model_validate(yaml.safe_load(file.read_text()))
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise ValueError(f"{file} is no file of molmoact-ros calibrate: it is not YAML") from None

    def write(self, file: Path) -> None:
        """Write the file."""
        write_whole(file, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))

    @property
    def pose(self) -> np.ndarray:
        """The child's pose in the parent, float64 [4, 4]."""
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = Rotation.from_quat(self.rotation).as_matrix(), self.translation
        return pose

    def message(self) -> TransformStamped:
        """The transform for /tf_static."""
        return transform_message(conversions.header(0.0, self.parent), self.child, self.pose)

    def command(self) -> str:
        """The command that publishes it on a workstation with ROS."""
        numbers = zip(("x", "y", "z", "qx", "qy", "qz", "qw"), (*self.translation, *self.rotation), strict=True)
        values = " ".join(f"--{name} {value:.6f}" for name, value in numbers)
        frames = f"--frame-id {self.parent} --child-frame-id {self.child}"
        return f"ros2 run tf2_ros static_transform_publisher {values} {frames}"
