"""What `molmoact-ros bench` measures."""
