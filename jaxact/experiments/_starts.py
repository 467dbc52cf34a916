"""Networks whose blocks' product has a prescribed spectrum at the start.

A rectifier's units in pairs [u, -u] answer linearly whatever their weights (Balduzzi et al. 2017,
"looks linear"). With n = width / 2 of them, weights W_l = U_l D^(1/L) U_(l+1)^T and Haar random
orthogonal U, the Jacobian of L blocks has at every input the singular values D / sqrt(2) and n
zeros. Networks of one seed differ in D alone, and in the norm of the head that it asks for.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxact import analysis, spectral

OWN = "own"
"""The network as it was made."""
ISOMETRY = "isometry"
"""All singular values equal."""
TWIN = "twin"
"""The spectrum of the network as it was made, in one that looks linear."""
SHAPES = {
    "power": lambda i, c: -c * np.log(i),
    "exponential": lambda i, c: -c * (i - 1),
    "spike": lambda i, c: np.where(i == 1, 0.0, -c),
}
"""Log singular values by number i from 1: they fall as a power, exponentially, or after the first
not at all."""
EXAMPLES = 4
"""Inputs over which the logarithms of a network's own singular values are averaged."""


def spectrum(name: str, n: int, /) -> Float[np.ndarray, " n"]:
    """Log singular values of mean square one, largest first.

    Args:
      name: `ISOMETRY`, or a shape of `SHAPES` and the participation ratio, between 1 and ``n``:
        "power 8".
      n: how many.

    Raises:
      ValueError: if there is no such spectrum.
    """
    if name == ISOMETRY:
        return np.zeros(n)
    shape, _, target = name.partition(" ")
    if shape not in SHAPES or not 1 < float(target or 0) < n:
        raise ValueError(
            f"name must be {ISOMETRY!r}, or one of {', '.join(SHAPES)} and a participation ratio "
            f"above 1 and below {n}; got {name!r}"
        )
    number = np.arange(1, n + 1)
    low, high = 0.0, 40.0
    for _ in range(80):
        middle = (low + high) / 2
        logs = SHAPES[shape](number, middle)
        share = np.exp(2 * logs) / np.sum(np.exp(2 * logs))
        low, high = (middle, high) if 1 / np.sum(share**2) > float(target) else (low, middle)
    return logs - np.log(np.mean(np.exp(2 * logs))) / 2


def start(names: tuple[str, ...], network: Any, number: Array, x: Array, key: Array) -> Any:
    """A network of `jaxact.models.MLPResNet`, plain, of rectifiers, as one of several starts.

    The head is scaled so that the logits have a mean square of one, whatever the start.

    Args:
      names: `OWN`, `TWIN`, or what `spectrum` takes.
      network: as it was made.
      number: which of the names.
      x: inputs that the head's scale is taken at; the first of them serve `TWIN`.
      key: of the bases.
    """
    n, depth = network.stages[0].rest.layers[0].kernel.shape[-1] // 2, network.stages[0].depth
    fixed = [np.zeros(n) if name in (OWN, TWIN) else spectrum(name, n) for name in names]
    logs = jnp.asarray(np.stack(fixed), jnp.float32)[number]
    if TWIN in names:
        logs = jnp.where(number == names.index(TWIN), _own_spectrum(network, x, n), logs)
    made = _mirrored(network, logs / depth, key)
    if OWN in names:
        own = number == names.index(OWN)
        made = jax.tree.map(lambda a, b: jnp.where(own, a, b), network, made)
    size = jnp.sqrt(jnp.mean(jnp.square(made(x))))
    return _kernels(made, head=lambda kernel: kernel / size)


def _own_spectrum(network: Any, x: Array, n: int) -> Float[Array, " n"]:
    """The n largest log singular values of the blocks' Jacobian, in the mean over inputs."""
    chain = analysis.as_chain(network)
    stem, blocks = (analysis.Chain(chain.segments[span]) for span in (slice(0, 1), slice(1, 2)))
    h = analysis.run(stem, x[:EXAMPLES])

    def logs(h: Array) -> Array:
        product = jax.tree.map(lambda a: a[-1], analysis.input_jacobians(blocks, h)["blocks"])
        return spectral.graded_spectrum(product)[:n]

    found = jax.lax.map(logs, h)
    # Directions that the rectifiers cut off are as small as the least that is left.
    least = jnp.min(jnp.where(jnp.isneginf(found), jnp.inf, found), axis=-1, keepdims=True)
    mean = jnp.mean(jnp.maximum(found, least), axis=0)
    return mean - jax.nn.logsumexp(2 * mean) / 2 + np.log(n) / 2


def _mirrored(network: Any, logs: Float[Array, " n"], key: Key[Array, ""]) -> Any:
    """The network that looks linear, each block with the singular values exp(logs)."""
    n, depth = logs.shape[0], network.stages[0].depth
    bases = jax.random.orthogonal(key, n, (depth + 1,))
    inner = jnp.einsum("lij,j,lkj->lik", bases[:-1], jnp.exp(logs), bases[1:])
    inner = inner.at[0].divide(2)  # the stem's units are pairs before any rectifier

    def pairs(a: Array, axis: int) -> Array:
        return jnp.concatenate([a, -a], axis=axis)

    return _kernels(
        network,
        stem=lambda kernel: pairs(kernel[:, :n], 1),
        stages=lambda kernel: pairs(pairs(inner, -1), -2),
        head=lambda kernel: pairs(kernel[:n], 0),
    )


def _kernels(network: Any, **changes: Any) -> Any:
    """A network whose kernels are changed, by the name of the part that they are in."""

    def changed(path: Any, leaf: Array) -> Array:
        part, *rest = jax.tree_util.keystr(path, simple=True, separator=".").split(".")
        return changes[part](leaf) if part in changes and "kernel" in rest else leaf

    return jax.tree_util.tree_map_with_path(changed, network)
