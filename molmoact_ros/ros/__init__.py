"""What several nodes share: QoS, parameters, polling, lifecycle, conversions."""
