"""The vLLM back end: vLLM on this machine or as a remote server."""
