import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxact import theory


@pytest.mark.parametrize("n", [1, 2, 64])
def test_newman_exponents_against_multiprecision(x64, close, n):
    exact = [
        float((mpmath.log(2 * mpmath.mpf(3) / n) + mpmath.digamma(mpmath.mpf(n - i) / 2)) / 2)
        for i in range(n)
    ]
    close(theory.newman_exponents(n, variance=3.0), exact, atol=1e-15)


def test_newman_exponents_in_float32():
    exact = [float((mpmath.log(2 / 64) + mpmath.digamma((64 - i) / 2)) / 2) for i in range(64)]
    np.testing.assert_allclose(theory.newman_exponents(64), exact, atol=2e-7)


def test_newman_exponents_are_the_means_of_qr_diagonals(x64):
    n, layers = 16, 4000
    rng = np.random.default_rng(0)
    q = np.eye(n)
    logs = []
    for _ in range(layers):
        q, r = np.linalg.qr(rng.normal(size=(n, n)) / np.sqrt(n) @ q)
        logs.append(np.log(np.abs(np.diagonal(r))))
    logs = np.array(logs)
    error = logs.mean(0) - theory.newman_exponents(n)
    assert np.all(np.abs(error) < 4 * logs.std(0) / np.sqrt(layers))


def test_bad_values():
    with pytest.raises(ValueError, match="n must be an integer of at least 1; got 0"):
        theory.newman_exponents(0)
    with pytest.raises(ValueError, match="variance must be positive"):
        theory.newman_exponents(4, variance=jnp.asarray(-1.0))
