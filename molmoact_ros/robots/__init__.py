"""Franka arms: joints, limits, kinematic models and the libfranka driver."""
