"""Answers by vLLM, in this process or by its server."""
