"""Diagnostics of the environment and of checkpoint folders, and numerical parity with the released model."""
