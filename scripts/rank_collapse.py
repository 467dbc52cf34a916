"""Measures how rank degrades with depth in plain and residual networks; see --help."""

from jaxact.experiments import rank_collapse

if __name__ == "__main__":
    raise SystemExit(rank_collapse.main())
