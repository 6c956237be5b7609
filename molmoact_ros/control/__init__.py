"""From the action chunk to limited joint commands: pure functions and small state machines."""
