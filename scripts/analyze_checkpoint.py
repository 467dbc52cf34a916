"""Measures where a checkpoint's weights carry their rank; see --help."""

from jaxact.experiments import checkpoint

if __name__ == "__main__":
    raise SystemExit(checkpoint.main())
