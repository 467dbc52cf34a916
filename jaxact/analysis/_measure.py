"""Any network of any library, measured by depth in one call."""

import dataclasses
import fnmatch
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxact._checks import conflict, whole
from jaxact._compat import gathered
from jaxact.analysis._foreign import OUTPUT, Foreign, foreign
from jaxact.analysis._inside import (
    Inside,
    gradient_stacks,
    groups,
    jacobians,
    look_inside,
    output_jacobians,
    real_parts,
    start_features,
    start_tokens,
    token_groups,
    update_features,
    update_tokens,
    weight_stacks,
)
from jaxact.analysis._measurement import (
    Measurement,
    concatenate,
    measure_spectrum,
    select,
    spectra_of_one_length,
)
from jaxact.analysis._measures import MEASURES, taking
from jaxact.analysis._moments import covariance
from jaxact.analysis._stream import LayerState, at_least_single, measure_layers, samples_seen
from jaxact.analysis._table import table
from jaxact.analysis._tokens import means, quantities
from jaxact.analysis._units import STATES
from jaxact.analysis._view import participation_of_gram, smaller_gram
from jaxact.analysis._weights import measure_matrices

if TYPE_CHECKING:
    import pandas

MEASURED = ("weight", "features", "jacobian", "output_jacobian", "gradient", "tokens")
"""Objects that `measure` takes, in the order of its results."""


def measure(
    network: Any,
    x: PyTree | Iterable[PyTree],
    /,
    *,
    measures: Sequence[str] | None = None,
    layers: str | Sequence[str] = "*",
    y: PyTree | None = None,
    loss: Callable[[Any, Any], Float[Array, ""]] | None = None,
    directions: int = 256,
    centred: bool = False,
) -> list[Measurement]:
    """What a network of any library shows by depth: weights, features, Jacobians, gradients.

    The layers are the network's own modules, by their paths, and the values that `tag` names, in
    the order in which they act; where it has neither, what leaves each `jax.named_scope`. A layer
    that is run by a scan over stacked weights is one for each step. Nothing has to be rewritten,
    and nothing of the network is changed.

    Args:
      network: one of

        * a Flax NNX module, called as ``module(x)`` (``module.eval()`` it before);
        * a Flax Linen pair ``(module, variables)``;
        * an Equinox module, which takes one example: it is mapped over the batch (where
          ``eqx.filter_vmap`` does that, too);
        * Haiku's ``(transformed, params)``, or ``(transformed, params, state)``, without a key;
        * a pair ``(function, params)``, called as ``function(params, x)``: for arguments of one's
          own, as in ``(lambda model, x: model(x, train=False), model)``, and for plain JAX;
        * what `as_chain` takes, every network of `jaxact.models` among it; a function ``x -> y``.

      x: a batch, with the examples as first axis of every array, on one device or sharded; or
        batches, or pairs (inputs, targets), in an iterator, a loader or a list, of which features,
        tokens and gradients see all, and Jacobians the first example: weights and Jacobians alone
        draw one batch.
      measures: names ``"OBJECT"`` or ``"OBJECT/NAME"``, the objects being ``weight``,
        ``features``, ``jacobian`` (of a layer's output in the input, at the first example),
        ``output_jacobian`` (of the network's output in a layer's, there too), ``gradient`` (of the
        loss in a weight) and ``tokens`` (of each example, what a layer puts out at its tokens: how
        alike they are, and their rank); the names those of `MEASURES` that are taken of them. By
        default all of the first three, and with a ``loss`` the gradient.
      layers: patterns of names, as of files; a weight also belongs to the modules that hold it.
      y: what the loss compares with, as first axis the examples; where ``x`` is of batches, each
        is a pair ``(inputs, targets)`` if there is a loss.
      loss: ``loss(outputs, targets) -> scalar``, the mean over a batch.
      directions: an input (or output) of more numbers than this has its Jacobian measured on a
        random subspace of so many of its directions, which ``shapes`` then gives as columns: no
        rank exceeds it.
      centred: whether the spectra of features are about their mean.

    Returns:
      A `Measurement` of each quantity, over all layers; `table` and `summary` take them.
      Features of convolutions count their positions as samples. Singular values of Jacobians below
      the machine epsilon times the largest are rounding; those of a chain over any spread are
      `input_jacobians`.

    Raises:
      TypeError: if the network is none of these, or its parameters are abstract.
      ValueError: if a name is unknown, no layer matches, an object cannot be measured of this
        network with this data, or nothing inside the network can be seen: then it says what was
        found, and `tag` names a value.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> def mlp(params, x):
      ...     for number, w in enumerate(params):
      ...         x = tag(jnp.tanh(x @ w), f"layer_{number}")
      ...     return x
      >>> from jaxact.analysis import tag
      >>> params = list(jax.random.normal(jax.random.key(0), (3, 8, 8)))
      >>> x = jax.random.normal(jax.random.key(1), (64, 8))
      >>> (rank,) = measure((mlp, params), x, measures=["features/numerical_rank"])
      >>> rank.layers, rank.value.tolist()
      (('layer_0', 'layer_1', 'layer_2'), [8, 8, 8])
    """
    return _Probe(measures, layers, loss, directions, centred)(network, x, y)


