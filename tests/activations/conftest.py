"""The mathematics of every activation in the table, written again in ball arithmetic.

Arb computes with error bounds that it proves, and with power series: f of x + t gives f(x) and
f'(x) at once. The precision is doubled until 50 digits are certain.
"""

import functools

import numpy as np
import pytest
from flint import arb, arb_series, ctx  # type: ignore[import-untyped]

FAR = 1e5


def _constant(c):
    return arb_series([c])


def _exp(s):
    return _constant(0) if s[0] < -FAR else s.exp()


def _sigma(s):
    far = abs(s[0]) > FAR
    return _constant(1 if s[0] > 0 else 0) if far else 1 / (1 + (-s).exp())


def _softplus(s):
    return s if s[0] > FAR else (1 + _exp(s)).log()


def _tanh(s):
    if abs(s[0]) > FAR:
        return _constant(1 if s[0] > 0 else -1)
    e = (2 * s).exp()
    return (e - 1) / (e + 1)


def _phi(s):
    far = abs(s[0]) > FAR
    return _constant(1 if s[0] > 0 else 0) if far else (-s / arb(2).sqrt()).erfc() / 2


def _erf(s):
    return s.erf() if abs(s[0]) < FAR else _constant(1 if s[0] > 0 else -1)


def _arcsinh(s, x):
    a = s if x > 0 else -s
    return (a + _root(s)).log()


def _root(s):
    return (s * s + 1).sqrt()


def _rectified(s, x):
    return s if x > 0 else _constant(0)


def _clip(s, x, low, high):
    return _constant(low) if x <= low else _constant(high) if x >= high else s


def _selu(s, x):
    scale, alpha = arb("1.0507009873554804934193349852946"), arb("1.673263242354377284817042991672")
    return scale * (s if x > 0 else alpha * (_exp(s) - 1))


def _sparse_plus(s, x):
    return s if x >= 1 else _constant(0) if x <= -1 else (s + 1) * (s + 1) / 4


def _sqnl(s, x):
    if abs(x) >= 2:
        return _constant(1 if x > 0 else -1)
    return s - (s * s if x > 0 else -s * s) / 4


