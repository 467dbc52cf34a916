"""The command ``jaxact``: the studies by name, as the scripts of a checkout run them."""

import importlib
import sys

STUDIES = {
    "rank-collapse": ("rank_collapse", "how rank degrades with depth, on real images"),
    "train-resnet": ("train_resnet", "train one deep network, its ranks measured on the way"),
    "analyze": ("checkpoint", "ranks of every weight matrix of checkpoints"),
    "figures": ("figures", "the figures of a paper"),
    "verdicts": ("verdicts", "claims of the literature, with a verdict for each"),
    "device-check": ("device_check", "the same results on this device as on the CPU, and how fast"),
}


def main() -> int:
    """Runs the study that the first argument names.

    Returns:
      The process's exit code: the study's own, or 2 where there is none of that name.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in STUDIES:
        sys.argv[:2] = [f"jaxact {name}"]
        return importlib.import_module(f"jaxact.experiments.{STUDIES[name][0]}").main()
    lines = [f"  {word:15}{what}" for word, (_, what) in STUDIES.items()]
    usage = "\n".join(["usage: jaxact STUDY [OPTIONS], or jaxact STUDY --help", *lines])
    if name in ("-h", "--help"):
        print(usage)
        return 0
    print(f"study: must be one of {', '.join(STUDIES)}; got {name!r}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
