"""Chains of matrices of every structure, and exact spectra of their products."""

import numpy as np
import pytest

flint = pytest.importorskip("flint")


def truth(layers):
    """Log singular values of the product, -inf for exact zeros, from integers without rounding."""
    product, exponent = integer(layers[0])
    for w in layers[1:]:
        whole, power = integer(w)
        product, exponent = whole * product, exponent + power
    rank, count = product.rank(), min(product.nrows(), product.ncols())
    halves = 2 if np.iscomplexobj(layers[0]) else 1
    logs = np.full(count // halves, -np.inf)
    if rank:
        found = nonzero(product, rank, exponent)
        # As a real matrix a complex one has every value twice.
        logs[: rank // halves] = found[::halves]
    return logs


def integer(w):
    """An integer matrix and a power of two whose product is ``w``, exactly."""
    w = np.asarray(w)
    if np.iscomplexobj(w):
        w = np.block([[w.real, -w.imag], [w.imag, w.real]])
    mantissa, power = np.frexp(np.asarray(w, np.float64))
    least = int(np.min(power[w != 0], initial=0)) - 53
    entries = [
        [int(np.ldexp(m, 53)) << int(p - 53 - least) if m else 0 for m, p in zip(*row, strict=True)]
        for row in zip(mantissa, power, strict=True)
    ]
    return flint.fmpz_mat(entries), least


def nonzero(product, rank, exponent):
    """The logarithms of so many singular values, with as many bits as they take."""
    largest = max(abs(v) for v in product.entries()).bit_length()
    bits = 256
    while True:
        flint.ctx.prec = bits
        rows = triangular(product, rank)
        # What Gram-Schmidt has rounded is this share of the largest entry.
        if rows is not None and smallest(rows) > largest - bits + 80:
            return jacobi(rows, exponent)
        bits *= 2


def smallest(rows):
    return min(float(dot(row, row).log()) for row in rows) / 2 / np.log(2)


def triangular(product, rank):
    """Rows of R by Gram-Schmidt, the longest column first."""
    a, n, rows = flint.arb_mat(product).mid(), product.nrows(), []
    for _ in range(rank):
        columns = a.transpose().tolist()
        squares = [sum((v * v for v in column), flint.arb(0)).mid() for column in columns]
        k = max(range(len(squares)), key=squares.__getitem__)
        if squares[k] == 0:
            return None
        q = flint.arb_mat(n, 1, columns[k]) * (1 / squares[k].sqrt())
        # Twice: once leaves rounding of the longest column in the direction that is taken out.
        row = (q.transpose() * a).mid()
        a = (a - q * row).mid()
        rows.append(row)
        a = (a - q * (q.transpose() * a).mid()).mid()
    return rows


def dot(x, y):
    return (x * y.transpose())[0, 0].mid()


def jacobi(rows, exponent):
    """Log singular values of graded rows, by one-sided rotations at the precision in force."""
    count, largest = len(rows), 1.0
    while largest > 1e-12:
        largest = 0.0
        squares = [dot(row, row) for row in rows]
        for i in range(count):
            for j in range(i + 1, count):
                inner = dot(rows[i], rows[j])
                cosine = abs(float(inner / (squares[i] * squares[j]).sqrt()))
                largest = max(largest, cosine)
                if cosine < 1e-14:
                    continue
                zeta = (squares[j] - squares[i]) / (2 * inner)
                t = (1 / (abs(zeta) + (zeta * zeta + 1).sqrt())).mid()
                t = t if zeta > 0 else -t
                c = (1 / (t * t + 1).sqrt()).mid()
                x, y = rows[i], rows[j]
                rows[i], rows[j] = ((x - y * t) * c).mid(), ((x * t + y) * c).mid()
                squares[i], squares[j] = dot(rows[i], rows[i]), dot(rows[j], rows[j])
    unit = exponent * flint.arb(2).log()
    return np.sort([float(dot(row, row).log() / 2 + unit) for row in rows])[::-1]


def _gaussian(rng, *shape):
    return rng.standard_normal(shape)


def _haar(rng, layers, n):
    return np.linalg.qr(rng.standard_normal((layers, n, n)))[0]


def _permutation(rng, n):
    return np.eye(n)[rng.permutation(n)]


def _jordan(rng, layers, n):
    return np.eye(n) * rng.uniform(0.5, 1.5, (layers, 1, 1)) + np.eye(n, k=1)


def _circulant(rng, layers, n):
    first = rng.standard_normal((layers, n))
    return np.stack([np.stack([np.roll(row, k) for k in range(n)]) for row in first])


def _hilbert(rng, layers, n):
    i = np.arange(n)
    return np.stack([1 / (i[:, None] + i[None] + 1 + rng.uniform(0, 3)) for _ in range(layers)])


def _vandermonde(rng, layers, n):
    return rng.uniform(-1, 1, (layers, n, 1)) ** np.arange(n)


def _kahan(rng, layers, n):
    c = rng.uniform(0.2, 0.9, (layers, 1, 1))
    s = np.sqrt(1 - c * c)
    return s ** np.arange(n)[:, None] * (np.eye(n) - c * np.triu(np.ones((n, n)), 1))


def _turning(rng, layers, n):
    """First grows what later shrinks, along the same axes."""
    grow, half = np.exp(rng.uniform(-0.7, 0.7, n)), layers // 2
    return np.stack([np.diag(grow ** (1.0 if k < half else -1.0)) for k in range(layers)])


def _turning_turned(rng, layers, n):
    """The same in general position: (V G V^T)^l (V G^-1 V^T)^l (1 + small)."""
    v = _haar(rng, 1, n)[0]
    grow = np.exp(rng.uniform(-0.5, 0.5, n))
    half = layers // 2
    return np.stack([v @ np.diag(grow ** (1.0 if k < half else -1.0)) @ v.T for k in range(layers)])


def _low_rank(rng, layers, n):
    r = max(1, n // 3)
    return _gaussian(rng, layers, n, r) @ _gaussian(rng, layers, r, n)


def _stochastic(rng, layers, n):
    a = rng.uniform(0, 1, (layers, n, n))
    return a / a.sum(-1, keepdims=True)


def _reflections(rng, layers, n):
    v = rng.standard_normal((layers, n, 1))
    return np.eye(n) - 2 * v * np.swapaxes(v, 1, 2) / np.sum(v * v, axis=1, keepdims=True)


def _with_zeros(rng, layers, n, axis, odds=0.15):
    w = _gaussian(rng, layers, n, n) / n**0.5
    shape = [layers, n, n]
    shape[axis] = 1
    return w * (rng.uniform(size=shape) > odds)


def _duplicated(rng, layers, n):
    w = _gaussian(rng, layers, n, n)
    w[layers // 2, -1] = w[layers // 2, 0]
    return w


def _relu(rng, layers, n):
    h, out = rng.standard_normal(n), []
    for _ in range(layers):
        w = _gaussian(rng, n, n) * (2 / n) ** 0.5
        h = w @ h
        out.append((h > 0)[:, None] * w)
        h = np.maximum(h, 0)
    return np.stack(out)


def _one(w, layers, rng):
    """Gaussian layers with one other among them."""
    n = w.shape[-1]
    stack = _gaussian(rng, layers, n, n) / n**0.5
    stack[rng.integers(layers)] = w
    return stack


TUNED = {
    "Gaussian": lambda r, m, n: _gaussian(r, m, n, n) / n**0.5,
    "uniform": lambda r, m, n: r.uniform(-1, 1, (m, n, n)),
    "orthogonal": _haar,
    "ascending": lambda r, m, n: np.sort(np.exp(_gaussian(r, m, n)), 1)[:, None] * np.eye(n),
    "descending": lambda r, m, n: -np.sort(-np.exp(_gaussian(r, m, n)), 1)[:, None] * np.eye(n),
    "diagonal, shuffled": lambda r, m, n: np.exp(2 * _gaussian(r, m, n, 1)) * np.eye(n),
    "upper": lambda r, m, n: np.triu(_gaussian(r, m, n, n)),
    "lower": lambda r, m, n: np.tril(_gaussian(r, m, n, n)),
    "Jordan": _jordan,
    "nilpotent": lambda r, m, n: np.triu(_gaussian(r, m, n, n), 1),
    "permutations": lambda r, m, n: np.stack([_permutation(r, n) for _ in range(m)]),
    "scaled permutations": lambda r, m, n: np.stack(
        [np.exp(3 * _gaussian(r, n, 1)) * _permutation(r, n) for _ in range(m)]
    ),
    "circulant": _circulant,
    "Hilbert": _hilbert,
    "Vandermonde": _vandermonde,
    "Kahan": _kahan,
    "graded columns": lambda r, m, n: _gaussian(r, m, n, n) * 10.0 ** -(30 * np.arange(n) / n),
    "rank one and noise": lambda r, m, n: np.ones((n, n)) + 1e-3 * _gaussian(r, m, n, n),
    "zero rows": lambda r, m, n: _with_zeros(r, m, n, 2),
    "zero columns": lambda r, m, n: _with_zeros(r, m, n, 1),
    "sparse": lambda r, m, n: _gaussian(r, m, n, n) * (r.uniform(size=(m, n, n)) < 0.5),
    "reflections": _reflections,
    "turning": _turning,
    "low rank": _low_rank,
    "1e19": lambda r, m, n: 1e19 * _gaussian(r, m, n, n),
    "ReLU": _relu,
    "shuffled scales": lambda r, m, n: 10.0 ** r.uniform(-36, 36, (m, n, n)),
}
"""Kinds by which the error bars were made."""

HELD_OUT = {
    "graded rows": lambda r, m, n: (
        10.0 ** -(30 * np.arange(n)[:, None] / n) * _gaussian(r, m, n, n)
    ),
    "rows graded upwards": lambda r, m, n: (
        10.0 ** -(20 * np.arange(n)[::-1, None] / n) * _gaussian(r, m, n, n)
    ),
    "graded both ways": lambda r, m, n: (
        10.0 ** -(8 * np.arange(n)[:, None] / n)
        * _gaussian(r, m, n, n)
        * 10.0 ** -(8 * np.arange(n)[::-1] / n)
    ),
    "stochastic": _stochastic,
    "zero layer": lambda r, m, n: _one(np.zeros((n, n)), m, r),
    "duplicated rows": _duplicated,
    "identity and small": lambda r, m, n: np.eye(n) + _gaussian(r, m, n, n) / (10 * n**0.5),
    "turning, in general position": _turning_turned,
    "1e-25": lambda r, m, n: 1e-25 * _gaussian(r, m, n, n),
    "scales by layer": lambda r, m, n: (
        10.0 ** r.uniform(-36, 36, (m, 1, 1)) * _gaussian(r, m, n, n)
    ),
    "checkerboard": lambda r, m, n: (
        _gaussian(r, m, n, n) * ((np.arange(n)[:, None] + np.arange(n)) % 2 == 0)
    ),
    "block diagonal": lambda r, m, n: (
        _gaussian(r, m, n, n) * (np.arange(n)[:, None] // 2 == np.arange(n) // 2)
    ),
    "companion": lambda r, m, n: (
        np.eye(n, k=-1) + _gaussian(r, m, n, 1) * (np.arange(n) == n - 1) * np.ones((n, 1))
    ),
    "heavy tails": lambda r, m, n: r.standard_t(1, (m, n, n)),
    "signs": lambda r, m, n: r.choice([-1.0, 1.0], (m, n, n)),
    "nearly singular": lambda r, m, n: _gaussian(r, m, n, n) - np.ones((n, n)) * 20,
    "bidiagonal": lambda r, m, n: (
        _gaussian(r, m, n, 1) * np.eye(n) + _gaussian(r, m, n, 1) * np.eye(n, k=1)
    ),
    "arrows": lambda r, m, n: (
        _gaussian(r, m, n, n)
        * ((np.arange(n) == 0) | (np.arange(n)[:, None] == 0) | np.eye(n, dtype=bool))
    ),
    "projections": lambda r, m, n: np.eye(n) - np.ones((n, n)) / n + 0 * _gaussian(r, m, 1, 1),
    "signed shears": lambda r, m, n: np.stack(
        [np.eye(n) + r.normal() * np.outer(*np.eye(n)[r.permutation(n)[:2]]) for _ in range(m)]
    ),
}
"""Kinds that had no part in it."""


def draw(kinds, kind, layers, n, seed, dtype=np.float32):
    """A chain, normal numbers and zeros of a dtype."""
    rng = np.random.default_rng([seed, layers, n, sum(map(ord, kind))])
    stack = np.asarray(kinds[kind](rng, layers, n)).astype(dtype)
    return np.where(np.abs(stack) < np.finfo(dtype).tiny, 0, stack).astype(dtype)
