"""The web panel: pages, access control, and the protocol between browser and robot. The ROS side is nodes/panel.py."""
