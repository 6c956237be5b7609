"""What works here, and whether a checkpoint folder is sound."""
