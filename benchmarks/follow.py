"""What it costs to follow ranks through training: `jaxact.training.fit` with and without measuring.

python benchmarks/follow.py [--rounds 5] [--steps 1000] [--depth 16] [--width 64]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from jaxact import analysis, training
from jaxact.experiments import _networks as networks

MEASURES = ("loss", "weight_participation", "feature_participation")


def trained(spec: networks.Spec, names: tuple[str, ...]) -> Callable[[], object]:
    """A compiled run of a spec on one seed."""
    data = training.load("digits")
    assert isinstance(data, training.Dataset)
    trials = networks.Trials(spec, data, lambda view: analysis.measure_view(view, names))
    return lambda: jax.block_until_ready(trials.run(spec.activations[0], [0]))


def main() -> None:
    """Print the ratio of times, interleaved over rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("rounds", 5), ("steps", 1000), ("depth", 16), ("width", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    spec = networks.Spec("pre", options.depth, options.width, ("relu",), steps=options.steps)
    runs = {
        "default": trained(spec, MEASURES),
        "without": trained(spec._replace(marks="ends", examples=2), ("loss",)),
    }
    for run in runs.values():
        run()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    marks = len(training.log_steps(options.steps))
    print(f"depth {options.depth}, width {options.width}, {options.steps} steps, {marks} marks")
    print("measures:", ", ".join(MEASURES))
    for number, clock in enumerate(("wall", "processor")):
        medians = {
            name: statistics.median(pair[number] for pair in pairs) for name, pairs in times.items()
        }
        ratios = [
            a[number] / b[number] for a, b in zip(times["default"], times["without"], strict=True)
        ]
        print(
            f"{clock}: {medians['without']:.2f} s without, {medians['default']:.2f} s with; "
            f"median ratio of rounds {np.median(ratios):.3f}"
        )


if __name__ == "__main__":
    main()
