"""The 1 kHz process that speaks libfranka's protocol, and its client."""
