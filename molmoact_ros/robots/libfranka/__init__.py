"""The 1 kHz process that drives an arm with libfranka, and its client."""
