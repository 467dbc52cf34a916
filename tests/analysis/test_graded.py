"""Graded tokens against the same weights in up to 2,600 digits."""

import functools
import math

import exact_tokens as exact
import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from jaxact import activations, analysis
from jaxact.analysis import graded

BAR = 3e-4  # nats
N, D = 8, 8
tokens = jax.jit(graded.tokens)


def draw(seed):
    rng = np.random.default_rng(seed)
    return lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)


def starting_at(log_residual, seed=0, **changes):
    """Tokens near such a residual, about a mean of order one."""
    f = draw(seed)
    x = tokens(f(N, D))
    far = math.log(np.linalg.norm(x.deviation))
    exponent = np.float32(round((log_residual - far) / math.log(2)))
    return x._replace(**{"mean": f(D), "exponent": jnp.asarray(exponent), **changes})


class Graded:
    """The maps under test, and activations by name."""

    linear, add, gated = graded.linear, graded.add, graded.gated
    layer_norm, rms_norm = graded.layer_norm, graded.rms_norm
    attention = graded.attention

    @staticmethod
    def activation(x, name):
        points = activations.info(name).breakpoints
        return graded.activation(x, activations.get(name), breakpoints=points)


class Exact:
    """The same in many digits."""

    linear, add, gated = exact.linear, exact.add, exact.gated
    layer_norm, rms_norm = exact.layer_norm, exact.rms_norm
    attention = exact.attention

    @staticmethod
    def activation(x, name):
        return exact.activation(x, exact.ACTIVATIONS[name])


