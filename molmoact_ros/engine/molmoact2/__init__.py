"""MolmoAct 2: a decoder that reads images and the robot's state, and an expert that integrates noise to actions."""
