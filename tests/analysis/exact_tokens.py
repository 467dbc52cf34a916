"""Maps of tokens in as many digits as are asked for: the truth beside `analysis.graded`.

The functions have the names and arguments of `analysis.graded`, and take NumPy arrays of mpmath's
numbers for tokens.
"""

import mpmath as mp
import numpy as np

exp = np.frompyfunc(mp.exp, 1, 1)
root = np.frompyfunc(mp.sqrt, 1, 1)
ACTIVATIONS = {
    "relu": lambda x: max(x, mp.mpf(0)),
    "leaky_relu": lambda x: x if x > 0 else x * exact(np.float32(0.01)),
    "gelu": lambda x: x * mp.ncdf(x),
    "tanh": mp.tanh,
    "silu": lambda x: x / (1 + mp.exp(-x)),
    "elu": lambda x: x if x > 0 else mp.expm1(x),
    "softplus": lambda x: mp.log1p(mp.exp(x)),
    "sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
    "sine": mp.sin,
    "hard_tanh": lambda x: max(min(x, mp.mpf(1)), mp.mpf(-1)),
    "squared_relu": lambda x: max(x, mp.mpf(0)) ** 2,
    "gaussian": lambda x: mp.exp(-x * x),
}


def exact(a):
    """Entries, or one number, as mpmath's numbers."""
    a = np.asarray(a)
    return a if a.dtype == object else np.frompyfunc(mp.mpf, 1, 1)(a.astype(np.float64))


def tokens_of(x):
    """What graded tokens stand for."""
    mean, deviation, exponent = (np.asarray(leaf, np.float64) for leaf in x)
    return exact(mean)[None] + mp.mpf(2) ** int(exponent) * exact(deviation)


def log_residual(x):
    rest = x - x.mean(0)
    return mp.log((rest**2).sum()) / 2


def linear(x, kernel, bias=None):
    y = x @ exact(kernel)
    return y if bias is None else y + exact(bias)


def add(x, y, *, alpha=1.0, beta=1.0):
    return exact(alpha) * x + exact(beta) * y


def gated(x, y):
    return x * y


def activation(x, f):
    return np.frompyfunc(f, 1, 1)(x)


def rms_norm(x, scale=None, bias=None, *, epsilon=1e-5):
    epsilon = exact(np.float32(epsilon))
    y = x / root((x**2).mean(-1, keepdims=True) + epsilon)
    y = y if scale is None else y * exact(scale)
    return y if bias is None else y + exact(bias)


def layer_norm(x, scale=None, bias=None, *, epsilon=1e-5):
    return rms_norm(x - x.mean(-1, keepdims=True), scale, bias, epsilon=epsilon)


def attention(
    x,
    query,
    key,
    value,
    output,
    *,
    query_bias=None,
    key_bias=None,
    value_bias=None,
    output_bias=None,
    mask=None,
    scale=None,
    query_norm=None,
    key_norm=None,
    positions=None,
):
    n = len(x)
    if mask is not None:
        mask = np.tril(np.ones((n, n), bool)) if isinstance(mask, str) else np.asarray(mask)
    group = query.shape[1] // key.shape[1]
    total = 0
    for h in range(query.shape[1]):
        q = linear(x, query[:, h], None if query_bias is None else query_bias[h])
        k = linear(x, key[:, h // group], None if key_bias is None else key_bias[h // group])
        v = linear(x, value[:, h // group], None if value_bias is None else value_bias[h // group])
        q = q if query_norm is None else query_norm(q)
        k = k if key_norm is None else key_norm(k)
        q, k = (a if positions is None else positions(a) for a in (q, k))
        logits = q @ k.T * (1 / mp.sqrt(query.shape[2]) if scale is None else exact(scale))
        largest = np.where(True if mask is None else mask, logits, mp.mpf("-inf")).max(1)
        p = exp(logits - largest[:, None])
        p = p if mask is None else p * mask
        total = total + p / p.sum(1, keepdims=True) @ v @ exact(output[h])
    return total if output_bias is None else total + exact(output_bias)
