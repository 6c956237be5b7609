"""Visualisation for operators: the plan overlaid on the image, the trace in 3D, videos."""
