"""How large the networks of the figures are."""

from typing import NamedTuple


class Sizes(NamedTuple):
    """Sizes that all figures share.

    Attributes:
      width: units of a layer.
      depth: layers of a deep network.
      layers: the largest number of matrices in a product.
      seeds: networks, or pairs of inputs, that means are taken over.
      steps: training steps.
      examples: images whose features are measured.
      channels: of a convolution.
      space: height and width of its map; its dense operator has (channels space^2)^2 entries.
      wide: units where theory asks for many.
      dataset: of images, as `jaxact.training.load` takes it.
    """

    width: int
    depth: int
    layers: int
    seeds: int
    steps: int
    examples: int
    channels: int
    space: int
    wide: int
    dataset: str = "digits"


PRESETS = {
    "small": Sizes(32, 64, 256, 4, 120, 256, 8, 8, 256),
    "paper": Sizes(64, 256, 1000, 16, 2000, 1024, 16, 16, 1024),
}
