"""Puts claims of the literature to the test and writes a page of verdicts; see --help."""

from jaxact.experiments import verdicts

if __name__ == "__main__":
    raise SystemExit(verdicts.main())
