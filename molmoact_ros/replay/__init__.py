"""Replay of recordings through the present engine, controller and nodes, and comparison with what was recorded."""
