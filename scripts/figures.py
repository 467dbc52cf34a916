"""Draws the paper's figures; see --help."""

from jaxact.experiments import figures

if __name__ == "__main__":
    raise SystemExit(figures.main())
