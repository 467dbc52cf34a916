"""One-sided Jacobi rotations on rows that carry their lengths as logarithms."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

SWEEPS = 8


def positive_qr(a: Array) -> tuple[Array, Array]:
    """QR with a diagonal of R that is not negative."""
    q, r = jnp.linalg.qr(a)
    phase = phases(jnp.diagonal(r))
    return q * phase[None], r * phase.conj()[:, None]


def phases(z: Array) -> Array:
    """Z / |z|, and 1 at zero."""
    size = jnp.abs(z)
    return jnp.where(size > 0, z / jnp.where(size > 0, size, 1).astype(z.dtype), 1)


def add(total: Array, lost: Array, term: Array) -> tuple[Array, Array]:
    """Kahan's compensated sum: a thousand layers add up to thousands of nats."""
    term = term - lost
    new = total + term
    return new, (new - total) - term


@jax.custom_jvp
def log_row_jacobi(log_scale: Array, compensation: Array, rows: Array) -> Array:
    """Log singular values of diag(exp(log_scale - compensation)) rows, by rotations of pairs.

    Every row is kept at unit length beside the logarithm of its true length, so that only the
    ratio of two lengths, at most one, enters a rotation.
    """
    return _rotations(log_scale, compensation, rows)[0]


@log_row_jacobi.defjvp
def _log_row_jacobi_jvp(primals, tangents):
    r"""With T = D U: d log s_i = Re w_i^H (d sigma U + dU) v_i, where w_i = D u_i / s_i = U^-H v_i.

    Nothing of it depends on the spread of D, and ties give one of the subgradients.
    """
    log_scale, compensation, u = primals
    d_scale, d_compensation, du = tangents
    logs, v = _rotations(log_scale, compensation, u)
    # Their sum cancels where single layers are ill-conditioned: one Newton step of orthogonality.
    gram = jnp.matmul(v.T.conj(), v, precision="highest")
    v = 1.5 * v - 0.5 * jnp.matmul(v, gram, precision="highest")
    alive = jnp.isfinite(log_scale)
    solvable = jnp.where(alive[:, None], u, jnp.eye(len(u), dtype=u.dtype))
    w = jnp.linalg.solve(solvable.T.conj(), v)
    d_sigma = jnp.where(alive, d_scale - d_compensation, 0).astype(u.dtype)
    change = d_sigma[:, None] * jnp.matmul(u, v, precision="highest")
    change = change + jnp.matmul(du, v, precision="highest")
    d_logs = jnp.real(jnp.sum(w.conj() * change, axis=0))
    return logs, jnp.where(jnp.isfinite(logs), d_logs, 0)


def _rotations(log_scale: Array, compensation: Array, rows: Array) -> tuple[Array, Array]:
    """Log singular values, largest first, and the right singular vectors as columns."""
    n = len(rows)
    basis, upper = positive_qr(rows.T.conj())
    lower = upper.T.conj()
    rows, log_scale, compensation = _unit_rows(lower, log_scale, compensation)
    order = jnp.argsort(-log_scale)
    rows, log_scale, compensation = rows[order], log_scale[order], compensation[order]
    if n == 1:
        return log_scale - compensation, jnp.matmul(basis, rows.T.conj(), precision="highest")
    if n % 2:
        rows = jnp.pad(rows, ((0, 1), (0, 0)))
        log_scale = jnp.append(log_scale, -jnp.inf)
        compensation = jnp.append(compensation, 0)

    def rotate(carry, pair):
        rows, log_scale, lost = carry
        swap = log_scale[pair[1]] > log_scale[pair[0]]
        i, j = jnp.where(swap, pair[1], pair[0]), jnp.where(swap, pair[0], pair[1])
        x, y = rows[i], rows[j]
        alive = jnp.isfinite(log_scale[j])
        gap = jnp.where(alive, log_scale[j] - log_scale[i] - (lost[j] - lost[i]), 0)
        ratio = jnp.where(alive, jnp.exp(gap), 0)
        inner = jnp.sum(x * y.conj(), axis=-1)
        cosine = jnp.abs(inner)
        y = y * phases(inner)[:, None]
        gap = (1 - ratio) * (1 + ratio)
        square = jnp.square(gap) + jnp.square(2 * ratio * cosine)
        root = gap + jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        # The tangent of the angle over the ratio: bounded however small the ratio is.
        slope = jnp.where(alive & (root > 0), 2 * cosine / jnp.where(root > 0, root, 1), 0)
        tangent = slope * ratio
        shrink = lax.rsqrt(1 + jnp.square(tangent)).astype(x.dtype)[:, None]
        new_x = shrink * (x + (tangent * ratio).astype(x.dtype)[:, None] * y)
        new_y = shrink * (y - slope.astype(x.dtype)[:, None] * x)
        new_x, scale_i, lost_i = _unit_rows(new_x, log_scale[i], lost[i])
        new_y, scale_j, lost_j = _unit_rows(new_y, log_scale[j], lost[j])
        rows = rows.at[i].set(new_x).at[j].set(new_y)
        log_scale = log_scale.at[i].set(scale_i).at[j].set(scale_j)
        return (rows, log_scale, lost.at[i].set(lost_i).at[j].set(lost_j)), None

    pairs = jnp.asarray(_round_robin(len(rows)))

    def sweep(carry, _):
        return lax.scan(rotate, carry, pairs)[0], None

    start = (rows, log_scale, compensation)
    (rows, log_scale, compensation), _ = lax.scan(sweep, start, None, length=SWEEPS)
    logs = log_scale - compensation
    order = jnp.argsort(-logs)[:n]
    return logs[order], jnp.matmul(basis, rows[order].T.conj(), precision="highest")


def _round_robin(n: int) -> np.ndarray:
    """All pairs of n (even) players in n - 1 rounds, (rounds, 2, n / 2)."""
    players = list(range(n))
    rounds = []
    for _ in range(n - 1):
        rounds.append([players[: n // 2], players[: n // 2 - 1 : -1]])
        players = [players[0], players[-1], *players[1:-1]]
    return np.array(rounds)


def _unit_rows(rows: Array, log_scale: Array, lost: Array) -> tuple[Array, Array, Array]:
    square = jnp.sum(jnp.real(rows * rows.conj()), axis=-1)
    alive = (square > 0) & jnp.isfinite(log_scale)
    size = jnp.sqrt(jnp.where(alive, square, 1))
    total, lost = add(jnp.where(alive, log_scale, 0), lost, jnp.log(size))
    scaled = jnp.where(alive[:, None], rows / size.astype(rows.dtype)[:, None], 0)
    return scaled, jnp.where(alive, total, -jnp.inf), jnp.where(alive, lost, 0)
