"""What every other part may use: paths, child processes, checks, provenance."""
