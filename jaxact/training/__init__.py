"""Data, the optax training loop, and checkpoints."""
