"""MolmoAct's network, its configuration, checkpoint and image processor."""
