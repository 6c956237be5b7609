"""Messages for /tf and /tf_static."""

from __future__ import annotations

import mujoco
import numpy as np
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from std_msgs.msg import Header


def transform_message(head: Header, child: str, pose: np.ndarray) -> TransformStamped:
    """A frame's pose [4, 4] in the header's frame, as a message for /tf."""
    x, y, z = pose[:3, 3].tolist()
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, pose[:3, :3].ravel())  # a tenth of scipy's time, for each link ten times a second
    qw, qx, qy, qz = quaternion.tolist()
    place = Transform(translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(x=qx, y=qy, z=qz, w=qw))
    return TransformStamped(header=head, child_frame_id=child, transform=place)
