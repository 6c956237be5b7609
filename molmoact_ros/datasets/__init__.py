"""Conversion of episodes from and to other formats, such as LeRobot."""
