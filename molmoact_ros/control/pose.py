"""A pose of the hand in the base frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation


@dataclass(frozen=True)
class Pose:
    """`position` float64 [3] m and `rotation` of `fr3_hand_tcp` in `fr3_link0`."""

    position: np.ndarray
    rotation: Rotation
