"""Products of up to a thousand layers of width 64 against integers of thousands of bits."""

import functools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxact import spectral

flint = pytest.importorskip("flint")
N = 64


def layers_of(kind, layers, seed):
    rng = np.random.default_rng(seed)
    shape = (layers, N, N)
    if kind == "uniform":
        w = rng.uniform(-1, 1, shape) * (3 / N) ** 0.5
    elif kind == "orthogonal and noise":
        w = np.linalg.qr(rng.standard_normal(shape))[0] + rng.standard_normal(shape) / 80
    elif kind == "masked":
        w = rng.standard_normal(shape) * (2 / N) ** 0.5 * (rng.uniform(size=(layers, N, 1)) < 0.9)
    else:
        w = rng.standard_normal(shape) / 8
    return w.astype(np.float32)


def exact(stack, bits):
    """Log singular values of the product, formed in integers of about so many bits.

    What is dropped of the integers is bounded on the way, and with it the error: by Weyl no
    singular value moves by more than the norm of what was dropped.
    """
    integers, exponent, error = product(stack, bits)
    logs = jacobi(triangular(integers, bits))
    assert error / math.log2(math.e) < logs[-1] - 12
    return logs + exponent * math.log(2)


def product(stack, bits):
    """(M, e, b), M of integers: the product is M 2^e but for an error of norm 2^(b + e) at most."""
    parts = [(*as_integers(w), -math.inf) for w in stack]
    while len(parts) > 1:
        odd = parts[len(parts) - len(parts) % 2 :]
        pairs = zip(parts[1::2], parts[::2], strict=False)
        parts = [times(b, a, bits) for b, a in pairs] + odd
    return parts[0]


def as_integers(w):
    w = np.asarray(w, np.float64)
    exponent = int(np.frexp(w[w != 0])[1].min()) - 24
    return flint.fmpz_mat([[int(v) for v in row] for row in np.ldexp(w, -exponent)]), exponent


def times(b, a, bits):
    add = np.logaddexp2
    error = add(add(log_norm(b[0]) + a[2], b[2] + log_norm(a[0])), b[2] + a[2])
    whole, exponent = b[0] * a[0], b[1] + a[1]
    drop = largest_bits(whole) - bits
    if drop > 0:
        whole = flint.fmpz_mat([[v >> drop for v in row] for row in whole.tolist()])
        exponent, error = exponent + drop, add(error - drop, math.log2(N))
    return whole, exponent, error


def largest_bits(a):
    return max(abs(v) for v in a.entries()).bit_length()


def log_norm(a):
    """At least log2 of the Frobenius norm."""
    return largest_bits(a) + math.log2(N)


def triangular(integers, bits):
    """Rows of R, by Gram-Schmidt with the longest column first, until nothing is left."""
    flint.ctx.prec = bits
    a, rows, first = flint.arb_mat(integers), [], None
    for _ in range(N):
        columns = a.transpose().tolist()
        squares = [sum((v * v for v in column), flint.arb(0)).mid() for column in columns]
        k = max(range(N), key=squares.__getitem__)
        first = first or squares[k]
        if squares[k] < first * flint.arb(2) ** (60 - 2 * bits):
            break
        q = flint.arb_mat(N, 1, columns[k]) * (1 / squares[k].sqrt())
        rows.append((q.transpose() * a).mid())
        a = (a - q * rows[-1]).mid()
    return rows


def jacobi(rows):
    """Log singular values of graded rows, by rotations with 160 bits and exponents of any size."""
    flint.ctx.prec = 160

    def dot(x, y):
        return (x * y.transpose())[0, 0].mid()

    count, largest = len(rows), 1.0
    rows = [(row * 1).mid() for row in rows]
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
                turn = flint.arb_mat(2, 2, [c, -c * t, c * t, c])
                both = turn * flint.arb_mat(2, N, rows[i].entries() + rows[j].entries())
                both = both.mid().entries()
                rows[i], rows[j] = flint.arb_mat(1, N, both[:N]), flint.arb_mat(1, N, both[N:])
                squares[i], squares[j] = dot(rows[i], rows[i]), dot(rows[j], rows[j])
    return np.sort([float(dot(row, row).log()) / 2 for row in rows])[::-1]


@functools.cache
def measured(kind, layers, seed, prefixes):
    stack = layers_of(kind, max(prefixes or (layers,)), seed)
    find = functools.partial(
        spectral.product_spectrum,
        jnp.asarray(stack),
        tolerance=None if kind == "masked" else 0.0,
        prefixes=prefixes,
    )
    return stack, find(), find(refined=True)


def compare(kind, layers, seed, prefixes=None):
    """The layers, exact values, and errors of the default and the refined form."""
    stack, default, refined = measured(kind, layers if prefixes is None else 0, seed, prefixes)
    if prefixes is not None:
        row = prefixes.index(layers)
        default, refined = (type(r)(*(leaf[row] for leaf in r)) for r in (default, refined))
    # How many bits it takes is asked of the default answer; whether they were enough is checked.
    truth = exact(stack[:layers], 120 + int(1.1 * float(default.spread) / math.log(2)))
    both = []
    for found in (default, refined):
        assert int(found.structural_rank) == len(truth)
        logs, error = (np.asarray(a, np.float64) for a in (found.log_singular_values, found.error))
        off = np.abs(logs[: len(truth)] - truth)
        assert np.all(off <= error[: len(truth)])
        both.append(off)
    return stack[:layers], truth, *both


@pytest.mark.parametrize("layers", [5, 30, 100])
def test_gaussian_layers(layers):
    stack, truth, default, refined = compare("Gaussian", layers, 0, (5, 30, 100))
    expected = np.sum(np.linalg.slogdet(stack.astype(np.float64))[1])
    np.testing.assert_allclose(np.sum(truth), expected, rtol=1e-13)
    assert np.max(default) < 0.01
    assert np.max(refined) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["uniform", "orthogonal and noise", "masked"])
def test_a_hundred_layers_of_other_kinds(kind):
    stack, truth, default, refined = compare(kind, 100, 1)
    # The fewest rows that any layer keeps.
    assert len(truth) == np.min(np.sum(np.any(stack != 0, axis=2), axis=1))
    assert np.max(default) < 0.01
    assert np.max(refined) < 0.01


def check_deep(kind, layers, seed, most):
    _, truth, default, refined = compare(kind, layers, seed)
    print(f"{kind}, {layers} layers, seed {seed}: {len(truth)} values; within 0.01 nat")
    for name, errors in (("default", default), ("refined", refined)):
        print(f"  {name} {np.sum(errors < 0.01)}, largest error {errors.max():.1e}")
    assert np.sum(default >= 0.01) <= most
    assert np.sum(refined >= 0.01) <= most // 2
    errors = np.asarray(measured(kind, layers, seed, None)[2].error)
    return default, refined, errors


@pytest.mark.slow
def test_two_values_that_a_thousand_layers_mix():
    """How far off they are depends on LAPACK's kernel; their error, given as infinite, does not."""
    default, refined, errors = check_deep("Gaussian", 1000, 1, 4)
    assert np.max(default) > 0.01
    assert np.all(errors[refined >= 0.01] == np.inf)


@pytest.mark.slow
@pytest.mark.very_slow
@pytest.mark.parametrize("kind", ["Gaussian", "uniform", "orthogonal and noise", "masked"])
@pytest.mark.parametrize("seed", [0, 2, 3])
@pytest.mark.parametrize(("layers", "most"), [(300, 2), (1000, 4)])
def test_other_deep_products(kind, layers, most, seed):
    check_deep(kind, layers, seed, most)
