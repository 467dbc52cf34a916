"""Does jaxact compute the same on this device as on the CPU, and how fast? See --help."""

from jaxact.experiments import device_check

if __name__ == "__main__":
    raise SystemExit(device_check.main())
