"""What was recorded, done again by today's code, and compared: by the engine, by the controller, by the nodes."""
