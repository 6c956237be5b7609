"""The web panel: its pages, who may use them, and what goes between browser and robot. The ROS side: nodes/panel.py."""
