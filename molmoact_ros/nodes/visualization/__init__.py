"""Markers, robot state and images of the view and panel nodes."""
