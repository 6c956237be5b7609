"""Trains a small MolmoAct 2 for the simulated workcell: state in, absolute joints out, by flow matching."""
