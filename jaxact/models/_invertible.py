"""The invertible residual network: Lipschitz-bounded branches, an inverse, a log-determinant."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int, Key

from jaxact import activations, theory
from jaxact._checks import whole
from jaxact._compat import module_list
from jaxact._segment import Segment
from jaxact.models._block import BlockTrace
from jaxact.models._convolution import convolve
from jaxact.models._family import Family
from jaxact.models._layers import normal_kernel
from jaxact.models._registry import register


class Inverse(NamedTuple):
    """What was found by fixed-point iteration.

    Attributes:
      x: the input.
      error: the largest entry of ``|block(x) - y|`` over all blocks, as computed; of x itself at
        most 1 / (1 - coefficient) times as much is lost in a block.
      steps: iterations of the block that took most.
    """

    x: Float[Array, "n *shape"]
    error: Float[Array, ""]
    steps: Int[Array, ""]


class LogDeterminant(NamedTuple):
    """An output and ln |det dy/dx|, for each example.

    Attributes:
      y: the output.
      log_det: the logarithm of the Jacobian's determinant.
      truncation: how much of it the power series may have left out at most (eq. 4 of the paper); 0
        if no series was used.
    """

    y: Float[Array, "n *shape"]
    log_det: Float[Array, " n"]
    truncation: float


class _Branch(NamedTuple):
    """Weights of one branch, or with a leading depth axis of all."""

    kernels: tuple[Array, ...]
    biases: tuple[Array, ...]


class IResNet(Family):
    r"""An invertible residual network, on vectors or on images of one size.

    .. math:: x_{l+1} = x_l + g_l(x_l), \qquad g(x) = W_k\, a(\cdots a(W_1 x + b_1) \cdots) + b_k,
       \qquad \mathrm{Lip}(g) \le c < 1

    Each block is a bijection, since the branch contracts. A weight whose spectral norm exceeds its
    share of c is divided down to it; smaller ones are left. The norm is exact for matrices. For
    convolutions it is the largest over the frequencies of the padded image, which bounds the norm
    of the zero-padded convolution from above. So the bound on g holds strictly, where power
    iteration would bound it from below.

    The blocks are stacked over depth and scanned. All methods compose with ``jit``, ``vmap`` and
    ``grad`` in both modes; `inverse` differentiates implicitly.

    Args:
      shape: of one example: (features,) for dense layers, (height, width, channels) for 3 x 3
        convolutions with zero padding.
      width: units or channels inside a branch.
      depth: number of blocks.
      layers: weight layers in a branch, at least 2.
      coefficient: c, between 0 and 1.
      activation: a name or callable of `jaxact.activations` with a finite Lipschitz constant K;
        weights are then bounded so that K is compensated. A smooth one gives a smooth density.
      rngs: Flax's PRNG keys.

    Raises:
      ValueError: if a size or the coefficient is out of range, or the activation's slope is
        unbounded.

    Example:
      >>> network = IResNet((2,), width=16, depth=4, rngs=nnx.Rngs(0))
      >>> x = jnp.ones((3, 2))
      >>> found = network.inverse(network(x))
      >>> bool(jnp.max(jnp.abs(found.x - x)) < 1e-4)
      True
      >>> network.log_det(x, key=jax.random.key(0)).log_det.shape
      (3,)

    Reference:
      Behrmann et al. 2019, "Invertible Residual Networks", algorithms 1 and 2.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        width: int,
        depth: int,
        layers: int = 3,
        coefficient: float = 0.9,
        activation: str | Callable[..., Any] = "elu",
        rngs: nnx.Rngs,
    ):
        if len(shape) not in (1, 3):
            raise ValueError(f"shape must be (features,) or (height, width, channels); got {shape}")
        for size in shape:
            whole("shape", size)
        for name, size in (("width", width), ("depth", depth)):
            whole(name, size)
        if layers < 2:
            raise ValueError(f"layers must be at least 2; got {layers}")
        if not 0 < coefficient < 1:
            raise ValueError(f"coefficient must be between 0 and 1; got {coefficient}")
        self.activation = activations.get(activation)
        with jax.ensure_compile_time_eval():
            slope = float(theory.lipschitz_constant(self.activation))
        if not 0 < slope < math.inf:
            raise ValueError(
                f"activation must have a finite Lipschitz constant; got {activation!r} with {slope}"
            )
        self.shape = shape
        self.depth = depth
        self.coefficient = coefficient
        self.bound = (coefficient / slope ** (layers - 1)) ** (1 / layers)
        sizes = [shape[-1], *[width] * (layers - 1), shape[-1]]
        space = (3, 3) if len(shape) == 3 else ()
        self.kernels = module_list(
            [
                nnx.Param(
                    normal_kernel(
                        rngs.params(), (depth, *space, *sizes[i : i + 2]), math.sqrt(depth)
                    )
                )
                for i in range(layers)
            ]
        )
        self.biases = module_list([nnx.Param(jnp.zeros((depth, size))) for size in sizes[1:]])

    def _bounded(self) -> _Branch:
        """All weights, each kernel's spectral norm at most ``bound``."""
        kernels = []
        for kernel in self.kernels:
            value = kernel[...]
            norms = jax.vmap(self._norm)(value)
            factor = jnp.minimum(self.bound / jnp.maximum(norms, 1e-12), 1.0)
            kernels.append(value * factor.reshape(-1, *[1] * (value.ndim - 1)))
        return _Branch(tuple(kernels), tuple(bias[...] for bias in self.biases))

    def _norm(self, kernel: Array) -> Array:
        if kernel.ndim == 2:
            return jnp.linalg.norm(kernel, 2)
        # a padded convolution is part of the circular one on an image larger by the kernel's reach
        size = [n + k - 1 for n, k in zip(self.shape[:2], kernel.shape[:2], strict=True)]
        transfer = jnp.fft.rfft2(kernel, size, axes=(0, 1))
        return jnp.max(jnp.linalg.svd(transfer, compute_uv=False))

    def _branch(self, branch: _Branch, x: Array) -> Array:
        for number, (kernel, bias) in enumerate(zip(*branch, strict=True)):
            x = self.activation(x) if number else x
            kernel, bias = kernel.astype(x.dtype), bias.astype(x.dtype)
            x = x @ kernel if kernel.ndim == 2 else convolve(x, kernel)
            x = x + jnp.broadcast_to(bias, x.shape)
        return x

    def trace(
        self, x: Float[Array, "n *shape"], *, key: Array | None = None, record: bool = False
    ) -> tuple[Float[Array, "n *shape"], dict[str, BlockTrace]]:
        """The output, and if asked what passes through the blocks; ``key`` is not used."""

        def block(x, branch):
            g = self._branch(branch, x)
            return x + g, BlockTrace(x, g, x + g) if record else None

        found: Any
        y, found = lax.scan(block, x, self._bounded())
        return y, {"blocks": found} if record else {}

    def segments(self) -> tuple[Segment, ...]:
        """The network as a chain of pure functions: its blocks, with their bounded weights."""

        def block(branch, x):
            return x + self._branch(branch, x)

        return (Segment("blocks", block, self._bounded(), self.depth),)

    def inverse(
        self,
        y: Float[Array, "n *shape"],
        /,
        *,
        tolerance: float = 1e-6,
        max_steps: int = 1000,
    ) -> Inverse:
        """The input with a given output, block by block by the iteration x <- y - g(x).

        Each step shrinks the error by ``coefficient`` at least. Its derivatives, in both modes, are
        those of the exact inverse, by the implicit function theorem.

        Args:
          y: outputs.
          tolerance: a block is left when no entry of x changes by more than this times the largest
            entry of y, or 1 if that is less.
          max_steps: of a block. Too few show as a large ``error``.

        Returns:
          The `Inverse`.
        """
        tolerance = max(tolerance, float(jnp.finfo(y.dtype).eps))

        def fixed_point(step, like):
            limit = tolerance * jnp.maximum(jnp.max(jnp.abs(like)), 1)

            def unsettled(carry):
                _, change, steps = carry
                return (change > limit) & (steps < max_steps)

            def advance(carry):
                x, _, steps = carry
                new = step(x)
                return new, jnp.max(jnp.abs(new - x)), steps + 1

            start = (like, jnp.full((), jnp.inf, y.dtype), jnp.zeros((), jnp.int32))
            return lax.while_loop(unsettled, advance, start)

        def unblock(y, branch):
            def solve(_, like):
                x, _, steps = fixed_point(lambda x: like - self._branch(branch, x), like)
                return x, steps.astype(jnp.float32)  # jax 0.10 differentiates no integers here

            def neumann(matvec, b):
                return fixed_point(lambda x: b - (matvec(x) - x), b)[0]

            def tangent_solve(matvec, b):
                return lax.custom_linear_solve(matvec, b, neumann, neumann)

            def residual(x):
                return x + self._branch(branch, x) - y

            x, steps = lax.custom_root(residual, y, solve, tangent_solve, has_aux=True)
            return x, (jnp.max(jnp.abs(residual(x))), steps)

        x, (errors, steps) = lax.scan(unblock, y, self._bounded(), reverse=True)
        return Inverse(x, lax.stop_gradient(jnp.max(errors)), jnp.max(steps).astype(jnp.int32))

    def log_det(
        self,
        x: Float[Array, "n *shape"],
        /,
        *,
        key: Key[Array, ""],
        terms: int = 10,
        probes: int = 1,
    ) -> LogDeterminant:
        r"""Output and log-determinant, by a power series with Hutchinson's trace estimator.

        .. math:: \ln\det(I + J_g) = \sum_{k=1}^{\infty} \frac{(-1)^{k+1}}{k}\, \mathrm{tr}\, J_g^k,
           \qquad \mathrm{tr}\, A \approx v^\top A v

        Args:
          x: inputs.
          key: PRNG key of the probes v, which have entries of 1 and -1.
          terms: of the series.
          probes: averaged for each example and block.

        Returns:
          The `LogDeterminant`; its expectation over keys is off by ``truncation`` at most.

        Raises:
          ValueError: if ``terms`` or ``probes`` is less than 1.
        """
        whole("terms", terms)
        whole("probes", probes)
        sum_of = tuple(range(1, x.ndim))

        def block(x, scanned):
            branch, key = scanned
            g, pull = jax.vjp(lambda x: self._branch(branch, x), x)

            def trace(key):
                v = jax.random.rademacher(key, x.shape, x.dtype)

                def term(w, k):
                    w = pull(w)[0]
                    sign = jnp.where(k % 2 == 1, 1, -1) / k
                    return w, sign.astype(x.dtype) * jnp.sum(w * v, sum_of)

                return jnp.sum(lax.scan(term, v, jnp.arange(1, terms + 1))[1], 0)

            return x + g, jnp.mean(jax.vmap(trace)(jax.random.split(key, probes)), 0)

        keys = jax.random.split(key, self.depth)
        y, each = lax.scan(block, x, (self._bounded(), keys))
        c = self.coefficient
        left = -math.log1p(-c) - sum(c**k / k for k in range(1, terms + 1))
        return LogDeterminant(y, jnp.sum(each, 0), self.depth * math.prod(self.shape) * left)

    def log_det_dense(self, x: Float[Array, "n *shape"], /) -> LogDeterminant:
        """Output and exact log-determinant, from the whole Jacobian of each block.

        Args:
          x: inputs; the cost grows with the cube of an example's size.

        Returns:
          The `LogDeterminant`.
        """
        size = math.prod(self.shape)

        def block(x, branch):
            def flat(one):
                return self._branch(branch, one.reshape(1, *self.shape)).reshape(-1)

            jacobian = jax.vmap(jax.jacfwd(flat))(x.reshape(len(x), size))
            log_det = jnp.linalg.slogdet(jnp.eye(size, dtype=x.dtype)[None] + jacobian).logabsdet
            return x + self._branch(branch, x), log_det

        y, each = lax.scan(block, x, self._bounded())
        return LogDeterminant(y, jnp.sum(each, 0), 0.0)


register(IResNet, {"i_resnet": {}})
