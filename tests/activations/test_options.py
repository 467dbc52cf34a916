"""Options off their defaults: value and slope against 50 digits, in float32 and float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flint import arb, arb_series  # type: ignore[import-untyped]

from jaxact import activations
from jaxact._compat import enable_x64

GRID = np.concatenate(
    [sign * np.logspace(-5, 1.5, 120) for sign in (-1, 1)]
    + [np.linspace(-9.913, 9.887, 397), np.linspace(-0.7526, -0.7523, 31)]
)


def _constant(c):
    return arb_series([c])


def _sigma(s):
    return 1 / (1 + (-s).exp())


def _softplus(s):
    return (1 + s.exp()).log()


def _tanh(s):
    return 2 * _sigma(2 * s) - 1


def _clip(s, x, low, high):
    return _constant(low) if x <= low else _constant(high) if x >= high else s


def _cubic(s):
    return 2 * (2 / arb.pi()).sqrt() * (s + arb(0.044715) * s * s * s)


def _smelu(s, x, beta):
    return s if x >= beta else _constant(0) if x <= -beta else (s + beta) * (s + beta) / (4 * beta)


FRINGE = {"float32": 2.0**-126, "float64": 2.0**-1022}

CASES = [
    ("gelu", {"approximate": "tanh"}, lambda s, x: s * _sigma(_cubic(s))),
    ("gelu", {"approximate": True}, lambda s, x: s * _sigma(_cubic(s))),
    ("gelu", {"approximate": "sigmoid"}, lambda s, x: s * _sigma(arb(1.702) * s)),
    ("swish", {"beta": 0.7}, lambda s, x: s * _sigma(arb(0.7) * s)),
    ("swish", {"beta": 2.5}, lambda s, x: s * _sigma(arb(2.5) * s)),
    ("swish", {"beta": -1.3}, lambda s, x: s * _sigma(arb(-1.3) * s)),
    ("eswish", {"beta": 1.7}, lambda s, x: arb(1.7) * s * _sigma(s)),
    ("softplus", {"beta": 0.3}, lambda s, x: _softplus(arb(0.3) * s) / arb(0.3)),
    ("softplus", {"beta": 2.7}, lambda s, x: _softplus(arb(2.7) * s) / arb(2.7)),
    ("elu", {"alpha": 0.7}, lambda s, x: s if x > 0 else arb(0.7) * (s.exp() - 1)),
    ("celu", {"alpha": 0.6}, lambda s, x: s if x > 0 else arb(0.6) * ((s / arb(0.6)).exp() - 1)),
    ("celu", {"alpha": 2.2}, lambda s, x: s if x > 0 else arb(2.2) * ((s / arb(2.2)).exp() - 1)),
    ("soft_relu", {"limit": 5.0}, lambda s, x: _softplus(_clip(s, x, -5, 5))),
    ("squareplus", {"b": 1.7}, lambda s, x: (s + (s * s + arb(1.7)).sqrt()) / 2),
    ("leaky_relu", {"negative_slope": 0.3}, lambda s, x: s if x > 0 else arb(0.3) * s),
    ("leaky_relu", {"negative_slope": -1.1}, lambda s, x: s if x > 0 else arb(-1.1) * s),
    ("relu_n", {"n": 2.5}, lambda s, x: _clip(s, x, 0, 2.5)),
    ("hard_sigmoid", {"form": "linear"}, lambda s, x: _clip(s, x, -2.5, 2.5) / 5 + 0.5),
    ("penalized_tanh", {"a": 0.4}, lambda s, x: _tanh(s) * (1 if x > 0 else arb(0.4))),
    ("isru", {"alpha": 0.3}, lambda s, x: s / (1 + arb(0.3) * s * s).sqrt()),
    ("isrlu", {"alpha": 3.0}, lambda s, x: s if x > 0 else s / (1 + 3 * s * s).sqrt()),
    ("smelu", {"beta": 1.75}, functools.partial(_smelu, beta=1.75)),
    ("shifted_relu", {"shift": 0.75}, lambda s, x: s if x > 0.75 else _constant(0.75)),
    (
        "threshold",
        {"threshold": 0.75, "value": -2.0},
        lambda s, x: s if x > 0.75 else _constant(-2),
    ),
    ("hard_shrink", {"width": 0.25}, lambda s, x: s if abs(x) > 0.25 else _constant(0)),
    ("soft_shrink", {"width": 0.25}, lambda s, x: s - _clip(s, x, -0.25, 0.25)),
    ("sine", {"omega": 4.0}, lambda s, x: (4 * s).sin()),
    ("cosine", {"omega": 0.5}, lambda s, x: (s / 2).cos()),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "options", "truth"), CASES)
def test_options(name, options, truth, dtype, evaluate_in_balls, errors_in_ulps):
    x = GRID.astype(dtype)
    value, slope = evaluate_in_balls(truth, x)
    f = functools.partial(getattr(activations, name), **options)
    with enable_x64(dtype == "float64"):
        y, slopes = jax.jvp(f, (jnp.asarray(x),), (jnp.ones_like(x),))
    for got, want, bar in ((y, value, 3.0), (slopes, slope, 4.0)):
        # XLA on CPU flushes subnormals, of the result or of the exponential in it.
        flushed = np.abs(want[0]) < FRINGE[dtype]
        ulps = np.where(flushed, 0.0, errors_in_ulps(np.asarray(got), want, dtype))
        assert ulps.max() <= bar, (x[ulps > bar][:9], ulps.max())


BRIEF = [case[:2] for case in CASES if case[0] in ("gelu", "swish", "softplus")]


@pytest.mark.parametrize(("name", "options"), BRIEF)
def test_options_in_16_bits(name, options):
    """Formulas of their own: at most 0.51 ulp from our float64, which is held to 4 above."""
    f = functools.partial(getattr(activations, name), **options)

    def both(x):
        return jax.jvp(f, (x,), (jnp.ones_like(x),))

    for dtype in (jnp.bfloat16, jnp.float16):
        x = np.arange(65536, dtype=np.uint16).view(dtype)
        with np.errstate(invalid="ignore"):
            wide = x.astype(np.float64)
        keep = np.isfinite(wide) & ((np.abs(wide) > FRINGE["float32"]) | (wide == 0))
        got = [np.asarray(g, np.float64) for g in jax.jit(both)(jnp.asarray(x[keep]))]
        with enable_x64(True):
            want = [np.asarray(w) for w in jax.jit(both)(jnp.asarray(wide[keep]))]
        limits = jnp.finfo(dtype)
        for g, w in zip(got, want, strict=True):
            inside = (np.abs(w) < float(limits.max)) & (np.abs(w) > FRINGE["float32"])
            size = np.maximum(np.abs(w[inside]), float(limits.tiny))
            unit = np.ldexp(1.0, np.frexp(size)[1] - 1 - limits.nmant)
            error = np.abs(g - w)[inside] / unit
            assert error.max() <= 0.51, (wide[keep][inside][error.argmax()], error.max())


RANGES = {
    "swish": ("beta", -8.0, 8.0),
    "eswish": ("beta", 0.1, 8.0),
    "softplus": ("beta", 0.05, 20.0),
    "elu": ("alpha", -3.0, 3.0),
    "celu": ("alpha", 0.05, 8.0),
    "soft_relu": ("limit", 0.5, 60.0),
    "squareplus": ("b", 0.01, 50.0),
    "leaky_relu": ("negative_slope", -2.0, 2.0),
    "relu_n": ("n", 0.1, 9.0),
    "penalized_tanh": ("a", -2.0, 2.0),
    "isru": ("alpha", 0.05, 20.0),
    "isrlu": ("alpha", 0.05, 20.0),
    "smelu": ("beta", 0.05, 8.0),
    "shifted_relu": ("shift", -3.0, 3.0),
    "hard_shrink": ("width", 0.0, 4.0),
    "soft_shrink": ("width", 0.0, 4.0),
    "sine": ("omega", 0.1, 30.0),
    "cosine": ("omega", 0.1, 30.0),
    "snake": ("a", 0.1, 30.0),
}
# Periodic ones as far as float64 knows the angle to 1e-12.
FURTHEST_ANGLE = {"sine": 1e4, "cosine": 1e4, "snake": 1e4}


def _points(draw, c):
    sizes = np.exp(draw.uniform(np.log(2e-38), np.log(3e38), 6000))
    here = np.float32(c)
    parts = [
        draw.uniform(-20, 20, 6000),
        draw.uniform(-3, 3, 6000),
        sizes * draw.choice([-1, 1], 6000),
        c * (1 + 1e-6 * draw.normal(size=300)),
        -c * (1 + 1e-6 * draw.normal(size=300)),
        [here, -here, np.nextafter(here, np.float32(99)), np.nextafter(here, np.float32(-99))],
    ]
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize("name", RANGES)
def test_random_options(name, errors_in_ulps):
    """Dense points in float32, about the option itself too, against float64 (held to 4 above)."""
    option, low, high = RANGES[name]
    draw = np.random.default_rng(0)
    for _ in range(4):
        c = draw.uniform(low, high) if low <= 0 else np.exp(draw.uniform(*np.log([low, high])))
        f = functools.partial(getattr(activations, name), **{option: float(c)})
        x = _points(draw, c)
        x = x[np.abs(x) < FURTHEST_ANGLE.get(name, np.inf) / np.abs(c)]

        def both(x, f=f):
            return jax.jvp(f, (x,), (jnp.ones_like(x),))

        found = jax.jit(both)(jnp.asarray(x))
        with enable_x64(True):
            truths = [np.asarray(v) for v in jax.jit(both)(jnp.asarray(x, jnp.float64))]
        for got, want, bar in zip(found, truths, (3.0, 4.0), strict=True):
            got, truth = np.asarray(got), np.stack([want, np.zeros_like(want)])
            ulps = errors_in_ulps(got, truth, "float32")
            flushed = (np.abs(want) < FRINGE["float32"]) & (np.abs(got) <= FRINGE["float32"])
            bad = ~(ulps <= bar) & ~flushed
            assert not bad.any(), (c, x[bad][:5], ulps[bad].max(), got[bad][:5], want[bad][:5])
