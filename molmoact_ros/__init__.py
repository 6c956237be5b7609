"""MolmoAct ROS: a real-time robot control service on ROS 2 that runs MolmoAct."""

import os

# The simulator renders without a screen; MuJoCo reads this when it is first imported.
os.environ.setdefault("MUJOCO_GL", "egl")
