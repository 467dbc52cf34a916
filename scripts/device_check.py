"""Checks results and measures speed on the device at hand, and reports both; see --help."""

from jaxact.experiments import device_check

if __name__ == "__main__":
    raise SystemExit(device_check.main())