@dataclasses.dataclass
class Follow:
    """Measures of a network through training; from `follow`.

    Attributes:
      every: steps between two measurements.
      found: by step, what `measure` gives.
    """

    every: int
    found: dict[int, list[Measurement]]
    _take: Callable[[Any], list[Measurement]]

    def __call__(self, step: int, network: Any, /) -> list[Measurement] | None:
        """Measures at a multiple of ``every``, and does nothing at other steps.

        Args:
          step: number of the step.
          network: as at first but for the values of its arrays.

        Returns:
          What was measured, or None.

        Raises:
          ValueError: if its arrays have other names, shapes or dtypes than at first.
        """
        if step % self.every:
            return None
        self.found[step] = self._take(network)
        return self.found[step]

    def table(self) -> "pandas.DataFrame":
        """All that was measured as one tidy table, the step in its last column."""
        import pandas

        frames = [table(found).assign(step=step) for step, found in self.found.items()]
        return pandas.concat(frames, ignore_index=True)


def follow(
    x: PyTree,
    /,
    *,
    every: int,
    measures: Sequence[str] = ("weight/participation_ratio", "features/participation_ratio"),
    layers: str | Sequence[str] = "*",
    y: PyTree | None = None,
    loss: Callable[[Any, Any], Float[Array, ""]] | None = None,
    directions: int = 256,
    centred: bool = False,
) -> Follow:
    """Measures of a network at intervals of a training loop of one's own.

    What is compiled at the first measurement serves all later ones. Participation ratios, the
    default, come from second moments alone; other ranks need a decomposition of every layer, which
    costs as much as many steps of training.

    Args:
      x: a batch, or a list of batches, the same at every step.
      every: steps between two measurements.
      measures: see `measure`, as the other options.
      layers: see `measure`.
      y: see `measure`.
      loss: see `measure`.
      directions: see `measure`.
      centred: see `measure`.

    Returns:
      A `Follow`; call it with step and network at every step.

    Raises:
      ValueError: if ``every`` is less than 1, or an option is not what `measure` takes.

    Example:
      >>> import jax.numpy as jnp
      >>> watch = follow(jnp.eye(4), every=10, measures=["weight/stable_rank"])
      >>> for step in range(20):
      ...     params = {"w": jnp.eye(4) * (step + 1)}
      ...     _ = watch(step, (lambda params, x: x @ params["w"], params))
      >>> [(step, found[0].value.tolist()) for step, found in watch.found.items()]
      [(0, [4.0]), (10, [4.0])]
    """
    whole("every", every)
    if not isinstance(x, list) and _is_stream(x):
        raise ValueError("x must be a batch or a list of batches; an iterator is used up at once")
    probe = _Probe(measures, layers, loss, directions, centred)
    return Follow(every, {}, lambda network: probe(network, x, y))


