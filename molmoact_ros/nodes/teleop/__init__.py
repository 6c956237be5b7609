"""The controller's teleoperation client that keyboard, joystick and panel share."""
