"""The MuJoCo workcell that stands in for cameras and arm."""
