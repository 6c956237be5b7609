"""MuJoCo workcells that simulate cameras and arms."""
