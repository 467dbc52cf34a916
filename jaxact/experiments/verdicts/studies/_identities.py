"""Claim 9: ReLU as a case of Maxout, Swish as a case of GLU, up to rounding.

Claim: ReLU is a special case of Maxout, and Swish of GLU.

Source: Goodfellow et al. 2013; Dauphin et al. 2017; Ramachandran et al. 2017

Sentence: Maxout takes the largest of linear pieces, of which ReLU has x and 0 (Goodfellow et al.
2013, section 3, in our words); GLU multiplies one linear map by the sigmoid of another (Dauphin et
al. 2017, section 2), which is Swish where both are the identity.

Hypothesis: max(x, 0) equals Maxout of x and 0, and x sigmoid(x) equals GLU of x and x, in value and
in gradient, up to rounding; the gradients also at 0.

Measurement: Every finite number of bfloat16 and float16, and of float32 all or each 16th or 256th
bit pattern: the largest difference in units of eps times the larger of 1 and the result. Zeros, and
subnormal numbers that the machine takes for zeros, are counted apart.

Theory: As real functions they are the same, but for the gradient where Maxout's two pieces tie, at
0: there Maxout shares it equally (1/2) and ReLU takes 0.

Practice: Use the one for the other in value; only at exactly 0 does Maxout's gradient differ from
ReLU's, which matters where many inputs are exactly 0.
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

DTYPES = ("bfloat16", "float16", "float32")
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
) -> dict[str, float]:
    """How far two functions differ over the finite values of a dtype.

    Args:
      function: elementwise.
      other: elementwise.
      dtype: ``"bfloat16"``, ``"float16"`` or ``"float32"``.
      stride: of float32, each how manieth bit pattern is taken.

    Returns:
      ``checked`` finite inputs; ``apart``, the largest difference of results in units of eps times
      max(1, |result|), over inputs that are not zeros or subnormal, and ``apart_at_zero``, over
      those.
    """

    @jax.jit
    def chunk(bits):
        x = jax.lax.bitcast_convert_type(bits, jnp.dtype(dtype))
        finite = jnp.isfinite(x)
        a, b = (f(x).astype(jnp.float32) for f in (function, other))
        unit = float(jnp.finfo(dtype).eps) * jnp.maximum(1, jnp.abs(a))
        # Infinities of one sign are equal: a product may leave the range where both do.
        apart = jnp.where(finite & (a != b), jnp.abs(a - b) / unit, 0)
        zero = jnp.abs(x) < jnp.finfo(dtype).smallest_normal

        def worst(mask):
            lost = jnp.any(mask & jnp.isnan(apart))  # XLA's maximum on a CPU may drop a NaN.
            return jnp.where(lost, jnp.nan, jnp.max(jnp.where(mask, apart, 0)))

        return jnp.sum(finite.astype(jnp.int32)), worst(~zero), worst(zero)

    checked, apart, at_zero = 0, 0.0, 0.0
    for bits in patterns(dtype, stride):
        count, far, far_at_zero = jax.device_get(chunk(bits))
        # Unlike Python's max, NaN stays.
        apart, at_zero = np.maximum(apart, far), np.maximum(at_zero, far_at_zero)
        checked += int(count)
    return {"checked": float(checked), "apart": float(apart), "apart_at_zero": float(at_zero)}


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


def _holds(identity: str, of: str, quantity: str = "apart") -> Prediction:
    def effect(table: pd.DataFrame) -> np.ndarray:
        return select(table, quantity, identity=identity, of=of).value.to_numpy()

    label = IDENTITIES[identity][0]
    at = " at 0" if quantity == "apart_at_zero" else ""
    return Prediction(
        f"{label} ({of}{at})",
        f"{label}: equal {of}{at or ' everywhere else'} up to rounding, in bfloat16, float16 and "
        "float32.",
        effect,
        bound=4.0,
        side="below",
        unit="eps, the worst dtype",
        exact=True,
        reason="each side rounds an exponential, a quotient and a product or two",
    )


STUDY = Study(
    name="identities",
    **words(__doc__),
    predictions=(
        *(_holds(name, of) for of in ("value", "gradient") for name in IDENTITIES),
        *(_holds(name, "gradient", "apart_at_zero") for name in IDENTITIES),
    ),
    depends="the identity, and whether value or gradient is meant",
    budgets=budgets(
        by_preset(1, 1, 1),
        dict(identity=tuple(IDENTITIES), of=("value", "gradient"), dtype=DTYPES),
        dict(stride=by_preset(256, 16, 1)),
    ),
    measure=_measure,
)
