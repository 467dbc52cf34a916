"""docs/activation-lists.md, row by row, and jax.nn's own contract where the names are the same."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxact
from jaxact import activations

PAGE = pathlib.Path(jaxact.__file__).parent.parent / "docs" / "activation-lists.md"
SIZES = {'"From ReLU to Sinc": 26 functions': 26, "Eger": 21, "Ramachandran": 8}
X = jnp.asarray([-2.9, -1.3, -0.6, -0.2, 0.0, 0.1, 0.3, 0.7, 1.1, 1.6, 2.2, 3.4])


def _rows():
    if not PAGE.exists():
        return
    section = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif found := re.fullmatch(r"\| (.+) \| `(.+)` \|", line):
            yield section, found[1], found[2]


ROWS = list(_rows())
pytestmark = pytest.mark.skipif(not ROWS, reason="not a checkout")


def evaluate(call):
    return eval(
        call, {"activations": activations, "x": X, "key": jax.random.key(0), "abs": jnp.abs}
    )


@pytest.mark.parametrize(("section", "theirs", "call"), ROWS)
def test_every_row_can_be_called(section, theirs, call):
    y = evaluate(call)
    assert y.dtype == X.dtype
    assert np.all(np.isfinite(y)) or "log1mexp" in call  # log1mexp(0) is minus infinity
    assert y.size in (X.size, X.size // 2, X.size // 3, X.size // 4)


def test_the_lists_are_whole():
    for start, size in SIZES.items():
        names = [theirs for section, theirs, _ in ROWS if section.startswith(start)]
        assert len(names) == len(set(names)) == size
    ours = {theirs for section, theirs, _ in ROWS if section == "jax.nn"}
    not_elementwise = {
        "dot_product_attention", "get_scaled_dot_general_config", "initializers", "logmeanexp",
        "logsumexp", "one_hot", "scaled_dot_general", "scaled_matmul", "standardize", "normalize",
    }  # fmt: skip
    public = {name for name in dir(jax.nn) if not name.startswith("_")}
    assert public - not_elementwise == ours


@pytest.mark.parametrize(
    ("theirs", "call"), [(theirs, call) for section, theirs, call in ROWS if section == "jax.nn"]
)
def test_agrees_with_jax_nn(theirs, call):
    peer = getattr(jax.nn, theirs)
    x = jnp.abs(X) if theirs == "log1mexp" else X
    with jax.numpy_dtype_promotion("standard"):
        want = peer(x, 2.0) if theirs == "squareplus" else peer(x)
    np.testing.assert_allclose(evaluate(call), want, rtol=3e-5, atol=3e-6)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_masked_softmax(name):
    ours, peer = getattr(activations, name), getattr(jax.nn, name)
    x = jax.random.normal(jax.random.key(0), (3, 4, 5)) * 3
    where = jax.random.bernoulli(jax.random.key(1), 0.6, (3, 4, 5)).at[..., 0].set(True)
    for axis in (-1, 0, (0, 2), None):
        np.testing.assert_allclose(ours(x, axis), peer(x, axis), rtol=1e-6)
        np.testing.assert_allclose(
            ours(x, axis, where=where), peer(x, axis, where=where), rtol=1e-6
        )
    np.testing.assert_allclose(ours(x, where=where[0, 0]), peer(x, where=where[0, 0]), rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(jnp.where(where, ours(x, where=where), 0) ** 2))(x)
    assert np.all(np.isfinite(gradient))
    assert np.all(gradient[~np.asarray(where)] == 0)


def test_names_that_users_try_first():
    x = jnp.asarray([-1.0, 2.0])
    np.testing.assert_array_equal(activations.hard_swish(x), activations.hard_silu(x))
    for name in ("gelu_tanh", "gelu_new", "gelu_pytorch_tanh"):
        np.testing.assert_array_equal(
            activations.get(name)(x), activations.gelu(x, approximate="tanh")
        )
    with pytest.raises(AttributeError, match="has no attribute 'rellu6'; nearest: relu6"):
        activations.rellu6(x)
    for name, call in (
        ("prelu", r"jaxact\.activations\.prelu\(x, slope"),
        ("swiglu", r"jaxact\.activations\.swiglu\(value, gate=None"),
        ("geglu", r"jaxact\.activations\.geglu\(value, gate=None"),
        ("softmax", r"jaxact\.activations\.softmax\(x"),
    ):
        with pytest.raises(
            ValueError, match=f"'{name}' is not a function of one array alone: {call}"
        ):
            activations.get(name)


def test_edges():
    """Infinities, NaN and empty arrays where a formula of parts would lose them."""
    inf = jnp.asarray([-jnp.inf, jnp.inf])
    np.testing.assert_array_equal(activations.parametric_swish(inf, 1.0), [0, jnp.inf])
    np.testing.assert_array_equal(activations.acon_c(inf, 1.0, 0.0, 1.0), [0, jnp.inf])
    slope = jax.grad(lambda a: jnp.sum(activations.prelu(jnp.asarray([jnp.inf, 1.0]), a)))(0.25)
    assert slope == 0
    assert jax.grad(activations.log1mexp)(0.0) == jnp.inf
    for name in ("sparsemax", "entmax15", "softmax", "log_softmax"):
        for shape in ((0,), (3, 0), (0, 3)):
            assert getattr(activations, name)(jnp.zeros(shape)).shape == shape
    for name in ("phish", "tanhexp"):
        second = jax.vmap(jax.grad(jax.grad(activations.get(name))))
        ends = jnp.asarray([-1e38, -1e5, -7e3, 7e3, 1e5, 1e38])
        np.testing.assert_array_equal(second(ends), jnp.zeros(6))


def test_srelu():
    """Jin et al. 2016, eq. 1, and its gradient in every parameter."""
    x = jnp.asarray([-3.0, -1.0, 0.5, 1.0, 4.0])
    got = activations.srelu(x, -1.0, 0.2, 1.0, 0.5)
    np.testing.assert_allclose(got, [-1.4, -1.0, 0.5, 1.0, 2.5], rtol=1e-6)
    gradient = jax.grad(lambda p: activations.srelu(x, *p).sum())((-1.0, 0.2, 1.0, 0.5))
    np.testing.assert_allclose(gradient, (1.6, -2.0, 1.0, 3.0), rtol=1e-6)
    channels = activations.srelu(jnp.ones((2, 3)), *jnp.zeros((4, 3)))
    np.testing.assert_array_equal(channels, jnp.zeros((2, 3)))
