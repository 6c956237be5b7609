"""Autoregressive decoding: constrained, speculative and batched decoding, CUDA graphs and the CPU kernel."""