def _wanted(measures: Sequence[str] | None, loss: Any) -> dict[str, set[str] | None]:
    """By object the quantities asked for, None for all."""
    if measures is None:
        return dict.fromkeys((*MEASURED[:3], *(["gradient"] if loss else [])))
    if isinstance(measures, str):
        raise ValueError(f"measures must be a list of names; got {measures!r}")
    wanted: dict[str, set[str] | None] = {}
    for name in measures:
        of, _, quantity = name.partition("/")
        known = _quantities(of)
        if of not in MEASURED or (quantity and quantity not in known):
            allowed = known if of in MEASURED else [m.name for m in taking("spectrum")]
            raise ValueError(
                f"measures must be OBJECT or OBJECT/NAME with an object ({', '.join(MEASURED)}) "
                f"and a measure of it ({', '.join(allowed)}); got {name!r}"
            )
        if of == "gradient" and loss is None:
            raise ValueError(f"loss must be given where measures hold {name!r}; got None")
        if not quantity:
            wanted[of] = None
        elif (chosen := wanted.setdefault(of, set())) is not None:
            chosen.add(quantity)
    if not wanted:
        raise ValueError("measures must hold at least one name; got none")
    return wanted


def _quantities(of: str) -> list[str]:
    if of == "tokens":
        return quantities(of)
    counted = [m.name for m in MEASURES.values() if m.function is None and m.object in ("", of)]
    return [m.name for m in taking("spectrum")] + counted + (STREAMED if of == "features" else [])


QUICK = {"participation_ratio"}
"""Quantities that need no decomposition; alone, they cost little."""

STREAMED = ["cosine_similarity", "mean_shift", "unit_diversity", *STATES]
"""Of features, beside their spectra."""


