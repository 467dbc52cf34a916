"""Singular values with a gradient that is finite at ties and zeros."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from jaxact.spectral._qr import householder_qr, householder_r
from jaxact.spectral._spectrum import widen

ASPECT = 1.5
"""From this ratio of sides on, reducing a matrix by QR first is faster than its SVD alone."""


def singular_values(a: Inexact[Array, "*batch m n"], /) -> Float[Array, "*batch k"]:
    r"""Singular values of matrices, largest first, k = min(m, n).

    Matrices whose sides differ by a factor of 1.5 or more are reduced to a square factor by QR.

    All axes but the last two count matrices. A convolution's kernel is no such batch: PyTorch's of
    shape (64, 64, 3, 3) would be taken as 4096 matrices of 3 x 3. For kernels there are
    `jaxact.analysis.measure_matrices` (``layout="oihw"``), `unfolded` and `circular`.

    Args:
      a: real or complex matrices, any batch shape; float16 and bfloat16 are decomposed, and
        answered, in float32.

    Returns:
      Real singular values in descending order. The derivative is
      :math:`ds_i = \mathrm{Re}(u_i^H\,dA\,v_i)`, which at repeated and zero singular values is one
      of the subgradients, and always finite.

    Raises:
      ValueError: if ``a`` has fewer than two axes or an empty one.

    Example:
      >>> import jax.numpy as jnp
      >>> singular_values(jnp.diag(jnp.array([1.0, 3.0]))).tolist()
      [3.0, 1.0]
    """
    if a.ndim < 2 or 0 in a.shape[-2:]:
        raise ValueError(f"a must be matrices (..., m, n) with m and n at least 1; got {a.shape}")
    a = widen(a)
    return _tall(jnp.swapaxes(a, -1, -2) if a.shape[-2] < a.shape[-1] else a)


@jax.custom_jvp
def _tall(a: Inexact[Array, "*batch m n"]) -> Float[Array, "*batch n"]:
    if a.shape[-2] >= ASPECT * a.shape[-1]:
        a = householder_r(a)
    return jnp.linalg.svd(a, compute_uv=False)


@_tall.defjvp
def _tall_jvp(primals, tangents):
    # The factors are found in one piece: the derivative of QR itself divides by a singular R.
    (a,), (da,) = primals, tangents
    if a.shape[-2] >= ASPECT * a.shape[-1]:
        q, r = householder_qr(a)
        u, s, vh = jnp.linalg.svd(r, full_matrices=False)
        u = jnp.matmul(q, u, precision="highest")
    else:
        u, s, vh = jnp.linalg.svd(a, full_matrices=False)
    projected = jnp.matmul(jnp.swapaxes(u, -1, -2).conj(), da, precision="highest")
    return s, jnp.real(jnp.sum(projected * vh.conj(), axis=-1))
