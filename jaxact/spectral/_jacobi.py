"""One-sided Jacobi rotations on rows that carry their lengths as logarithms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxact.spectral._qr import tall_qr
from jaxact.spectral._spectrum import alike

MOST_SWEEPS = 30
"""Three or four do."""


def positive_qr(a: Array) -> tuple[Array, Array]:
    """QR with a diagonal of R that is not negative."""
    q, r = tall_qr(a)
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


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def log_row_jacobi(
    vectors: bool, log_scale: Array, compensation: Array, rows: Array
) -> tuple[Array, Array | None]:
    """Log singular values of diag(exp(log_scale - compensation)) rows, by rotations of pairs.

    Every row is kept at unit length beside the logarithm of its true length, so that only the
    ratio of two lengths, at most one, enters a rotation. With ``vectors`` the right singular
    vectors as well, constant to derivatives.
    """
    return _rotations(log_scale, compensation, rows, vectors=vectors)


@log_row_jacobi.defjvp
def _log_row_jacobi_jvp(vectors, primals, tangents):
    r"""With T = D U: d log s_i = Re w_i^H (d sigma U + dU) v_i, where w_i = D u_i / s_i = U^-H v_i.

    Nothing of it depends on the spread of D, and ties give one of the subgradients.
    """
    log_scale, compensation, u = primals
    d_scale, d_compensation, du = tangents
    logs, v = _rotations(log_scale, compensation, u, vectors=True)
    out = v if vectors else None
    # Their sum cancels where single layers are ill-conditioned: one Newton step of orthogonality.
    gram = jnp.matmul(v.T.conj(), v, precision="highest")
    v = 1.5 * v - 0.5 * jnp.matmul(v, gram, precision="highest")
    alive = jnp.isfinite(log_scale)
    w = dual(u, v, log_scale - compensation, logs)
    d_sigma = jnp.where(alive, d_scale - d_compensation, 0).astype(u.dtype)
    change = d_sigma[:, None] * jnp.matmul(u, v, precision="highest")
    change = change + jnp.matmul(du, v, precision="highest")
    d_logs = jnp.real(jnp.sum(w.conj() * change, axis=0))
    d_logs = jnp.where(jnp.isneginf(logs), 0, d_logs)
    return (logs, out), (d_logs, None if out is None else jnp.zeros_like(out))


def dual(u: Array, v: Array, log_scale: Array, logs: Array) -> Array:
    """Columns w_i = U^-H v_i, of the rows of U that are not lost, finite where U is singular."""
    alive = jnp.isfinite(log_scale)
    order = jnp.argsort(~alive)
    # U's rows may differ much in length, which a triangular solve does not see.
    size = jnp.where(alive, jnp.linalg.norm(jnp.where(alive[:, None], u, 1), axis=1), 1)
    size = size.astype(u.dtype)[:, None]
    q, r = tall_qr((u / size)[order].T.conj())
    w = jnp.where(alive[order][:, None], jnp.matmul(q.T.conj(), v, precision="highest"), 0)
    floor = float(jnp.finfo(logs.dtype).eps) ** 2
    usable = jnp.abs(jnp.diagonal(r)) > floor
    r = jnp.where(jnp.diag(~usable), floor, r)
    w = lax.linalg.triangular_solve(r, w, left_side=True, lower=False)
    w = w[jnp.argsort(order)] / size
    # D w = s x with |x| = 1 and s x = D U v: rounding knows no such bounds.
    gap = log_scale[:, None] - logs[None]
    ratio = jnp.exp(jnp.clip(jnp.where(jnp.isnan(gap), 80, gap), -80, 80))
    reach = jnp.abs(jnp.matmul(u, v, precision="highest")) + jnp.finfo(logs.dtype).eps
    bound = ratio * jnp.minimum(reach * ratio, 1)
    length = jnp.abs(w)
    shrink = jnp.where(length > bound, bound / jnp.where(length > bound, length, 1), 1)
    return jnp.where(alive[:, None], w * shrink.astype(w.dtype), 0)


def _rotations(log_scale: Array, compensation: Array, u: Array, vectors: bool) -> tuple:
    r"""Log singular values of T = D U, largest first, and right singular vectors as columns.

    With rows sorted by length, U^H = Q R gives T^H = Q R D = Q D (D^-1 R D): a graded matrix once
    more, whose rows are so much nearer to orthogonal that a few sweeps do (Drmac & Veselic 2008).
    """
    n = len(u)
    u, log_scale, compensation = _unit_rows(u, log_scale, compensation)
    order = jnp.argsort(-log_scale)
    log_scale, compensation = log_scale[order], compensation[order]
    basis, upper = positive_qr(u[order].T.conj())
    alive = jnp.isfinite(log_scale)
    scale = jnp.where(alive, log_scale, 0)
    gaps = scale[None] - scale[:, None] - (compensation[None] - compensation[:, None])
    kept = jnp.triu(alive[:, None] & alive[None])
    ratios = jnp.where(kept, jnp.exp(jnp.where(kept, gaps, 0)), 0)
    rows, log_scale, compensation = _unit_rows(
        upper * ratios.astype(u.dtype), log_scale, compensation
    )
    turns = alike(jnp.eye(n, dtype=u.dtype), u)
    if n % 2:
        rows, turns = (jnp.pad(a, ((0, 1), (0, 0))) for a in (rows, turns))
        log_scale = jnp.pad(log_scale, (0, 1), constant_values=-jnp.inf)
        compensation = jnp.pad(compensation, (0, 1))
    state = (rows, log_scale, compensation, turns if vectors else None)
    _, log_scale, compensation, turns = _orthogonal_rows(state)
    logs = log_scale - compensation
    order = jnp.argsort(-logs)[:n]
    if not vectors:
        return logs[order], None
    return logs[order], jnp.matmul(basis, turns[order].T.conj(), precision="highest")


def _orthogonal_rows(state: tuple) -> tuple:
    """Sweeps over all pairs of rows until they are orthogonal."""
    pairs = jnp.asarray(_round_robin(len(state[0])))
    # Convergence is quadratic: after a sweep of cosines below this only rounding is left.
    small = jnp.finfo(state[1].dtype).eps ** 0.5

    def sweep(carry):
        count, state, _ = carry
        state, cosines = lax.scan(_rotate, state, pairs)
        return count + 1, state, jnp.max(cosines)

    def unfinished(carry):
        return (carry[0] < MOST_SWEEPS) & (carry[2] > small)

    count, cosine = alike((jnp.zeros((), jnp.int32), jnp.ones((), state[1].dtype)), state[1])
    return lax.while_loop(unfinished, sweep, (count, state, cosine))[1]


def _rotate(state: tuple, pair: Array) -> tuple[tuple, Array]:
    """One rotation for each pair of rows; and the largest cosine there was between two."""
    rows, log_scale, lost, turns = state
    swap = log_scale[pair[1]] > log_scale[pair[0]]
    i, j = jnp.where(swap, pair[1], pair[0]), jnp.where(swap, pair[0], pair[1])
    x, y = rows[i], rows[j]
    alive = jnp.isfinite(log_scale[j])
    gap = jnp.where(alive, log_scale[j] - log_scale[i] - (lost[j] - lost[i]), 0)
    ratio = jnp.where(alive, jnp.exp(gap), 0)
    inner = jnp.sum(x * y.conj(), axis=-1)
    cosine = jnp.abs(inner)
    phase = phases(inner)[:, None]
    y = y * phase
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
    if turns is not None:
        x, y = turns[i], turns[j] * phase
        t = tangent.astype(x.dtype)[:, None]
        turns = turns.at[i].set(shrink * (x + t * y)).at[j].set(shrink * (y - t * x))
    rows = rows.at[i].set(new_x).at[j].set(new_y)
    log_scale = log_scale.at[i].set(scale_i).at[j].set(scale_j)
    lost = lost.at[i].set(lost_i).at[j].set(lost_j)
    return (rows, log_scale, lost, turns), jnp.max(cosine)


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
