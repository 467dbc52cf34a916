"""One-sided Jacobi rotations on rows that carry their lengths as logarithms."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

MOST_SWEEPS = 30
"""Three or four do."""


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
    return _rotations(log_scale, compensation, rows, vectors=False)[0]


@log_row_jacobi.defjvp
def _log_row_jacobi_jvp(primals, tangents):
    r"""With T = D U: d log s_i = Re w_i^H (d sigma U + dU) v_i, where w_i = D u_i / s_i = U^-H v_i.

    Nothing of it depends on the spread of D, and ties give one of the subgradients.
    """
    log_scale, compensation, u = primals
    d_scale, d_compensation, du = tangents
    logs, v = _rotations(log_scale, compensation, u, vectors=True)
    # Their sum cancels where single layers are ill-conditioned: one Newton step of orthogonality.
    gram = jnp.matmul(v.T.conj(), v, precision="highest")
    v = 1.5 * v - 0.5 * jnp.matmul(v, gram, precision="highest")
    alive = jnp.isfinite(log_scale)
    solvable = jnp.where(alive[:, None], u, jnp.eye(len(u), dtype=u.dtype))
    # U's rows may differ much in length, which a triangular solve does not see.
    size = jnp.linalg.norm(solvable, axis=1).astype(u.dtype)
    q, r = jnp.linalg.qr((solvable / size[:, None]).T.conj())
    w = jnp.matmul(q.T.conj(), v, precision="highest")
    w = lax.linalg.triangular_solve(r, w, left_side=True, lower=False) / size[:, None]
    d_sigma = jnp.where(alive, d_scale - d_compensation, 0).astype(u.dtype)
    change = d_sigma[:, None] * jnp.matmul(u, v, precision="highest")
    change = change + jnp.matmul(du, v, precision="highest")
    d_logs = jnp.real(jnp.sum(w.conj() * change, axis=0))
    return logs, jnp.where(jnp.isfinite(logs), d_logs, 0)


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
    turns = jnp.eye(n, dtype=u.dtype)
    if n % 2:
        rows, turns = (jnp.pad(a, ((0, 1), (0, 0))) for a in (rows, turns))
        log_scale = jnp.append(log_scale, -jnp.inf)
        compensation = jnp.append(compensation, 0)

    def rotate(carry, pair):
        rows, log_scale, lost, turns, largest = carry
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
        if vectors:
            x, y = turns[i], turns[j] * phase
            t = tangent.astype(x.dtype)[:, None]
            turns = turns.at[i].set(shrink * (x + t * y)).at[j].set(shrink * (y - t * x))
        rows = rows.at[i].set(new_x).at[j].set(new_y)
        log_scale = log_scale.at[i].set(scale_i).at[j].set(scale_j)
        lost = lost.at[i].set(lost_i).at[j].set(lost_j)
        return (rows, log_scale, lost, turns, jnp.maximum(largest, jnp.max(cosine))), None

    pairs = jnp.asarray(_round_robin(len(rows)))
    # Convergence is quadratic: after a sweep of cosines below this only rounding is left.
    small = jnp.finfo(log_scale.dtype).eps ** 0.5

    def sweep(carry):
        count, state = carry
        state = (*state[:-1], jnp.zeros_like(state[-1]))
        return count + 1, lax.scan(rotate, state, pairs)[0]

    def unfinished(carry):
        return (carry[0] < MOST_SWEEPS) & (carry[1][-1] > small)

    state = (rows, log_scale, compensation, turns, jnp.ones((), log_scale.dtype))
    _, (rows, log_scale, compensation, turns, _) = lax.while_loop(unfinished, sweep, (0, state))
    logs = log_scale - compensation
    order = jnp.argsort(-logs)[:n]
    return logs[order], jnp.matmul(basis, turns[order].T.conj(), precision="highest")


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
