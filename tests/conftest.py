"""The tests run strict: no implicit promotion of dtype or rank, and every warning is an error.

The examples in docstrings and documentation run as a user's session does: with JAX's defaults.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
# LAPACK's own threads wait for each other by spinning: many times slower where workers share cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def strict_promotion():
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    yield
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    jax.config.update("jax_numpy_rank_promotion", "allow")


@pytest.fixture(scope="module")
def standard_promotion(strict_promotion):
    """JAX's own promotion of dtypes, for code of others that relies on it (optax's Adam)."""
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")