@dataclasses.dataclass
class _Probe:
    """Measures networks of one kind; what it compiles for the first serves the others.

    Attributes: see `measure`.
    """

    measures: Sequence[str] | None
    layers: str | Sequence[str]
    loss: Callable[[Any, Any], Array] | None
    directions: int
    centred: bool

    def __post_init__(self):
        whole("directions", self.directions)
        self.wanted = _wanted(self.measures, self.loss)
        self.inside: Inside | None = None

    def __call__(self, network: Any, x: Any, y: Any) -> list[Measurement]:
        read = foreign(network)
        batches = _batches(x, y, self.loss)
        if (first := next(batches, None)) is None:
            raise ValueError("x must hold at least one batch; got none")
        if self.inside is None:
            self.inside = self.cut(look_inside(read, first[0]), first[0])
            self.compile(self.inside)
        elif (now := _shapes(read)) != (before := _shapes(self.inside.network)):
            changed = [a for a, b in itertools.zip_longest(now, before) if a != b and a]
            raise ValueError(
                f"network must be as at first but for the values of its {len(before)} arrays; now "
                f"there are {len(now)}, and new or changed are {_listed(changed)}"
            )
        found = self.found(self.inside, read.arrays, first, batches)
        return [
            self.chosen(m)
            for of, quantities in self.wanted.items()
            for quantity, m in found[of].items()
            if quantities is None or quantity in quantities
        ]

    def cut(self, inside: Inside, x: Any) -> Inside:
        """What of a network is measured; refuses what cannot be."""
        weights = [name for use in inside.uses for name in use.names]
        inner = [cut.name for cut in inside.cuts if cut.name != OUTPUT]
        if not inner and len(weights) != 1 and set(self.wanted) - {"weight", "gradient"}:
            raise ValueError(
                f"network must show values inside; of this one its output and {len(weights)} "
                f"weights are seen ({_listed(weights)}). Pass the module itself and not a function "
                'that calls it, or name values by jaxact.analysis.tag(h, "name") or jax.named_scope'
                + ("; one example is a batch of one, x[None]" if _without_units(x) else "")
            )
        chosen = inside._replace(
            cuts=tuple(cut for cut in inside.cuts if any(map(self.matches, cut.names))),
            uses=tuple(use for use in inside.uses if any(map(self.holds, use.names))),
        )
        if not chosen.cuts and not chosen.uses:
            names = _listed([*inner, *weights])
            raise ValueError(f"layers must match some of {names}; got {self.layers!r}")
        floats = all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(x))
        for of in list(self.wanted):
            lacking = not (chosen.uses if of in ("weight", "gradient") else chosen.cuts)
            why = "no layer has one" if lacking else ""
            if of == "tokens" and not token_groups(chosen):
                why = "no layer has an axis of tokens between examples and units"
            if of == "jacobian" and not floats:
                why = "x holds more than floats, which alone have a derivative"
            if why and self.measures is not None:
                raise ValueError(f"measures must not hold {of} here: {why}")
            if why:
                del self.wanted[of]
        return chosen

    def matches(self, name: str) -> bool:
        patterns = [self.layers] if isinstance(self.layers, str) else self.layers
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    def holds(self, weight: str) -> bool:
        """Whether a weight, or a module that it belongs to, matches."""
        parts = re.split("([./])", weight)
        return any(self.matches("".join(parts[: i + 1])) for i in range(0, len(parts), 2))

    def chosen(self, m: Measurement) -> Measurement:
        """The layers that match."""
        match = self.holds if m.object in ("weight", "gradient") else self.matches
        names = [name for name in m.layers if match(name)]
        return m if len(names) == len(m.layers) else select(m, names)

    def compile(self, inside: Inside) -> None:
        def program(function: Callable[..., Any], *options: Any) -> Callable[..., Any]:
            return jax.jit(functools.partial(function, inside, *options))

        self.weights = program(weight_stacks)
        self.gradient = program(gradient_stacks, self.loss)
        self.features = program(update_features)
        self.tokens = program(update_tokens)
        self.jacobians = {
            "jacobian": program(jacobians),
            "output_jacobian": program(output_jacobians),
        }

    def found(
        self,
        inside: Inside,
        arrays: list[Array],
        first: tuple[Any, Any],
        rest: Iterator[tuple[Any, Any]],
    ) -> dict[str, dict[str, Measurement]]:
        """By object and quantity."""
        found = {}
        for of in self.jacobians:
            if of in self.wanted:
                found[of] = self.of_jacobians(inside, of, arrays, first[0])
        quick = {of for of, quantities in self.wanted.items() if quantities == QUICK}
        form = "scatter" if "features" in quick else "root"
        states = start_features(inside, form) if "features" in self.wanted else []
        wanted = sorted(self.wanted.get("tokens") or quantities("tokens"))
        sums = start_tokens(inside, wanted) if "tokens" in self.wanted else []
        gradient, seen = None, 0
        if not self.wanted.keys() & {"features", "tokens", "gradient"}:
            rest = iter(())
        for x, y in itertools.chain([first], rest):
            if "features" in self.wanted:
                states = self.features(arrays, states, x)
            if "tokens" in self.wanted:
                sums = self.tokens(arrays, sums, x)
            if "gradient" in self.wanted:
                more, size = self.gradient(arrays, x, y), len(jax.tree.leaves(x)[0])
                seen += size
                gradient = more if gradient is None else _mean(gradient, more, size / seen)
        if "features" in self.wanted:
            of_features = _quick_features if "features" in quick else _of_features
            found["features"] = of_features(inside, states, self.centred)
        if "tokens" in self.wanted:
            found["tokens"] = _of_tokens(inside, sums)
        stacks = {} if gradient is None else {"gradient": gradient}
        if "weight" in self.wanted:
            stacks["weight"] = self.weights(arrays)
        for of, matrices in stacks.items():
            of_matrices = _quick_matrices if of in quick else _of_matrices
            found[of] = of_matrices(inside, of, matrices)
        return found

    def of_jacobians(
        self, inside: Inside, of: str, arrays: list[Array], x: Any
    ) -> dict[str, Measurement]:
        x = jax.tree.map(lambda leaf: gathered(leaf)[:1], x)
        end = x
        if of == "output_jacobian":
            end = jax.eval_shape(lambda a, x: real_parts(inside.network.apply(a, x)), arrays, x)
        if not (leaves := jax.tree.leaves(end)):
            raise ValueError(f"measures must not hold {of} here: the output holds no floats")
        size = sum(math.prod(leaf.shape) for leaf in leaves)
        basis = _directions(min(size, self.directions), size, jnp.result_type(*leaves))
        found = self.jacobians[of](arrays, x, basis)
        return _of_spectra(inside, of, found, len(basis))


