"""Demonstrations by scripted experts, and training of the nano model."""