REFERENCES = {
    "identity": lambda s, x: s,
    "relu": _rectified,
    "relu6": lambda s, x: _clip(s, x, 0, 6),
    "leaky_relu": lambda s, x: s if x > 0 else arb(0.01) * s,
    "squared_relu": lambda s, x: _rectified(s, x) * _rectified(s, x),
    "hard_tanh": lambda s, x: _clip(s, x, -1, 1),
    "abs": lambda s, x: s if x > 0 else -s,
    "shifted_relu": lambda s, x: s if x > -1 else _constant(-1),
    "star_relu": lambda s, x: arb(0.8944) * _rectified(s, x) * _rectified(s, x) + arb(-0.4472),
    "threshold": _rectified,
    "rrelu": lambda s, x: s if x > 0 else arb(11) / 48 * s,
    "hard_shrink": lambda s, x: s if abs(x) > 0.5 else _constant(0),
    "soft_shrink": lambda s, x: s - 0.5 if x > 0.5 else s + 0.5 if x < -0.5 else _constant(0),
    "tanh_shrink": lambda s, x: s - _tanh(s),
    "sparse_plus": _sparse_plus,
    "sparse_sigmoid": lambda s, x: (_clip(s, x, -1, 1) + 1) / 2,
    "elu": lambda s, x: s if x > 0 else _exp(s) - 1,
    "celu": lambda s, x: s if x > 0 else _exp(s) - 1,
    "selu": _selu,
    "softplus": lambda s, x: _softplus(s),
    "soft_relu": lambda s, x: _softplus(_clip(s, x, -40, 40)),
    "squareplus": lambda s, x: (s + (s * s + 4).sqrt()) / 2,
    "log_sigmoid": lambda s, x: -_softplus(-s),
    "log1mexp": lambda s, x: (1 - _exp(-s)).log(),
    "sigmoid": lambda s, x: _sigma(s),
    "hard_sigmoid": lambda s, x: (_clip(s, x, -3, 3) + 3) / 6,
    "tanh": lambda s, x: _tanh(s),
    "lecun_tanh": lambda s, x: arb(1.7159) * _tanh(2 * s / 3),
    "penalized_tanh": lambda s, x: _tanh(s) * (1 if x > 0 else arb(0.25)),
    "symmetrical_sigmoid": lambda s, x: _tanh(s / 2),
    "erf": lambda s, x: _erf(s),
    "arctan": lambda s, x: s.atan(),
    "soft_sign": lambda s, x: s / (1 + (s if x > 0 else -s)),
    "isru": lambda s, x: s / _root(s),
    "isrlu": lambda s, x: s if x > 0 else s / _root(s),
    "bent_identity": lambda s, x: (_root(s) - 1) / 2 + s,
    "log_log": lambda s, x: 1 - _exp(-_exp(s)) if x < 100 else _constant(1),
    "gaussian": lambda s, x: _exp(-s * s),
    "sqnl": _sqnl,
    "gelu": lambda s, x: s * _phi(s),
    "quick_gelu": lambda s, x: s * _sigma(arb(1.702) * s),
    "silu": lambda s, x: s * _sigma(s),
    "swish": lambda s, x: s * _sigma(s),
    "mish": lambda s, x: s * _tanh(_softplus(s)),
    "hard_silu": lambda s, x: s * (_clip(s, x, -3, 3) + 3) / 6,
    "hard_mish": lambda s, x: s * (_clip(s, x, -2, 0) + 2) / 2,
    "eswish": lambda s, x: arb(1.375) * s * _sigma(s),
    "su": lambda s, x: s if x > 0 else s * _exp(s),
    "serf": lambda s, x: s * _erf(_softplus(s)),
    "logish": lambda s, x: s * (1 + _sigma(s)).log(),
    "phish": lambda s, x: s * _tanh(s * _phi(s)),
    "tanhexp": lambda s, x: s * _tanh(_exp(s)) if x < 50 else s,
    "smelu": _sparse_plus,
    "sine": lambda s, x: s.sin(),
    "cosine": lambda s, x: s.cos(),
    "snake": lambda s, x: s + s.sin() * s.sin(),
    "sinc": lambda s, x: s.sin() / s if x else arb_series([1, 0, arb(-1) / 6]),
    "gcu": lambda s, x: s * s.cos(),
    "gelu_tanh": lambda s, x: s * _sigma(2 * (2 / arb.pi()).sqrt() * (s + arb(0.044715) * s**3)),
    "exponential": lambda s, x: _exp(s) if x < 1e3 else arb_series([arb("1e400")] * 2),
    "maxsig": lambda s, x: s if x > 0.65904606840740665 else _sigma(s),
    "maxtanh": lambda s, x: s if x > 0 else _tanh(s),
    "minsin": lambda s, x: s.sin() if x > 0 else s,
    "cosid": lambda s, x: s.cos() - s,
    "arctid": lambda s, x: s.atan() * s.atan() - s,
    "sincid": lambda s, x: (s.sin() / s if x else arb_series([1, 0])) + s,
    "arcsinh_gated": lambda s, x: s * _arcsinh(s, x) * _arcsinh(s, x),
    "cube": lambda s, x: s * s * s,
    "step": lambda s, x: _constant(1 if x >= 0 else 0),
    "sign": lambda s, x: _constant(int(np.sign(x))),
}


def _certain(c, bits):
    return c.is_finite() and (c.rel_accuracy_bits() >= bits or c.is_exact() or abs(c) < 1e-320)


