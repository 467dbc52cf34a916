"""The convolution primitive against lax, in every mode of differentiation."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from jaxact.models._convolution import _as_lax, _convolution, convolve

CASES = {
    "3x3": dict(x=(2, 6, 7, 4), kernel=(3, 3, 4, 5)),
    "stride 2": dict(x=(2, 7, 8, 4), kernel=(3, 3, 4, 5), strides=(2, 2)),
    "uneven stride": dict(x=(2, 9, 8, 2), kernel=(3, 5, 2, 3), strides=(3, 2)),
    "7x7 stem": dict(x=(1, 12, 11, 3), kernel=(7, 7, 3, 2), strides=(2, 2)),
    "groups": dict(x=(2, 5, 6, 6), kernel=(3, 3, 2, 9), groups=3),
    "groups, stride 2": dict(x=(2, 6, 5, 4), kernel=(3, 3, 2, 6), strides=(2, 2), groups=2),
    "depthwise": dict(x=(2, 5, 4, 3), kernel=(3, 3, 1, 3), groups=3),
    "pointwise": dict(x=(2, 5, 4, 3), kernel=(1, 1, 3, 6)),
    "pointwise, stride 2": dict(x=(2, 6, 5, 3), kernel=(1, 1, 3, 6), strides=(2, 2)),
    "grouped pointwise": dict(x=(2, 3, 4, 4), kernel=(1, 1, 2, 6), groups=2),
    "one pixel": dict(x=(2, 1, 1, 4), kernel=(3, 3, 4, 5)),
    "uneven padding": dict(x=(2, 5, 4, 3), kernel=(3, 3, 3, 2), padding=((0, 2), (1, 0))),
}


def reference(x, kernel, *, strides=(1, 1), padding=None, groups=1):
    padding = padding or [(size // 2, size // 2) for size in kernel.shape[:2]]
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@pytest.fixture(params=CASES)
def case(request):
    options = dict(CASES[request.param])
    x = jax.random.normal(jax.random.key(0), options.pop("x"))
    kernel = jax.random.normal(jax.random.key(1), options.pop("kernel"))
    pair = (functools.partial(convolve, **options), functools.partial(reference, **options))
    return (*pair, x, kernel)


def test_values_and_every_derivative(case):
    ours, lax_form, x, kernel = case
    dx, dk = (jax.random.normal(jax.random.key(2 + i), a.shape) for i, a in enumerate((x, kernel)))
    weights = jax.random.normal(jax.random.key(4), jax.eval_shape(lax_form, x, kernel).shape)

    def all_of(form, x, kernel):
        def loss(x, kernel):
            return jnp.sum(weights * jnp.tanh(form(x, kernel)))

        gradient = jax.grad(loss, argnums=(0, 1))
        return {
            "value": form(x, kernel),
            "jvp": jax.jvp(form, (x, kernel), (dx, dk)),
            "gradient": gradient(x, kernel),
            "forward over reverse": jax.jvp(gradient, (x, kernel), (dx, dk)),
            "reverse over reverse": jax.grad(
                lambda x, k: sum(
                    jnp.vdot(g, d) for g, d in zip(gradient(x, k), (dx, dk), strict=True)
                ),
                argnums=(0, 1),
            )(x, kernel),
        }

    # As arguments: the compiler of jaxlib 0.7.2 folds constant convolutions of lax's wrongly.
    found, expected = (jax.jit(functools.partial(all_of, f))(x, kernel) for f in (ours, lax_form))
    chex.assert_trees_all_close(found, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (1, 2)])
def test_vmap(case, axes):
    ours, lax_form, x, kernel = case
    a, b = (
        operand if axis is None else jnp.stack([operand, 2 * operand, operand - 1], axis=axis)
        for operand, axis in zip((x, kernel), axes, strict=True)
    )

    def loss(form, x, kernel):
        return jnp.sum(jnp.sin(form(x, kernel)))

    @jax.jit
    def results():
        return [
            jax.vmap(jax.value_and_grad(functools.partial(loss, form), argnums=(0, 1)), axes)(a, b)
            for form in (ours, lax_form)
        ]

    found, expected = results()
    chex.assert_trees_all_close(found, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("face", ["output", "input", "kernel"])
def test_other_platforms_get_what_lax_writes(face):
    """Lowered for TPU, each face is the one convolution of lax, bit for bit on any machine."""
    x, kernel = jnp.ones((2, 6, 7, 4)), jnp.ones((3, 3, 4, 5))
    dy = jnp.ones((2, 3, 4, 5))
    a, b = {"output": (x, kernel), "input": (dy, kernel), "kernel": (x, dy)}[face]
    options = dict(face=face, shapes=(x.shape, kernel.shape, dy.shape), strides=(2, 2),
                   padding=((1, 1), (1, 1)), groups=1)  # fmt: skip

    def text(form):
        def main(a, b):
            return form(a, b, **options)

        lowered = jax.jit(main).trace(a, b).lower(lowering_platforms=("tpu",))
        return [line for line in lowered.as_text().splitlines() if "stablehlo" in line]

    assert text(functools.partial(_convolution.bind, precision=None)) == text(_as_lax)


def test_a_sharded_batch_gives_the_same_kernel_gradient():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec
    x = jax.random.normal(jax.random.key(0), (4, 5, 5, 2))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 2, 3))

    def gradient(form, x, kernel):
        return jax.grad(lambda k: lax.psum(jnp.sum(jnp.sin(form(x, k))), "data"))(kernel)

    def sharded(form):
        return jax.jit(
            jax.shard_map(
                functools.partial(gradient, form),
                mesh=mesh,
                in_specs=(spec("data"), spec()),
                out_specs=spec(),
            )
        )(x, kernel)

    np.testing.assert_allclose(sharded(convolve), sharded(reference), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((1, 4, 4, 3), (3, 3, 2, 4)), {}, "takes 2 channels"),
        (((1, 4, 4, 4), (3, 3, 2, 3)), {"groups": 2}, "outputs that 2 divides"),
        (((1, 2, 4, 3), (5, 3, 3, 2)), {"padding": ((0, 0), (1, 1))}, "too small"),
    ],
)
def test_refusals(shapes, options, message):
    with pytest.raises(ValueError, match=message):
        convolve(*map(jnp.ones, shapes), **options)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("size", [1, 3])
def test_products_have_the_precision_of_the_context(platform, size):
    x, kernel = jnp.ones((2, 5, 5, 4)), jnp.ones((size, size, 4, 4))

    def gradients(x, kernel):
        with jax.default_matmul_precision("highest"):
            return jax.grad(lambda *a: jnp.sum(convolve(*a) ** 2), (0, 1))(x, kernel)

    module = export.export(jax.jit(gradients), platforms=[platform])(x, kernel).mlir_module()
    products = [
        line
        for line in module.splitlines()
        if "stablehlo.convolution" in line or "stablehlo.dot_general" in line
    ]
    assert len(products) == 3
    assert all("HIGHEST" in line for line in products), products
