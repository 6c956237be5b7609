"""Cameras: what they are, when their pictures were taken, and RealSense cameras through Intel's library."""
