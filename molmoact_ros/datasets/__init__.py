"""Episodes in and out of other formats."""
