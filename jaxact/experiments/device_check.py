"""Does jaxact compute the same on this device as on the CPU, and how fast?

Every check runs one function on the default device and, as the reference, on the host's CPU: in
float64 where rounding is measured. The report carries the device's name.
"""

import dataclasses
import functools
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxact import activations, analysis, models, spectral, training, wiring
from jaxact._compat import enable_x64
from jaxact.experiments import (
    StudyError,
    at_least,
    command_line,
    manifest,
    parse,
    validate,
    write_json,
)
from jaxact.io import write_whole


@dataclasses.dataclass(frozen=True)
class DeviceCheck:
    """Checks results and measures speed on whatever device JAX has, and writes a report."""

    elements: Annotated[int, at_least(1)] = 1 << 22
    """Elements of the arrays on which activations are timed."""
    depth: Annotated[int, at_least(2)] = 300
    """Layers of the products and networks."""
    rounds: Annotated[int, at_least(1)] = 9
    """Rounds of each timing; the medians are reported."""
    out: pathlib.Path = pathlib.Path("runs/device_check")
    """Folder of report.json and report.md; they are replaced."""


class Check(NamedTuple):
    """A result beside its bound."""

    name: str
    what: str
    value: float
    bound: float

    @property
    def passed(self) -> bool:
        """Whether the value is a number within the bound."""
        return bool(self.value <= self.bound)


class Timing(NamedTuple):
    """Median seconds of jaxact and of what it is compared with, taken in turn."""

    name: str
    against: str
    seconds: float
    other: float


def _on_cpu(f: Callable[..., Any], *arguments: Any, double: bool = False) -> Any:
    """The function's result on the CPU, in float64 if asked."""
    cpu = jax.devices("cpu")[0]

    def moved(leaf):
        wide = double and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jax.device_put(np.asarray(leaf, np.float64 if wide else None), cpu)

    with enable_x64(double), jax.default_device(cpu):
        return jax.tree.map(np.asarray, jax.jit(f)(*jax.tree.map(moved, arguments)))


def _ulps(got: Any, want: np.ndarray, dtype: Any) -> float:
    """The largest error in units in the last place, outside the fringe of subnormal numbers.

    XLA flushes subnormals to zero, and a factor that is one takes a product 64 times larger along.
    """
    limits = jnp.finfo(dtype)
    got, tiny = np.asarray(got, np.float64), float(limits.tiny)
    exponent = np.frexp(np.maximum(np.abs(want), tiny))[1] - 1
    error = np.abs(got - want) / np.ldexp(1.0, exponent - limits.nmant)
    flushed = (np.abs(want) < 64 * tiny) & (np.abs(got) < 64 * tiny)
    return float(np.max(np.where(flushed, 0.0, error)))


