"""A network in print."""

import math
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Shaped


def summary(network: Any, x: Shaped[Array, "n ..."] | jax.ShapeDtypeStruct, /) -> str:
    r"""A network's segments as a table: blocks, shape of what they put out, parameters.

    Nothing is computed; arrays of the network may be placeholders (an `IResNet`'s may not).

    Args:
      network: any network of this package.
      x: a batch, or its shape and dtype.

    Returns:
      Lines to print: class, wiring and the equation of a block where the network has one; a line
      for each segment; the number of all parameters, and of the other variables.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxact import models
      >>> net = models.MLPResNet(4, 3, width=8, depth=100, rngs=nnx.Rngs(0))
      >>> print(models.summary(net, jnp.ones((2, 4))).partition("\n")[2])
      segment  blocks  output  parameters
      stem          1  (2, 8)          40
      blocks      100  (2, 8)       8,800
      head          1  (2, 3)          43
      8,883 parameters, 0 other numbers
    """
    h: Any = jax.ShapeDtypeStruct(x.shape, x.dtype)
    rows = [("segment", "blocks", "output", "parameters")]
    for name, apply, params, depth in network.segments():

        def one(params: Any, h: Any, apply: Any = apply, depth: Any = depth) -> Any:
            return apply(params if depth is None else jax.tree.map(lambda a: a[0], params), h)

        h = jax.eval_shape(one, params, h)
        shapes = " ".join(str(leaf.shape) for leaf in jax.tree.leaves(h))
        kinds = nnx.state(params, nnx.Param) if isinstance(params, nnx.Module) else params
        rows.append((name, str(depth or 1), shapes, f"{_count(kinds):,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zipped))
        for zipped in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    params, rest = nnx.state(network, nnx.Param), nnx.state(network, nnx.Not(nnx.Param))
    total = f"{_count(params):,} parameters, {_count(rest):,} other numbers"
    title = [type(network).__name__, *filter(None, [getattr(network, "equation", "")])]
    return "\n".join([", ".join(title), *lines, total])


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
