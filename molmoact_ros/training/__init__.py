"""Demonstrations, training and evaluation of the nano model."""
