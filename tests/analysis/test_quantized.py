"""Weights of few values: recognised, and the size of their rounding against the true one."""

import ml_dtypes
import numpy as np
import pytest

from jaxact import analysis

W = np.random.default_rng(0).normal(size=(512, 1024))
# The sixteen values of 4-bit NormalFloat (Dettmers et al. 2023, appendix E), to four digits.
NF4 = np.array([-1, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0,
                0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1])  # fmt: skip


def rounded(w, levels, axis=None):
    step = np.abs(w).max(axis=axis, keepdims=axis is not None) / levels
    return np.round(w / step) * step


def in_groups(w, size, by):
    groups = w.reshape(len(w), -1, size)
    scale = np.abs(groups).max(-1, keepdims=True)
    return (by(groups / scale) * scale).reshape(w.shape)


QUANTIZED = {
    "8 bits": lambda w: rounded(w, 127),
    "8 bits by row": lambda w: rounded(w, 127, 1),
    "8 bits by row, in bfloat16": lambda w: rounded(w, 127, 1).astype(ml_dtypes.bfloat16),
    "4 bits by column": lambda w: rounded(w, 7, 0),
    "4 bits by groups": lambda w: in_groups(w, 32, lambda g: np.round(g * 7) / 7),
    "NF4": lambda w: in_groups(w, 64, lambda g: NF4[np.abs(g[..., None] - NF4).argmin(-1)]),
    "float8": lambda w: w.astype(ml_dtypes.float8_e4m3fn),
}
NOT = {
    "float64": W,
    "bfloat16": W.astype(ml_dtypes.bfloat16),
    "float16": W.astype(np.float16),
    "identity": np.eye(300),
    "permutation": np.eye(300)[np.random.default_rng(1).permutation(300)],
    "zeros": np.zeros((64, 64)),
    "mask": (W > 0).astype(float),
    "pruned": np.where(np.abs(W) > 2, W, 0),
    "constant rows": np.repeat(W[:, :1], 512, axis=1),
    "small": W[:8, :8].astype(ml_dtypes.bfloat16),
    "not finite": np.where(W > 4, np.inf, np.round(W)),
}


@pytest.mark.parametrize("kind", QUANTIZED)
def test_the_noise_is_that_of_the_rounding(kind):
    w = W.astype(np.float32)
    q = QUANTIZED[kind](w)
    error = np.asarray(q, float) - w
    found = analysis.rounding_noise(q)
    assert found == pytest.approx(error.std(), rel=0.07)
    edge = found * (512**0.5 + 1024**0.5)
    assert edge == pytest.approx(np.linalg.norm(error, 2), rel=0.1)


@pytest.mark.parametrize("kind", NOT)
def test_what_is_not_quantized(kind):
    assert analysis.rounding_noise(NOT[kind]) == 0


def test_the_numerical_rank_is_that_before_rounding():
    """A signal of rank 5, rounded to 63 levels, has full rank by precision and 5 by the floor."""
    rng = np.random.default_rng(2)
    signal = (rng.normal(size=(96, 5)) @ rng.normal(size=(5, 192))).astype(np.float32)
    matrices = {"rounded": rounded(signal, 31), "plain": signal, "dead": np.zeros_like(signal)}
    plain = analysis.measure_matrices(matrices)
    assert plain["numerical_rank"].value.tolist() == [96, 5, 0]
    assert "rounding_floor" not in plain
    found = analysis.measure_matrices(matrices, quantized=True)
    assert found["numerical_rank"].value.tolist() == [5, 5, 0]
    floor = found["rounding_floor"].value
    error = np.linalg.norm(matrices["rounded"] - signal, 2)
    assert float(floor[0]) == pytest.approx(error, rel=0.1)
    assert floor.tolist()[1:] == [0, 0]
    share = found["numerical_rank"].tolerance
    assert float(share[0]) == pytest.approx(float(floor[0] / found["spectral_norm"].value[0]))
    assert float(share[1]) == pytest.approx(192 * 2.0**-23)
