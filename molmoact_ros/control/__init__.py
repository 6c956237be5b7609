"""From action chunks and teleoperation to limited joint commands: pure functions and small state machines."""
