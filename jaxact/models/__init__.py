"""Flax NNX residual networks in which wiring, norm, skip and activation are values."""
