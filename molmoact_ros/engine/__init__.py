"""Inference engines that run the model: torch here, or vLLM."""
