"""Trains a residual network on images; see --help."""

from jaxact.experiments import train_resnet

if __name__ == "__main__":
    raise SystemExit(train_resnet.main())
