"""Pure, jit-compiled activation functions, exact in value and gradient."""