def evaluate(f, x, bits=170):
    """(2, 2, n): value and slope of f at x, each as a float64 and what that leaves."""
    out = np.zeros((2, 2, len(x)))
    for i, point in enumerate(map(float, x)):
        ctx.cap, ctx.prec = 2, 320
        while not all(
            _certain((y := f(arb_series([arb(point), 1]), point))[k], bits) for k in (0, 1)
        ):
            ctx.prec *= 2
            assert ctx.prec < 1e6, point
        for k in (0, 1):
            middle = y[k].mid()
            high = float(middle)
            out[k, :, i] = high, float((middle - high).mid()) if np.isfinite(high) else 0.0
    return out


def _plain_grid(limits):
    """Log-spaced from the smallest normal to the greatest number, and evenly about 0."""
    tail = np.logspace(np.log10(limits.tiny) + 0.01, np.log10(limits.max) - 0.001, 150)
    near, even = np.logspace(-4, 2.3, 500), np.linspace(-15, 15, 1501)
    ends = [0.0, limits.max, -limits.max, limits.tiny, -limits.tiny]
    return np.unique(np.concatenate([-tail, tail, -near, near, even, ends]).astype(limits.dtype))


def _around(f, x, signs, limits):
    """Points about a change of sign between neighbours of x: from the nearest to far ones."""
    far = np.round(np.logspace(1, -np.log10(limits.eps) - 0.3, 60))
    steps = np.concatenate([np.arange(-20, 21), far, -far])
    changes = np.nonzero((signs[1:] * signs[:-1] < 0) & (np.abs(x[1:]) < 50))[0]
    for i in changes[:12]:
        low, high = x[i], x[i + 1]
        while low < (middle := limits.dtype.type(low + (high - low) / 2)) < high:
            positive = f(arb_series([arb(float(middle)), 1]), float(middle)) > 0
            low, high = (middle, high) if positive == (signs[i] > 0) else (low, middle)
        yield (low + steps * np.spacing(np.abs(low))).astype(limits.dtype)


@functools.cache
def reference(name, dtype):
    """A dense grid, and value and slope of an activation there (see `evaluate`).

    The grid is finest where value or slope cross zero.
    """
    f, limits = REFERENCES[name], np.finfo(dtype)
    x = _plain_grid(limits)
    x = x[x > 0] if name == "log1mexp" else x
    truth = evaluate(f, x)
    ctx.prec = 400
    more = [
        *_around(f_of(f, 0), x, np.sign(truth[0, 0]), limits),
        *_around(f_of(f, 1), x, np.sign(truth[1, 0]), limits),
    ]
    if more:
        extra = np.setdiff1d(np.concatenate(more), x)
        extra = extra[extra > 0] if name == "log1mexp" else extra
        x, truth = np.concatenate([x, extra]), np.concatenate([truth, evaluate(f, extra)], -1)
    return x, truth


def f_of(f, order):
    """The value (0) or slope (1) of f at a series."""
    return lambda s, x: f(s, x)[order]


def ulps(got, truth, dtype):
    """Errors in units in the last place of the true value, no smaller than that of a normal one."""
    limits, (high, low) = np.finfo(dtype), truth
    largest = np.nextafter(limits.max, limits.dtype.type(0))  # whose neighbour is finite
    size = np.clip(np.abs(high), limits.tiny, largest).astype(dtype)
    with np.errstate(invalid="ignore"):
        error = np.abs((got.astype(np.float64) - high) - low) / np.spacing(size).astype(np.float64)
    overflow = (np.abs(high) >= float(limits.max)) & np.isinf(got)
    return np.where(overflow, 0.0, np.where(np.isnan(error), np.inf, error))


@pytest.fixture(scope="session")
def references():
    """``references(name, dtype)``: a dense grid, and value and slope to 50 digits there."""
    return reference


@pytest.fixture(scope="session")
def errors_in_ulps():
    return ulps


@pytest.fixture(scope="session")
def evaluate_in_balls():
    return evaluate