def checks(config: DeviceCheck) -> Iterator[Check]:
    """Results on the default device against those of the CPU.

    Args:
      config: of the run.

    Yields:
      Each check as it ends.
    """
    for name in ("relu", "gelu", "silu", "mish", "softplus", "tanh", "elu"):
        f = activations.get(name)
        slope = jax.vmap(jax.grad(f))
        for dtype, bounds in (("float32", (3.0, 4.0)), ("bfloat16", (0.51, 0.51))):
            # Away from where slopes cross zero, of which tests/activations/ tells more.
            x = jnp.concatenate([jnp.linspace(-0.6, 20, 4001), jnp.linspace(-20, -4, 2001)])
            x = x.astype(dtype)
            for what, function, bound in (("value", f, bounds[0]), ("gradient", slope, bounds[1])):
                want = _on_cpu(function, x, double=True)
                error = _ulps(jax.jit(function)(x), want, dtype)
                yield Check(f"{name} {what}, {dtype}", "largest error in ulp", error, bound)

    layers = jax.random.normal(jax.random.key(0), (config.depth, 64, 64)) / 8

    def log_spectrum(stack):
        return spectral.product_spectrum(stack).log_singular_values

    want = _on_cpu(log_spectrum, layers, double=True)
    error = np.abs(np.asarray(jax.jit(log_spectrum)(layers)) - want)
    share = float(np.mean(error > 0.01))
    yield Check(f"product of {config.depth} layers", "share of log s off by over 0.01", share, 0.05)

    a = jax.random.normal(jax.random.key(1), (128, 128))
    want = _on_cpu(lambda a: spectral.effective_rank(spectral.singular_values(a)), a, double=True)
    rank = jax.jit(lambda a: spectral.effective_rank(spectral.singular_values(a)))(a)
    error = abs(float(rank) / float(want) - 1)
    yield Check("effective rank of a matrix", "relative error", error, 1e-5)

    for placement in ("pre", "original"):
        network = models.ConvResNet(
            3, 10, width=16, depth=8, norm_placement=placement, rngs=nnx.Rngs(0)
        )
        images = jax.random.normal(jax.random.key(2), (8, 16, 16, 3))
        labels = jnp.arange(8) % 10

        def gradient(network, x, labels=labels):
            with jax.default_matmul_precision("highest"):
                loss, grads = jax.value_and_grad(
                    lambda network: training.cross_entropy(network(x), labels)
                )(network)
            return loss, jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(grads)])

        name = f"{wiring.get(placement).label} network"
        loss, grads = jax.jit(gradient)(network, images)
        want_loss, want = _on_cpu(gradient, network, images)
        error = abs(float(loss) / float(want_loss) - 1)
        yield Check(f"{name}, loss", "relative error", error, 1e-5)
        error = float(np.linalg.norm(np.asarray(grads) - want) / np.linalg.norm(want))
        yield Check(f"{name}, gradient", "relative error", error, 1e-4)

    network = models.MLPResNet(64, 10, width=64, depth=16, rngs=nnx.Rngs(0))
    point = jax.random.normal(jax.random.key(3), (64,))

    def jacobian(network, x):
        trunk = analysis.until(analysis.as_chain(network), "blocks")
        products = analysis.input_jacobians(trunk, x)["blocks"]
        return spectral.graded_spectrum(jax.tree.map(lambda leaf: leaf[-1], products))

    want = _on_cpu(jacobian, network, point)
    error = float(np.max(np.abs(np.asarray(jax.jit(jacobian)(network, point)) - want)))
    yield Check("input-to-block Jacobian", "largest difference in log s", error, 0.01)


def timings(config: DeviceCheck) -> Iterator[Timing]:
    """Speed on the default device, against what one would use instead.

    Args:
      config: of the run.

    Yields:
      Each timing as it ends.
    """
    peers: dict[str, Callable[..., Any]] = {
        "gelu": lambda x: jax.nn.gelu(x, approximate=False),
        "silu": jax.nn.silu,
        "mish": jax.nn.mish,
        "softplus": jax.nn.softplus,
    }
    for dtype in ("float32", "bfloat16"):
        x = jax.random.normal(jax.random.key(0), (config.elements,)).astype(dtype)
        for name, peer in peers.items():
            ours = activations.get(name)
            yield _timing(config, f"{name}, {dtype}, forward", "jax.nn", ours, peer, x)
            pull = [functools.partial(_pullback, f) for f in (ours, peer)]
            yield _timing(config, f"{name}, {dtype}, gradient", "jax.nn", pull[0], pull[1], x)

    layers = jax.random.normal(jax.random.key(0), (config.depth, 64, 64)) / 8

    def naive(stack):
        product, _ = jax.lax.scan(
            lambda p, w: (jnp.matmul(w, p, precision="highest"), None), jnp.eye(64), stack
        )
        return jnp.linalg.svd(product, compute_uv=False)

    yield _timing(
        config,
        f"spectrum of {config.depth} layers of 64",
        "product, then SVD (wrong but for the largest)",
        lambda stack: spectral.product_spectrum(stack).log_singular_values,
        naive,
        layers,
    )

    def step(scan):
        network = models.ResNet(
            in_channels=3,
            num_classes=10,
            depths=(3, 3, 3),
            widths=(16, 32, 64),
            strides=(1, 2, 2),
            block="basic",
            stem="cifar",
            scan=scan,
            norm_placement="original",
            rngs=nnx.Rngs(0),
        )
        graph, params, rest = nnx.split(network, nnx.Param, ...)

        def loss(params, x):
            logits = models.apply(nnx.merge(graph, params, rest), x, train=True).logits
            return jnp.mean(jnp.square(logits))

        return lambda x: jax.grad(loss)(params, x)

    images = jax.random.normal(jax.random.key(1), (32, 32, 32, 3))
    scanned, unrolled = step(True), step(False)
    yield _timing(config, "ResNet-20 gradient, scanned", "unrolled", scanned, unrolled, images)