def _of_features(inside: Inside, states: list[LayerState], centred: bool) -> dict[str, Measurement]:
    parts: dict[str, list[Measurement]] = {}
    for group, state in zip(groups(inside), states, strict=True):
        names = tuple(name for cut in group for name in cut.names)
        for quantity, m in measure_layers(state, names, centred, "features").items():
            parts.setdefault(quantity, []).append(m)
    return {q: select(concatenate(ms), inside.layers) for q, ms in parts.items()}


def _of_tokens(inside: Inside, sums: list[dict[str, Array]]) -> dict[str, Measurement]:
    parts: dict[str, list[Measurement]] = {}
    for group, each in zip(token_groups(inside), sums, strict=True):
        names = tuple(name for cut in group for name in cut.names)
        *_, units = shape = group[0].shape[1:]
        shapes = ((math.prod(shape[:-1]), units),) * len(names)
        for quantity, m in means(each, "tokens", names, shapes).items():
            parts.setdefault(quantity, []).append(m)
    known = {name for group in token_groups(inside) for cut in group for name in cut.names}
    order = [name for name in inside.layers if name in known]
    return {quantity: select(concatenate(ms), order) for quantity, ms in parts.items()}


def _of_matrices(inside: Inside, of: str, stacks: dict[str, Array]) -> dict[str, Measurement]:
    matrices = {
        name: matrix
        for use in inside.uses
        for name, matrix in zip(use.names, np.asarray(stacks[use.name]), strict=True)
    }
    ordered = {name: matrices[name] for name in inside.weights}
    return measure_matrices(ordered, object=of, layout="oihw")


def _quick_features(
    inside: Inside, states: list[LayerState], centred: bool
) -> dict[str, Measurement]:
    """Participation ratios from second moments, without a decomposition."""
    values = []
    shapes: list[tuple[int, int]] = []
    for state, group in zip(states, groups(inside), strict=True):
        samples = samples_seen(state, group[0].name, centred)
        second = jax.vmap(functools.partial(covariance, centred=centred))(state.moments)
        values.append(_of_gram(second))
        shapes += [(max(samples, 1), second.shape[-1])] * len(second)
    names = tuple(name for group in groups(inside) for cut in group for name in cut.names)
    return _quick("features", jnp.concatenate(values), names, shapes, inside.layers, centred)


def _quick_matrices(inside: Inside, of: str, stacks: dict[str, Array]) -> dict[str, Measurement]:
    values = [_of_stack(stacks[use.name]) for use in inside.uses]
    names = tuple(name for use in inside.uses for name in use.names)
    sides = {name: (stack.shape[1], stack.shape[2]) for name, stack in stacks.items()}
    shapes = [sides[use.name] for use in inside.uses for _ in use.names]
    return _quick(of, jnp.concatenate(values), names, shapes, inside.weights, False)


_of_gram = jax.jit(participation_of_gram)


@jax.jit
def _of_stack(stack: Float[Array, "layer m n"]) -> Float[Array, " layer"]:
    return participation_of_gram(smaller_gram(stack.astype(at_least_single(stack.dtype))))


