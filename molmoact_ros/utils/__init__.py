"""Utilities for all other packages: paths, child processes, checks, provenance."""