def _pullback(f: Callable[..., Any], x: Any) -> Any:
    return jax.vjp(f, x)[1](x)[0]


def _timing(
    config: DeviceCheck,
    name: str,
    against: str,
    ours: Callable[..., Any],
    other: Callable[..., Any],
    x: Any,
) -> Timing:
    functions = [jax.jit(ours), jax.jit(other)]
    jax.block_until_ready([f(x) for f in functions])
    seconds: list[list[float]] = [[], []]
    for _ in range(config.rounds):
        for f, found in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(f(x))
            found.append(time.perf_counter() - start)
    return Timing(name, against, *(statistics.median(found) for found in seconds))


def run(config: DeviceCheck) -> bool:
    """Checks, times and reports.

    Args:
      config: what to run.

    Returns:
      Whether every check passed. ``report.json`` and ``report.md`` are in ``config.out``.

    Raises:
      StudyError: if the config or the folder does not serve.
    """
    validate(config)
    try:
        config.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"out: cannot write to {config.out} ({error.strerror})") from error
    found = list(_told(checks(config)))
    timed = list(_told(timings(config)))
    facts = manifest()
    report = {
        "manifest": facts,
        "checks": [{**check._asdict(), "passed": check.passed} for check in found],
        "timings": [timing._asdict() for timing in timed],
    }
    write_json(config.out / "report.json", report)
    write_whole(config.out / "report.md", _markdown(facts, found, timed).encode())
    return all(check.passed for check in found)


def _told(results: Iterator[Any]) -> Iterator[Any]:
    """Passes results on, and tells each as it comes."""
    for result in results:
        print(result.name, file=sys.stderr, flush=True)
        yield result


def _markdown(facts: dict[str, Any], found: list[Check], timed: list[Timing]) -> str:
    versions = facts["packages"]
    lines = [
        f"# Device check: {facts['device']}",
        "",
        f"{facts['devices']} x {facts['device']} ({facts['platform']}), jax {versions['jax']}, "
        f"flax {versions['flax']}, Python {facts['python']}.",
        "",
        "| check | measured | value | bound | |",
        "| --- | --- | --- | --- | --- |",
    ]
    for check in found:
        verdict = "passed" if check.passed else "**failed**"
        lines.append(
            f"| {check.name} | {check.what} | {check.value:.3g} | {check.bound:g} | {verdict} |"
        )
    lines += [
        "",
        "| timing | jaxact (ms) | other (ms) | ratio | other |",
        "| --- | --- | --- | --- | --- |",
    ]
    for t in timed:
        lines.append(
            f"| {t.name} | {1e3 * t.seconds:.3g} | {1e3 * t.other:.3g} | "
            f"{t.seconds / t.other:.2f} | {t.against} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """The command line; 1 where a check failed."""
    config = parse(DeviceCheck, {})

    def study() -> int:
        passed = run(config)
        print((config.out / "report.md").read_text(encoding="utf-8"))
        return int(not passed)

    return command_line(study)
