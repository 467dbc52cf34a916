"""What older versions lack, each with the version that ends it."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax
from jax import lax

if TYPE_CHECKING or hasattr(jax, "enable_x64"):
    enable_x64 = jax.enable_x64
else:  # before jax 0.8
    from jax.experimental import enable_x64 as enable_x64


def module_list(items: Iterable[Any]) -> Any:
    """`flax.nnx.List`, which modules need since flax 0.12; before, a list."""
    from flax import nnx

    return getattr(nnx, "List", list)(items)


def value_of(variable: Any) -> Any:
    """The array of an `flax.nnx.Variable`, or its shape and dtype; ``value`` before flax 0.12."""
    return variable.get_value() if hasattr(variable, "get_value") else variable.value


def set_value(variable: Any, value: Any) -> None:
    """Gives an `flax.nnx.Variable` an array."""
    if hasattr(variable, "set_value"):
        variable.set_value(value)
    else:
        variable.value = value


def varying(operand: Any) -> frozenset[Any]:
    """The mesh axes over which an array varies inside `jax.shard_map`."""
    kind = jax.typeof(operand)
    if hasattr(kind, "manual_axis_type"):  # before, ``vma``
        kind = kind.manual_axis_type
        return frozenset() if kind is None else frozenset(kind.varying)
    return frozenset(getattr(kind, "vma", ()))


def vary(operand: Any, axes: frozenset[Any]) -> Any:
    """An array that varies over these axes too; `lax.pvary` where there is no `lax.pcast`."""
    if hasattr(lax, "pcast"):
        return lax.pcast(operand, tuple(axes), to="varying")
    return getattr(lax, "pvary")(operand, tuple(axes))  # noqa: B009


def gathered(a: Any) -> Any:
    """An array whole on every device, where its type says how it is spread."""
    mesh = jax.typeof(a).sharding.mesh
    explicit = jax.sharding.AxisType.Explicit in mesh.axis_types
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.sharding.reshard(a, whole) if explicit else a


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many arguments of a `lax.scan` are constants and how many are carried."""
    if "num_consts" in params:  # before jax 0.12
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(consts), len(carry)


def bind(equation: Any, values: list[Any]) -> list[Any]:
    """What an equation of a program makes of values."""
    primitive = equation.primitive
    params = primitive.get_bind_params(equation.params)
    functions, params = params if isinstance(params, tuple) else ((), params)  # jax 0.7
    outs = primitive.bind(*functions, *values, **params)
    return list(outs) if primitive.multiple_results else [outs]
