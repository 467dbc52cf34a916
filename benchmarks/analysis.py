"""Stream a million feature vectors of width 512: time, memory, and what the two forms lose.

python benchmarks/analysis.py [--vectors 1000000] [--width 512] [--batch 8192]

Memory is the peak resident size of the process, read after each quarter of the stream: flat in the
number of vectors. The truth for the small values is the spectrum that the samples are made with.
"""

import argparse
import os
import resource
import time

# LAPACK's threads wait by spinning: on shared cores its QR is tens of times slower with two.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np

from jaxact import analysis


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8192)
    given = parser.parse_args()
    steps = -(-given.vectors // given.batch)
    deviations = jnp.geomspace(1.0, 1e-6, given.width)

    @jax.jit
    def samples(number):
        key = jax.random.fold_in(jax.random.key(0), number)
        return 3 + deviations[None] * jax.random.normal(key, (given.batch, given.width))

    print(f"{jax.devices()[0]}, jax {jax.__version__}: {steps * given.batch:,} vectors of width")
    print(f"{given.width}, batches of {given.batch}\n")
    print(
        "| form | vectors | seconds | of processor time | peak MiB after 1/4, 1/2, 3/4, all "
        "| std. dev. right to 1% |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for form in ("scatter", "root"):
        update = jax.jit(analysis.update_moments, donate_argnums=0)
        state = analysis.start_moments(given.width, form=form)
        x = jax.block_until_ready(samples(0))
        jax.block_until_ready(update(analysis.start_moments(given.width, form=form), x))
        seconds, processor, peaks = 0.0, 0.0, []
        for number in range(steps):
            x = jax.block_until_ready(samples(number))
            start, used = time.perf_counter(), time.process_time()
            state = jax.block_until_ready(update(state, x))
            seconds += time.perf_counter() - start
            processor += time.process_time() - used
            if (number + 1) * 4 % (steps - steps % 4) == 0 and len(peaks) < 4:
                peaks.append(peak_mib())
        count = float(state.count)
        spread = np.asarray(analysis.moments_spectrum(state)) / count**0.5
        right = int(np.sum(np.abs(spread / np.asarray(deviations) - 1) < 0.01))
        shown = ", ".join(f"{peak:.0f}" for peak in peaks)
        print(
            f"| {form} | {count:,.0f} | {seconds:.1f} | {processor:.1f} | {shown} "
            f"| {right} of {given.width} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
