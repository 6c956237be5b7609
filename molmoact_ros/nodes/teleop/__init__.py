"""What keyboard, joystick and panel share to drive the controller."""