def rotary(a):
    """Positions by turning the pairs of two halves, of JAX's arrays or of mpmath's numbers."""
    n, k = a.shape
    angles = np.arange(n)[:, None] * (100.0 ** (-np.arange(k // 2) / (k // 2)))[None]
    c, s = (jnp.float32(f(angles)) for f in (np.cos, np.sin))
    left, right = a[:, : k // 2], a[:, k // 2 :]
    if a.dtype == object:
        c, s = exact.exact(c), exact.exact(s)
        return np.concatenate([left * c - right * s, left * s + right * c], 1)
    return jnp.concatenate([left * c - right * s, left * s + right * c], 1)


def projections(f, heads, k, shared=None, scale=1.0):
    keys = shared or heads
    query, key, value = (f(D, h, k) / D**0.5 for h in (heads, keys, keys))
    query, key = scale * query, scale * key
    return query, key, value, f(heads, k, D) / (heads * k) ** 0.5


@functools.cache
def weights(seed=1, heads=4, k=4):
    f = draw(seed)
    return dict(
        one=projections(f, 1, D),
        several=projections(f, heads, k),
        grouped=projections(f, 4, 4, 2),
        huge=projections(f, 2, 4, scale=30),
        biases=dict(query_bias=f(4, 4), key_bias=f(2, 4), value_bias=f(2, 4), output_bias=f(D)),
        up=f(D, 16) / D**0.5,
        gate=f(D, 16) / D**0.5,
        down=f(16, D) / 4,
        bias=f(16),
        scale=f(D),
        shift=f(D),
    )


MASKS = {
    "causal": "causal",
    "local": jnp.abs(jnp.arange(N)[:, None] - jnp.arange(N)[None]) <= 2,
    "padding": jnp.broadcast_to(jnp.arange(N)[None] != 3, (N, N)),
}
MAPS = {
    "linear": lambda o, w, x: o.linear(x, w["up"], w["bias"]),
    "add": lambda o, w, x: o.add(
        x, o.linear(o.linear(x, w["up"]), w["down"]), alpha=0.5, beta=w["scale"]
    ),
    "gated": lambda o, w, x: o.gated(o.linear(x, w["up"], w["bias"]), o.linear(x, w["gate"])),
    "layer_norm": lambda o, w, x: o.layer_norm(x, w["scale"], w["shift"]),
    "rms_norm": lambda o, w, x: o.rms_norm(x, w["scale"], w["shift"]),
    "one_head": lambda o, w, x: o.attention(x, *w["one"]),
    "grouped": lambda o, w, x: o.attention(x, *w["grouped"], **w["biases"]),
    "huge": lambda o, w, x: o.attention(x, *w["huge"]),
    "huge_causal": lambda o, w, x: o.attention(x, *w["huge"], mask="causal"),
    "rotary": lambda o, w, x: o.attention(x, *w["grouped"], **w["biases"], positions=rotary),
    "rotary_causal": lambda o, w, x: o.attention(x, *w["several"], positions=rotary, mask="causal"),
    "normed_queries": lambda o, w, x: o.attention(
        x,
        *w["several"],
        query_norm=o.rms_norm,
        key_norm=lambda k: o.layer_norm(k, w["scale"][:4]),
        scale=0.7,
    ),
    **{
        f"mask_{name}": lambda o, w, x, mask=mask: o.attention(
            x, *w["grouped"], **w["biases"], mask=mask
        )
        for name, mask in MASKS.items()
    },
    **{
        name: lambda o, w, x, name=name: o.activation(x, name)
        for name in ("relu", "gelu", "tanh", "elu", "hard_tanh", "sine")
    },
}


QUICK = ("linear", "layer_norm", "one_head", "mask_causal", "rotary", "relu", "gelu")
EACH_MAP = pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MAPS]
)


@functools.cache
def compiled(name):
    def run(w, x):
        y = MAPS[name](Graded, w, x)
        return y, y.log_residual, y.log_relative_residual, y.array

    return jax.jit(run)


def found_of(name, w, x):
    return float(compiled(name)(w, x)[1])


def wanted_of(name, w, x, digits):
    with mp.workdps(digits):
        return float(exact.log_residual(MAPS[name](Exact, w, exact.tokens_of(x))))


def feed_forward(o, w, x, kind):
    up = o.linear(x, w["up"], w["bias"])
    if kind == "swiglu":
        up = o.gated(up, o.activation(o.linear(x, w["gate"]), "silu"))
    else:
        up = o.activation(up, kind)
    return o.linear(up, w["down"])


def bare(o, w, x, kind=None, **options):
    x = o.attention(x, *w["several"], **options)
    return x if kind is None else feed_forward(o, w, x, kind)


def post(o, w, x, kind, skip=True, **options):
    for branch in (bare, functools.partial(feed_forward, kind=kind)):
        y = branch(o, w, x, **(options if branch is bare else {}))
        x = o.layer_norm(o.add(x, y) if skip else y, w["scale"])
    return x


def pre(o, w, x, kind, **options):
    x = o.add(x, bare(o, w, o.layer_norm(x, w["scale"]), **options))
    return o.add(x, feed_forward(o, w, o.rms_norm(x, w["scale"], w["shift"]), kind))


NETWORKS = {
    "bare_relu": functools.partial(bare, kind="relu"),
    "bare_swiglu": functools.partial(bare, kind="swiglu"),
    "post_without_skip": functools.partial(post, kind="tanh", skip=False),
    "post": functools.partial(post, kind="gelu"),
    "pre": functools.partial(pre, kind="swiglu", mask="causal", positions=rotary),
}


@EACH_MAP
def test_each_map_is_right_at_any_distance(name):
    for log, digits in ((5, 60), (0, 60), (-8, 60), (-90, 200), (-800, 1060)):
        w, x = weights(), starting_at(log)
        found = found_of(name, w, x)
        assert found == pytest.approx(wanted_of(name, w, x, digits), abs=BAR), log


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    step = jax.jit(functools.partial(NETWORKS[name], Graded))
    x = starting_at(-1.0)
    with mp.workdps(320):
        y = exact.tokens_of(x)
        for layer in range(4):
            w = weights(10 + layer)
            x, y = step(w, x), NETWORKS[name](Exact, w, y)
            wanted = float(exact.log_residual(y))
            assert float(x.log_residual) == pytest.approx(wanted, abs=BAR), layer


def test_the_cube_law_to_a_residual_of_1e_minus_790():
    f = draw(2)
    x = tokens(f(N, D))
    layers = [projections(f, 1, D) for _ in range(8)]
    attend = jax.jit(graded.attention)
    states = graded.by_layer(
        ((str(i), lambda x, w=w: attend(x, *w)) for i, w in enumerate(layers, 1)), x
    )
    found = np.array([float(state.log_residual) for state in states.values()])
    with mp.workdps(2600):
        y, wanted = exact.tokens_of(x), []
        for w in layers:
            wanted.append(float(exact.log_residual(y)))
            y = exact.attention(y, *w)
        wanted.append(float(exact.log_residual(y)))
    assert x.mean.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    assert found[-1] / math.log(10) < -790
    assert found[-1] / found[-2] == pytest.approx(3.007, abs=1e-3)
    assert np.all(np.diff(found[-5:] / found[-6:-1]) < 0)


class TestGradients:
    @pytest.mark.parametrize("name", ["bare_relu", "post_without_skip", "pre"])
    def test_in_weights_and_mean_against_differences_in_many_digits(self, name):
        network, x = NETWORKS[name], starting_at(-100.0)
        names = ("up", "bias", "down", "scale", "several")
        w, after = weights(), weights(2)
        at = ({k: w[k] for k in names}, x.mean)

        def of_graded(at):
            y = network(Graded, {**w, **at[0]}, x._replace(mean=at[1]))
            return network(Graded, after, y).log_residual

        found = jax.jit(jax.grad(of_graded))(at)
        f = draw(3)
        direction = jax.tree.map(lambda a: f(*a.shape), at)
        pairs = zip(*(jax.tree.leaves(tree) for tree in (found, direction)), strict=True)
        along = sum(float(np.sum(np.float64(a) * b)) for a, b in pairs)
        size = math.sqrt(sum(float(np.sum(np.float64(a) ** 2)) for a in jax.tree.leaves(found)))
        with mp.workdps(1100):
            step = mp.mpf(10) ** -500
            deviation = exact.tokens_of(x._replace(mean=0 * x.mean))

            def of_exact(t):
                moved = jax.tree.map(
                    lambda a, b: exact.exact(a) + t * exact.exact(b), at, direction
                )
                y = network(Exact, {**w, **moved[0]}, moved[1][None] + deviation)
                return exact.log_residual(network(Exact, after, y))

            wanted = float((of_exact(step) - of_exact(0)) / step)
        assert along == pytest.approx(wanted, abs=1e-5 * size)

    def test_equal_tokens_have_none(self):
        x, w = tokens(jnp.ones((N, D))), weights()["one"]

        def residual(query):
            return graded.attention(x, query, *w[1:]).log_residual

        value, slope = jax.jit(jax.value_and_grad(residual))(w[0])
        assert value == -jnp.inf
        np.testing.assert_array_equal(slope, 0)


class TestStructured:
    @EACH_MAP
    def test_equal_tokens_stay_so_and_nan_is_nan(self, name):
        row = draw(5)(1, D)
        equal = tokens(jnp.broadcast_to(row, (N, D)))
        _, log, relative, array = compiled(name)(weights(), equal)
        assert log == relative == -np.inf
        assert np.all(np.isfinite(array))
        broken = tokens(draw(5)(N, D).at[2, 3].set(jnp.nan))
        assert np.isnan(found_of(name, weights(), broken))
        assert np.isnan(found_of(name, weights(), starting_at(-9.0, mean=np.nan * draw(5)(D))))

    def test_one_token(self):
        x = tokens(draw(5)(1, D))
        for name in ("one_head", "rotary_causal"):
            _, log, _, array = compiled(name)(weights(), x)
            wanted = MAPS[name](Exact, weights(), exact.tokens_of(x)).astype(np.float64)
            np.testing.assert_allclose(array, wanted, rtol=1e-4, atol=1e-6)
            assert log == -np.inf

    @pytest.mark.parametrize("log", [2.0, -20.0])
    def test_two_clusters(self, log):
        x = graded.tokens(jnp.repeat(draw(5)(2, D), N // 2, axis=0))
        x = x._replace(exponent=x.exponent + round(log / math.log(2)))
        for name in ("one_head", "rotary", "mask_causal"):
            found = found_of(name, weights(), x)
            assert found == pytest.approx(wanted_of(name, weights(), x, 120), abs=BAR), name

    def test_a_saturated_softmax_whose_smallest_share_is_below_all_numbers(self):
        w = {"one": projections(draw(6), 1, D, scale=10)}
        x = starting_at(0.0, mean=300 * draw(7)(D))
        wanted = wanted_of("one_head", w, x, 700)
        assert wanted < -600
        found = found_of("one_head", w, x)
        assert found == pytest.approx(wanted, abs=1e-2)  # the logits are rounded at 3e4

    def test_a_share_of_e_to_minus_1e11_is_a_number(self):
        x = starting_at(3.0, mean=1e12 * draw(7)(D))
        log = found_of("one_head", weights(), x)
        assert -np.inf < log < -1e11

    def test_zero_weights(self):
        w = weights()["grouped"]
        x = starting_at(-300.0)
        for i in range(4):
            none = {**weights(), "grouped": [0 * a if i == j else a for j, a in enumerate(w)]}
            assert found_of("mask_padding", none, x) == -np.inf or i == 0
            assert (found_of("mask_causal", none, x) == -np.inf) == (i > 1)

    def test_kinks_at_the_mean_and_between_the_tokens(self):
        for log in (-3.0, -300.0):
            x = starting_at(log, mean=jnp.zeros(D))
            wanted = np.maximum(x.deviation, 0)
            wanted = np.log(np.linalg.norm(wanted - wanted.mean(0))) + x.exponent * math.log(2)
            assert found_of("relu", weights(), x) == pytest.approx(float(wanted), rel=1e-6)

    def test_a_kink_between_tokens_that_rounding_makes_nearly_equal(self):
        x = starting_at(-12.0, mean=jnp.full(D, 1 - 2.0**-22, jnp.float32))
        wanted = np.minimum(x.deviation, 2.0 ** (-22 - float(x.exponent)))
        wanted = np.log(np.linalg.norm(wanted - wanted.mean(0))) + x.exponent * math.log(2)
        assert found_of("hard_tanh", weights(), x) == pytest.approx(float(wanted), rel=1e-6)

    def test_an_activation_over_ways_that_quadrature_does_not_see(self):
        x = starting_at(8.0)
        for name in ("gelu", "tanh"):
            found = found_of(name, weights(), x)
            assert found == pytest.approx(wanted_of(name, weights(), x, 300), abs=BAR), name

    def test_a_row_that_attends_to_nothing(self):
        mask = jnp.ones((N, N), bool).at[3].set(False)
        w = weights()["one"]
        run = jax.jit(lambda x, mask: graded.attention(x, *w, mask=mask).log_residual)
        assert np.isnan(run(starting_at(0.0), mask))
        full = float(run(starting_at(-50.0), mask | True))
        assert full == pytest.approx(found_of("one_head", weights(), starting_at(-50.0)), abs=BAR)

    def test_far_tokens(self):
        x = starting_at(60.0)
        for name in ("layer_norm", "rms_norm", "one_head", "rotary"):
            found = found_of(name, weights(), x)
            assert found == pytest.approx(wanted_of(name, weights(), x, 60), abs=1e-3), name


@pytest.mark.parametrize("name", activations.names())
@pytest.mark.slow
def test_every_activation_against_itself_in_double_precision(name):
    if name in ("step", "sign", "hard_shrink", "log1mexp"):
        pytest.skip("jumps, or is not defined everywhere")
    f, points = activations.get(name), activations.info(name).breakpoints
    run = jax.jit(lambda x: graded.activation(x, f, breakpoints=points).log_residual)
    for size in (1, 10):
        for log in (5.0, 1.0, -5.0, -300.0):
            x = starting_at(log)
            x = x._replace(mean=size * x.mean)
            with analysis_in_double():
                m, r = (jnp.asarray(np.float64(a)) for a in (x.mean[None], x.deviation))
                m = jnp.broadcast_to(m, r.shape)
                e = 2.0 ** float(x.exponent)
                y = f(m + e * r) - f(m) if log > -100 else e * jax.jvp(f, (m,), (r,))[1]
                y = np.asarray(y - jnp.mean(y, axis=0, keepdims=True))
            with np.errstate(divide="ignore"):
                wanted = np.log(np.linalg.norm(y))
            assert float(run(x)) == pytest.approx(wanted, abs=1e-4), (size, log)


def analysis_in_double():
    from jaxact._compat import enable_x64

    return enable_x64(True)


class TestForm:
    def test_there_and_back(self):
        x = draw(8)(N, D)
        found = graded.tokens(x)
        np.testing.assert_allclose(found.array, x, atol=5e-7)
        assert 0.5 <= jnp.max(jnp.abs(found.deviation)) < 1
        np.testing.assert_allclose(jnp.sum(found.deviation, axis=0), jnp.zeros(D), atol=1e-6)
        wanted = analysis.rank_one_residual(x[None])[0]
        assert jnp.exp(found.log_relative_residual) == pytest.approx(float(wanted), rel=1e-6)
        tiny = found._replace(mean=1e-30 * found.mean, exponent=found.exponent - 100)
        wanted = analysis.rank_one_residual((2.0**100 * tiny.array)[None])[0]
        assert jnp.exp(tiny.log_relative_residual) == pytest.approx(float(wanted), rel=1e-5)

    def test_tokens_that_differ_in_their_last_bits(self):
        x = 1 + np.float32(2.0**-23) * np.arange(N, dtype=np.float32)[:, None]
        rest = np.float64(x) - np.float64(x).mean()
        found = graded.tokens(jnp.asarray(x)).log_residual
        assert float(found) == pytest.approx(math.log(np.linalg.norm(rest)), abs=1e-6)

    def test_half_precision_becomes_single(self):
        assert graded.tokens(jnp.ones((3, 2), jnp.bfloat16)).mean.dtype == jnp.float32

    def test_double_precision(self):
        with analysis_in_double():
            x = starting_at(-8.0)
            x = jax.tree.map(lambda a: jnp.asarray(np.float64(a)), x)
            w = {"one": [jnp.asarray(np.float64(a)) for a in weights()["one"]]}
            found = found_of("one_head", w, x)
            assert found == pytest.approx(wanted_of("one_head", w, x, 60), abs=1e-12)

    def test_scan_over_layers_and_vmap_over_sequences(self):
        stacked = [jnp.stack(a) for a in zip(*(weights(s)["one"] for s in (1, 2, 3)), strict=True)]
        x = draw(9)(2, N, D)

        @jax.jit
        @jax.vmap
        def run(x):
            def step(x, w):
                x = graded.attention(x, *w)
                return x, x.log_residual

            return jax.lax.scan(step, graded.tokens(x), stacked)

        last, logs = run(x)
        alone = tokens(x[1])
        for i in range(3):
            alone, log, *_ = compiled("one_head")({"one": [a[i] for a in stacked]}, alone)
            assert float(logs[1, i]) == pytest.approx(float(log), rel=1e-5)
        np.testing.assert_allclose(last.log_residual, logs[:, -1], rtol=1e-6)
        assert last.array.shape == (2, N, D)
        assert last.log_relative_residual.shape == (2,)

    def test_positions_are_added_tokens(self):
        x, p = draw(1)(N, D), draw(2)(N, D)
        found = graded.add(graded.tokens(x), graded.tokens(p))
        np.testing.assert_allclose(found.array, x + p, atol=1e-6)


class TestRefused:
    def test_tokens(self):
        for x in (jnp.ones(3), jnp.ones((0, 3)), jnp.ones((2, 3), jnp.int32)):
            with pytest.raises(ValueError, match="x must be real floating tokens"):
                graded.tokens(x)

    def test_shapes(self):
        x = starting_at(0.0)
        query, key, value, output = weights()["several"]
        with pytest.raises(ValueError, match=r"kernel must be a matrix \(8, any\)"):
            graded.linear(x, jnp.ones((3, 2)))
        with pytest.raises(ValueError, match="x and y must agree"):
            graded.add(x, graded.linear(x, jnp.ones((D, 3))))
        with pytest.raises(ValueError, match=r"scale must have shape \(8,\)"):
            graded.layer_norm(x, jnp.ones(3))
        with pytest.raises(ValueError, match=r"query must have shape \(8, heads, width\)"):
            graded.attention(x, query[1:], key, value, output)
        with pytest.raises(ValueError, match="a number of heads that divides"):
            graded.attention(x, query, key[:, :3], value, output)
        with pytest.raises(ValueError, match="output must have shape"):
            graded.attention(x, query, key, value, output[1:])
        with pytest.raises(ValueError, match="query_bias must have shape"):
            graded.attention(x, query, key, value, output, query_bias=jnp.ones(4))

    def test_choices(self):
        x, w = starting_at(0.0), weights()["several"]
        with pytest.raises(ValueError, match="mask must be one of causal; got 'banded'"):
            graded.attention(x, *w, mask="banded")
        with pytest.raises(ValueError, match=r"booleans of shape \(8, 8\)"):
            graded.attention(x, *w, mask=jnp.ones((N, N)))
        with pytest.raises(ValueError, match="epsilon must be a positive finite number"):
            graded.rms_norm(x, epsilon=0.0)
        with pytest.raises(ValueError, match="breakpoints must be finite"):
            graded.activation(x, jnp.tanh, breakpoints=(math.inf,))
        with pytest.raises(ValueError, match="names of their own; got 'a' twice"):
            graded.by_layer([("a", lambda x: x), ("a", lambda x: x)], x)
