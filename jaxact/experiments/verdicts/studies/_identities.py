"""Claim 9: ReLU as a case of Maxout, Swish as a case of GLU, to the bit.

Claim: ReLU is a special case of Maxout, and Swish of GLU.

Source: Goodfellow et al. 2013; Dauphin et al. 2017; Ramachandran et al. 2017

Hypothesis: max(x, 0) equals Maxout of x and 0, and x sigmoid(x) equals GLU of x and x, in value and
gradient, to the bit.

Measurement: Every finite number of bfloat16 and float16, and of float32 all or (quick) each 256th
bit pattern: how many inputs give different numbers. Zeros of different sign count as equal, and are
counted apart.

Theory: As real functions they are the same, but for the gradient where Maxout's two pieces tie, at
0: there Maxout shares it equally (1/2) and ReLU takes 0.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxact import activations, analysis
from jaxact.experiments.verdicts._effects import select
from jaxact.experiments.verdicts._protocol import (
    Batch,
    Prediction,
    Study,
    budgets,
    by_preset,
    words,
)

BITS = {"bfloat16": jnp.uint16, "float16": jnp.uint16, "float32": jnp.uint32}
CHUNK = 2**22


def _maxout(x: jax.Array) -> jax.Array:
    return activations.maxout(jnp.stack([x, jnp.zeros_like(x)], axis=-1), pieces=2)[..., 0]


def _glu(x: jax.Array) -> jax.Array:
    return activations.glu(jnp.stack([x, x], axis=-1))[..., 0]


IDENTITIES = {
    "relu": ("ReLU is Maxout of x and 0", activations.relu, _maxout),
    "silu": ("Swish is GLU of x and x", activations.silu, _glu),
}


def _slope(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    return lambda x: jax.jvp(function, (x,), (jnp.ones_like(x),))[1]


def patterns(dtype: str, stride: int) -> Iterator[np.ndarray]:
    """Every bit pattern of a dtype (each ``stride``-th of float32), in chunks of one length."""
    if dtype != "float32":
        yield np.arange(2**16, dtype=np.uint16)
        return
    step = CHUNK * stride
    for start in range(0, 2**32, step):
        yield (start + stride * np.arange(CHUNK, dtype=np.uint64)).astype(np.uint32)


def compare(
    function: Callable[[jax.Array], jax.Array],
    other: Callable[[jax.Array], jax.Array],
    dtype: str,
    stride: int,
) -> dict[str, int]:
    """How often two functions differ over the finite values of a dtype.

    Args:
      function: elementwise.
      other: elementwise.
      dtype: ``"bfloat16"``, ``"float16"`` or ``"float32"``.
      stride: of float32, each how manieth bit pattern is taken.

    Returns:
      ``checked`` finite inputs, the inputs whose outputs are ``different`` numbers, those whose
      outputs differ in ``sign_of_zero`` only, and ``units_apart``, the largest distance in units
      of the last place among results that are not subnormal.
    """

    @jax.jit
    def chunk(bits):
        x = jax.lax.bitcast_convert_type(bits, jnp.dtype(dtype))
        finite = jnp.isfinite(x)
        a, b = function(x), other(x)
        as_bits = [jax.lax.bitcast_convert_type(v, BITS[dtype]) for v in (a, b)]
        same = (a == b) | (jnp.isnan(a) & jnp.isnan(b))
        ordered = [_ordered(v) for v in as_bits]
        apart = jnp.where(ordered[0] > ordered[1], ordered[0] - ordered[1], ordered[1] - ordered[0])
        normal = finite & (jnp.abs(a) >= jnp.finfo(dtype).smallest_normal) & ~same
        count = [finite, finite & ~same, finite & same & (as_bits[0] != as_bits[1])]
        return [jnp.sum(c.astype(jnp.int32)) for c in count], jnp.max(jnp.where(normal, apart, 0))

    totals, apart = [0, 0, 0], 0
    for bits in patterns(dtype, stride):
        counts, far = jax.device_get(chunk(bits))
        totals = [total + int(c) for total, c in zip(totals, counts, strict=True)]
        apart = max(apart, int(far))
    names = ("checked", "different", "sign_of_zero")
    return {**dict(zip(names, totals, strict=True)), "units_apart": apart}


def _ordered(bits: jax.Array) -> jax.Array:
    """Bit patterns as integers in the order of the numbers."""
    width = bits.dtype.itemsize * 8
    top = jnp.asarray(2 ** (width - 1), bits.dtype)
    return jnp.where(bits >= top, ~bits, bits | top)


def _measure(batch: Batch) -> list[pd.DataFrame]:
    frames = []
    for cell in batch.cells:
        _, function, other = IDENTITIES[cell["identity"]]
        if cell["of"] == "gradient":
            function, other = _slope(function), _slope(other)
        found = compare(function, other, cell["dtype"], batch.settings["stride"])
        frames.append(
            pd.concat(
                [
                    analysis.tidy(float(value), {}, quantity=name, seed=-1)
                    for name, value in found.items()
                ],
                ignore_index=True,
            )
        )
    return frames


def _holds(identity: str, of: str) -> Prediction:
    def effect(table: pd.DataFrame) -> np.ndarray:
        return select(table, "different", identity=identity, of=of).value.to_numpy()

    label = IDENTITIES[identity][0]
    return Prediction(
        f"{label} ({of})",
        f"{label}: equal {of} for every finite input, in bfloat16, float16 and float32.",
        effect,
        bound=0.0,
        side="below",
        unit="inputs that differ, the worst dtype",
        exact=True,
    )


STUDY = Study(
    name="identities",
    **words(__doc__),
    predictions=tuple(_holds(name, of) for of in ("value", "gradient") for name in IDENTITIES),
    depends="the identity, and whether value or gradient is meant",
    budgets=budgets(
        by_preset(1, 1, 1),
        dict(identity=tuple(IDENTITIES), of=("value", "gradient"), dtype=tuple(BITS)),
        dict(stride=by_preset(256, 1, 1)),
    ),
    measure=_measure,
)
