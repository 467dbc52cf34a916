"""The Jacobian from the input to every layer, as a product over the layers."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from jaxact.spectral._graded import graded_spectrum, graded_start, graded_step
from jaxact.spectral._products import ProductSpectrum, basis, summary
from jaxact.spectral._qr import qr
from jaxact.spectral._spectrum import alike


def layer_jacobian_spectra(
    functions: Callable | Sequence[Callable],
    x: PyTree[Float[Array, "..."]],
    /,
    *,
    parameters: PyTree | None = None,
    top: int | None = None,
    sweeps: int = 2,
    tolerance: float | None = None,
) -> ProductSpectrum:
    r"""Log singular values of the Jacobian dh_l/dx of every layer l, h_l = f_l(... f_1(x)).

    No Jacobian is formed. Whole spectra take one pass of `graded_step` forward. The largest
    ``top`` need the directions that layer l magnifies most, which depend on l: for every l, from
    those of the layer before, ``sweeps`` passes of QR forward by jvp and back by vjp find them, and
    one graded pass gives the values. (A forward pass alone, from any fixed directions, gives growth
    rates, nats away from singular values.)

    Args:
      functions: the layers, functions of one example; or, with ``parameters``, a single function
        ``f(parameters_l, h)`` from a shape to the same, which is scanned.
      x: the input example, an array or a pytree; k coordinates in all.
      parameters: a pytree whose leaves have a leading layer axis L.
      top: how many of the largest values; all k if not given. Cost and, for a sequence, compile
        time grow with L^2: stack the layers where they are many.
      sweeps: passes back and forth for each layer, for ``top``.
      tolerance: see `product_spectrum`; None, the default, takes 4 sqrt(k) machine epsilons.

    Returns:
      A `ProductSpectrum` with leading axis L; -inf where a layer has fewer dimensions.
      Differentiable in what ``parameters`` and the functions hold, for whole spectra.

    Raises:
      ValueError: if there are no layers, or ``top`` or ``sweeps`` is out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> spectra = layer_jacobian_spectra(
      ...     lambda w, h: w * h, jnp.ones(2), parameters=jnp.array([[2.0, 1.0], [2.0, 3.0]])
      ... )
      >>> [[round(float(s), 3) for s in row] for row in jnp.exp(spectra.log_singular_values)]
      [[2.0, 1.0], [4.0, 3.0]]
    """
    flat, unravel = ravel_pytree(x)
    n = flat.size
    if top is not None and not 1 <= top <= n:
        raise ValueError(f"top must be from 1 to the input's {n} coordinates; got {top}")
    if sweeps < 1:
        raise ValueError(f"sweeps must be at least 1; got {sweeps}")
    share = 4 * n**0.5 * float(jnp.finfo(flat.dtype).eps) if tolerance is None else tolerance
    columns = n if top is None else min(2 * top + 8, n)
    flat = alike(flat, (flat, parameters))
    start = alike(basis(n, 1.0, flat.dtype)[:, :columns], flat)
    if parameters is not None:
        if not callable(functions):
            raise ValueError("functions must be a single function where parameters are given")
        lengths = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(parameters)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"parameters must share a leading layer axis; got lengths {lengths}")
        logs = _stacked(functions, parameters, flat, unravel, start, top, sweeps, share)
    else:
        layers = [functions] if callable(functions) else list(functions)
        if not layers:
            raise ValueError("functions must hold at least one layer; got an empty sequence")
        logs = _listed(layers, x, start, top, sweeps, share)
    return summary(logs if top is None else logs[:, :top])


def _forward(f: Callable, h: Array, q: Array) -> Array:
    _, tangent = jax.linearize(f, h)
    return jax.vmap(tangent, in_axes=-1, out_axes=-1)(q)


def _backward(f: Callable, h: Array, q: Array) -> Array:
    _, pullback = jax.vjp(f, h)
    return jax.vmap(lambda u: pullback(u)[0], in_axes=-1, out_axes=-1)(q)


def _orthonormal(a: Array) -> Array:
    return qr(a)[0]


def _stacked(f, parameters, flat, unravel, start, top, sweeps, share) -> Array:
    def layer(p):
        return lambda h: ravel_pytree(f(p, unravel(h)))[0]

    def run(h, p):
        y = layer(p)(h)
        return y, h

    _, inputs = lax.scan(run, flat, parameters)
    layers = len(inputs)
    items = (parameters, inputs, jnp.arange(layers))

    def graded(q, end):
        def step(product, item):
            p, h, index = item
            moved = graded_step(product, _forward(layer(p), h, product.q), tolerance=share)
            inside = index < end
            product = jax.tree.map(lambda a, b: jnp.where(inside, a, b), moved, product)
            return product, product

        return lax.scan(step, graded_start(q), items)

    if top is None:
        return jax.vmap(graded_spectrum)(graded(start, layers)[1])

    def sweep(q, end):
        def there(q, item):
            p, h, index = item
            return jnp.where(index < end, _orthonormal(_forward(layer(p), h, q)), q), None

        def back(q, item):
            p, h, index = item
            return jnp.where(index < end, _orthonormal(_backward(layer(p), h, q)), q), None

        q = lax.scan(there, q, items)[0]
        return lax.scan(back, q, items, reverse=True)[0]

    def prefix(q, end):
        q = lax.fori_loop(0, sweeps, lambda _, q: sweep(q, end), q)
        return q, graded_spectrum(graded(q, end)[0])

    return lax.scan(prefix, start, jnp.arange(1, layers + 1))[1]


def _listed(functions: list, x: Any, start: Array, top, sweeps: int, share: float) -> Array:
    layers, h = [], x
    for f in functions:
        flat, unravel = ravel_pytree(h)
        layers.append((lambda v, f=f, unravel=unravel: ravel_pytree(f(unravel(v)))[0], flat))
        h = f(h)
    rows = []
    product, q = graded_start(start), start
    for end in range(1, len(layers) + 1):
        if top is None:
            f, at = layers[end - 1]
            product = graded_step(product, _forward(f, at, product.q), tolerance=share)
        else:
            for _ in range(sweeps):
                for f, at in layers[:end]:
                    q = _orthonormal(_forward(f, at, q))
                for f, at in layers[:end][::-1]:
                    q = _orthonormal(_backward(f, at, q))
            product = graded_start(q)
            for f, at in layers[:end]:
                product = graded_step(product, _forward(f, at, product.q), tolerance=share)
        rows.append(graded_spectrum(product))
    width = max(len(row) for row in rows)
    return jnp.stack(
        [jnp.pad(row, (0, width - len(row)), constant_values=-jnp.inf) for row in rows]
    )
