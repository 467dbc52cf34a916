"""The mathematics of every activation in the table, written again in mpmath at 50 digits."""

import mpmath as mp
import numpy as np
import pytest


def _sigma(x):
    return 1 / (1 + mp.exp(-x))


def _softplus(x):
    return mp.log1p(mp.exp(x))


def _clip(x, low, high):
    return min(max(x, mp.mpf(low)), mp.mpf(high))


def _phi(x):
    return mp.erfc(-x / mp.sqrt(2)) / 2


def _selu(x):
    s, a = mp.mpf("1.0507009873554804934193349852946"), mp.mpf("1.6732632423543772848170429916717")
    return s * (x if x > 0 else a * mp.expm1(x))


def _sparse_plus(x):
    return x if x >= 1 else mp.mpf(0) if x <= -1 else (x + 1) ** 2 / 4


def _tanh(x):
    return mp.tanh(x)


HALF = mp.mpf(1) / 2
REFERENCES = {
    "identity": lambda x: x,
    "relu": lambda x: max(x, 0),
    "relu6": lambda x: _clip(x, 0, 6),
    "leaky_relu": lambda x: x if x > 0 else mp.mpf(0.01) * x,
    "squared_relu": lambda x: max(x, 0) ** 2,
    "hard_tanh": lambda x: _clip(x, -1, 1),
    "abs": abs,
    "shifted_relu": lambda x: max(x, -1),
    "star_relu": lambda x: mp.mpf(0.8944) * max(x, 0) ** 2 + mp.mpf(-0.4472),
    "threshold": lambda x: x if x > 0 else mp.mpf(0),
    "rrelu": lambda x: x if x > 0 else mp.mpf(11) / 48 * x,
    "hard_shrink": lambda x: x if abs(x) > HALF else mp.mpf(0),
    "soft_shrink": lambda x: mp.sign(x) * max(abs(x) - HALF, 0),
    "tanh_shrink": lambda x: x - _tanh(x),
    "sparse_plus": _sparse_plus,
    "sparse_sigmoid": lambda x: _clip((x + 1) / 2, 0, 1),
    "elu": lambda x: x if x > 0 else mp.expm1(x),
    "celu": lambda x: x if x > 0 else mp.expm1(x),
    "selu": _selu,
    "softplus": _softplus,
    "soft_relu": lambda x: _softplus(_clip(x, -40, 40)),
    "squareplus": lambda x: (x + mp.sqrt(x * x + 4)) / 2 if x > 0 else 2 / (mp.sqrt(x * x + 4) - x),
    "log_sigmoid": lambda x: -_softplus(-x),
    "log1mexp": lambda x: mp.log(-mp.expm1(-x)) if x < 1 else mp.log1p(-mp.exp(-x)),
    "sigmoid": _sigma,
    "hard_sigmoid": lambda x: _clip((x + 3) / 6, 0, 1),
    "tanh": _tanh,
    "lecun_tanh": lambda x: mp.mpf(1.7159) * _tanh(2 * x / 3),
    "penalized_tanh": lambda x: _tanh(x) * (1 if x > 0 else mp.mpf(0.25)),
    "symmetrical_sigmoid": lambda x: _tanh(x / 2),
    "erf": mp.erf,
    "arctan": mp.atan,
    "soft_sign": lambda x: x / (1 + abs(x)),
    "isru": lambda x: x / mp.sqrt(1 + x * x),
    "isrlu": lambda x: x if x > 0 else x / mp.sqrt(1 + x * x),
    "bent_identity": lambda x: x * x / (mp.sqrt(x * x + 1) + 1) / 2 + x,
    "log_log": lambda x: -mp.expm1(-mp.exp(min(x, 9))),
    "gaussian": lambda x: mp.exp(-x * x),
    "sqnl": lambda x: _clip(x, -2, 2) * (1 - abs(_clip(x, -2, 2)) / 4),
    "gelu": lambda x: x * _phi(x),
    "quick_gelu": lambda x: x * _sigma(mp.mpf(1.702) * x),
    "silu": lambda x: x * _sigma(x),
    "swish": lambda x: x * _sigma(x),
    "mish": lambda x: x * _tanh(_softplus(x)),
    "hard_silu": lambda x: x * _clip(x + 3, 0, 6) / 6,
    "hard_mish": lambda x: x * _clip(x + 2, 0, 2) / 2,
    "eswish": lambda x: mp.mpf(1.375) * x * _sigma(x),
    "su": lambda x: max(x, x * mp.exp(-abs(x))),
    "serf": lambda x: x * mp.erf(_softplus(x)),
    "logish": lambda x: x * mp.log1p(_sigma(x)),
    "phish": lambda x: x * _tanh(x * _phi(x)),
    "tanhexp": lambda x: x * _tanh(mp.exp(min(x, 40))),
    "smelu": _sparse_plus,
    "sine": mp.sin,
    "cosine": mp.cos,
    "snake": lambda x: x + mp.sin(x) ** 2,
    "sinc": lambda x: mp.sin(x) / x if x else mp.mpf(1),
    "gcu": lambda x: x * mp.cos(x),
}


def _grid(dtype) -> np.ndarray:
    """Log-spaced from the smallest normal to nearly the greatest, and evenly about 0."""
    limits = np.finfo(dtype)
    top = np.log10(limits.max) - 0.01
    tail = np.logspace(np.log10(limits.tiny) + 0.01, top, 15)
    near = np.logspace(-6, 2.2, 25)
    x = np.concatenate([-tail, tail, -near, near, np.linspace(-12, 12, 101), [0.0]])
    return np.unique(x.astype(dtype))


class Reference:
    """Values and slopes at 50 digits, and errors in units in the last place."""

    names = tuple(REFERENCES)
    grid = staticmethod(_grid)

    @staticmethod
    def value(name, x):
        with mp.workdps(60):
            return [REFERENCES[name](mp.mpf(float(v))) for v in x]

    @staticmethod
    def slope(name, x):
        """Central differences at 1e-30 of x, at 90 digits: right to 50."""
        f = REFERENCES[name]
        out = []
        for v in x:
            a = abs(float(v))
            far = 2 * int(abs(np.log10(a))) if a else 0
            with mp.workdps(100 + far + (330 if a > 8 and x.dtype == np.float64 else 60)):
                v = mp.mpf(float(v))
                h = min(abs(v), mp.mpf(1)) * mp.mpf("1e-30") if v else mp.mpf("1e-60")
                out.append((f(v + h) - f(v - h)) / (2 * h))
        return out

    @staticmethod
    def ulps(got, want, dtype):
        """Errors in ulp of the true value; subnormal truths count as the smallest normal."""
        tiny, out = float(np.finfo(dtype).tiny), []
        for g, w in zip(np.asarray(got, np.float64), want, strict=True):
            big = float(abs(w)) if abs(w) < np.finfo(dtype).max else np.inf
            if np.isinf(big) or np.isinf(g):
                out.append(0.0 if np.isinf(big) and np.isinf(g) else np.inf)
                continue
            unit = float(np.spacing(np.asarray(max(big, tiny), dtype)))
            out.append(float(abs(mp.mpf(float(g)) - w) / unit))
        return np.array(out)


@pytest.fixture(scope="session")
def reference():
    return Reference
