"""The web panel: its pages, who may use them, and what goes between browser and robot. No rclpy: nodes/panel.py has that."""