def _quick(
    of: str,
    value: Array,
    names: tuple[str, ...],
    shapes: list[tuple[int, int]],
    order: list[str],
    centred: bool,
) -> dict[str, Measurement]:
    valid = jnp.isfinite(value)
    m = Measurement(
        value=jnp.where(valid, value, 0),
        standard_error=None,
        tolerance=None,
        valid=valid,
        object=of,
        quantity="participation_ratio",
        centring="mean" if centred else "none",
        dtype=str(value.dtype),
        layers=names,
        shapes=tuple(shapes),
    )
    return {m.quantity: select(m, order)}


def _of_spectra(
    inside: Inside, of: str, found: dict[str, tuple[Array, Array]], columns: int
) -> dict[str, Measurement]:
    spectra, missing = zip(*(found[cut.name] for cut in inside.cuts), strict=True)
    names = tuple(name for cut in inside.cuts for name in cut.names)
    shapes = [(math.prod(c.shape[1:]), columns) for c in inside.cuts for _ in c.names]
    measured = measure_spectrum(
        spectra_of_one_length(spectra), shape=shapes, object=of, layers=names
    )
    like = measured["stable_rank"]
    measured["non_finite"] = dataclasses.replace(
        like,
        value=jnp.concatenate(missing),
        valid=jnp.ones(len(names), bool),
        quantity="non_finite",
    )
    return {quantity: select(m, inside.layers) for quantity, m in measured.items()}


def _directions(count: int, size: int, dtype: Any) -> Float[Array, "count size"]:
    """Orthonormal rows: all directions, or as many random ones."""
    if count == size:
        return jnp.eye(size, dtype=dtype)
    rows = jax.random.normal(jax.random.key(0), (size, count))
    return jnp.linalg.qr(rows)[0].T.astype(dtype)


def _mean(a: dict[str, Array], b: dict[str, Array], share: float) -> dict[str, Array]:
    return jax.tree.map(lambda a, b: a + share * (b - a), a, b)


def _without_units(x: Any) -> bool:
    return all(leaf.ndim == 1 for leaf in jax.tree.leaves(x))


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join([*names[:8], *(["..."] if len(names) > 8 else [])]) or "none"


def _shapes(read: Foreign) -> list[str]:
    arrays = zip(read.names, read.arrays, strict=True)
    return [f"{name} {array.dtype}{list(array.shape)}" for name, array in arrays]


def _is_stream(x: Any) -> bool:
    """Whether it is of batches, not one."""
    return isinstance(x, Iterable) and not (hasattr(x, "shape") or isinstance(x, Mapping | tuple))


def _pair(batch: Any, loss: Any) -> tuple[Any, Any]:
    """A batch's inputs and targets, which loaders give whether they are wanted or not."""
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    if loss is not None:
        raise ValueError(
            "x must be of pairs (inputs, targets) where loss is given; got a batch of type "
            f"{type(batch).__name__}"
        )
    return batch, None


def _batches(x: Any, y: Any, loss: Any) -> Iterator[tuple[Any, Any]]:
    """Pairs of inputs and targets."""
    if y is not None and loss is None:
        raise ValueError("loss must be given with y; got None")
    pairs: Iterable[Any]
    if not _is_stream(x):
        if loss is not None and y is None:
            raise ValueError("y must be given with loss where x is one batch; got None")
        pairs = [(x, y)]
    elif y is not None:
        raise conflict("x", "y", "batches come as pairs (inputs, targets)")
    else:
        pairs = (_pair(batch, loss) for batch in x)
    for inputs, targets in pairs:
        inputs = jax.tree.map(jnp.asarray, inputs)
        shapes = [leaf.shape for leaf in jax.tree.leaves(inputs)]
        if len({shape[:1] for shape in shapes}) != 1 or not shapes[0][:1] or shapes[0][0] == 0:
            raise ValueError(
                "x must be of arrays with the same number of examples, at least one, as first "
                f"axis; got shapes {shapes}"
            )
        yield inputs, targets
