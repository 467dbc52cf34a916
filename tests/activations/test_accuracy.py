"""Value and slope against 50 digits in float32 and float64, and for every 16-bit number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import activations
from jaxact._compat import enable_x64

# Below these XLA on CPU flushes a subnormal, of the result or of the exponential in it, to zero.
FRINGE = {"float32": 2.0**-126, "float64": 2.0**-1022}

# Slopes that cross zero infinitely often, as a difference of two terms: there the error is in ulp
# of the larger term, and of snake and cosid, whose slopes 1 + sin touch zero, of 1 from |x| = 1e5.
TERMS = {
    "gcu": lambda x: np.maximum(np.abs(np.cos(x)), np.abs(x * np.sin(x))),
    "sinc": lambda x: np.maximum(np.abs(np.cos(x)), 1 / (1 + np.abs(x))) / (1 + np.abs(x)),
    "snake": lambda x: np.where(np.abs(x) < 1e5, 0.0, 1.0),
    "cosid": lambda x: np.where(np.abs(x) < 1e5, 0.0, 1.0),
}


# What misses the bars of 3 ulp in value and 4 in slope, by how much it was measured to.
VALUES: dict[tuple[str, str], float] = {}
SLOPES = {("phish", "float32"): 4.6}


def _worst(name, x, got, truth, bar, errors_in_ulps, floor=None):
    dtype = str(x.dtype)
    ulps = errors_in_ulps(got, truth, dtype)
    size, limits = np.abs(truth[0]), np.finfo(dtype)
    if floor is not None:
        unit = np.spacing(np.clip(size, limits.tiny, limits.max / 2).astype(dtype)).astype(float)
        ulps = (
            ulps
            * unit
            / np.maximum(
                unit, np.spacing(np.minimum(floor, limits.max / 2).astype(dtype)).astype(float)
            )
        )
    flushed = (size < FRINGE[dtype]) & (np.abs(got) < FRINGE[dtype])
    # A subnormal input is read as zero, which matters at a kink.
    flushed |= (np.abs(x) < limits.tiny) & (x != 0)
    bad = ~(ulps <= bar) & ~flushed
    assert not bad.any(), (name, x[bad][:9], ulps[bad][:9], truth[0][bad][:9], got[bad][:9])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", activations.names())
def test_value_and_slope(name, dtype, references, errors_in_ulps):
    """At most 3 and 4 ulp, also where value or slope cross zero."""
    x, (value, slope) = references(name, dtype)
    with enable_x64(dtype == "float64"):
        f = activations.get(name)

        def both(x):
            return jax.jvp(f, (x,), (jnp.ones_like(x),))

        y, slopes = map(np.asarray, jax.jit(both)(jnp.asarray(x)))
        alone = np.asarray(f(jnp.asarray(x)))
    assert y.dtype == slopes.dtype == dtype
    # The compiler may fuse the two programs differently.
    for v in (y, alone):
        _value(name, x, v, value, errors_in_ulps)
    _slope(name, x, slopes, slope, errors_in_ulps)


def _value(name, x, got, truth, errors_in_ulps):
    _worst(name, x, got, truth, VALUES.get((name, str(x.dtype)), 3.0), errors_in_ulps)


def _slope(name, x, got, truth, errors_in_ulps):
    smooth = ~np.isin(x, activations.info(name).breakpoints)
    x, got, truth = x[smooth], got[smooth], truth[:, smooth]
    floor = TERMS[name](x.astype(np.float64)) if name in TERMS else None
    bar = SLOPES.get((name, str(x.dtype)), 4.0)
    _worst(name, x, got, truth, bar, errors_in_ulps, floor)


@pytest.mark.slow
@pytest.mark.parametrize("name", activations.names())
def test_float32_between_the_points_of_the_grid(name, errors_in_ulps):
    """100,000 more numbers, against our float64, which the test above holds to 4 of its own ulp."""
    bits = np.arange(np.float32(1e-30).view(np.int32), np.float32(3e38).view(np.int32), 32749)
    x = bits.astype(np.int32).view(np.float32)
    x = x if name == "log1mexp" else np.concatenate([-x, x])
    f = activations.get(name)

    def both(x):
        return jax.jvp(f, (x,), (jnp.ones_like(x),))

    y, slopes = map(np.asarray, jax.jit(both)(jnp.asarray(x)))
    with enable_x64(True):
        truths = [np.asarray(v) for v in jax.jit(both)(jnp.asarray(x, jnp.float64))]
    value, slope = (np.stack([v, np.zeros_like(v)]) for v in truths)
    _value(name, x, y, value, errors_in_ulps)
    _slope(name, x, slopes, slope, errors_in_ulps)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", activations.names())
def test_every_16_bit_number(name, dtype):
    """At most 0.51 ulp of our float64, which the test above holds to 4 of its own ulp."""
    bits = np.arange(65536, dtype=np.uint16)
    x = bits.view(jnp.dtype(dtype))
    with np.errstate(invalid="ignore"):
        wide = x.astype(np.float64)
    keep = np.isfinite(wide) & ((wide > 0) | (name != "log1mexp"))
    # A subnormal bfloat16 is a subnormal float32, which XLA reads as zero.
    keep &= (np.abs(wide) > FRINGE["float32"]) | (wide == 0)
    x, wide = x[keep], wide[keep]
    f = activations.get(name)

    def both(x):
        return jax.jvp(f, (x,), (jnp.ones_like(x),))

    got = [np.asarray(g, np.float64) for g in jax.jit(both)(jnp.asarray(x))]
    with enable_x64(True):
        want = [np.asarray(g) for g in jax.jit(both)(jnp.asarray(wide))]
    limits = jnp.finfo(dtype)
    for g, w in zip(got, want, strict=True):
        exponent = np.frexp(np.maximum(np.abs(w), float(limits.tiny)))[1] - 1
        unit = np.ldexp(1.0, exponent - limits.nmant)
        overflow = np.abs(w) >= float(limits.max) + 0.5 * np.ldexp(
            1.0, limits.maxexp - 1 - limits.nmant
        )
        with np.errstate(invalid="ignore"):
            error = np.where(overflow & (g == np.sign(w) * np.inf), 0.0, np.abs(g - w) / unit)
        flushed = (np.abs(w) < FRINGE["float32"]) & (np.abs(g) < FRINGE["float32"])
        bad = ~(error <= 0.51) & ~flushed
        assert not bad.any(), (wide[bad][:8], g[bad][:8], w[bad][:8], error[bad].max(), bad.sum())
