"""Cameras: intrinsics, clock synchronisation, frame synchronisation, and RealSense cameras through librealsense."""
