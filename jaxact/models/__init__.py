"""Flax NNX residual networks in which wiring, norm, skip and activation are values."""

from jaxact.models._resnet import NORM_PLACEMENTS as NORM_PLACEMENTS
from jaxact.models._resnet import SKIPS as SKIPS
from jaxact.models._resnet import ConvResNet as ConvResNet
from jaxact.models._resnet import MLPResNet as MLPResNet
from jaxact.models._segments import Segment as Segment
