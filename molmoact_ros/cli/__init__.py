"""The command `molmoact-ros`, one file for each command."""
