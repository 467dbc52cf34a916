"""The claims that are put to the test, a study each, in the order of their numbers."""

from jaxact.experiments.verdicts._protocol import Study
from jaxact.experiments.verdicts.studies import (
    _dead,
    _flips,
    _gelu,
    _identities,
    _mean_shift,
    _one_neuron,
    _paths,
    _phase,
    _placement,
    _prediction,
    _product_rate,
    _ranges,
    _trainability,
)

STUDIES: tuple[Study, ...] = (
    _mean_shift.STUDY,
    _trainability.STUDY,
    _flips.STUDY,
    _product_rate.STUDY,
    _phase.STUDY,
    _placement.STUDY,
    _ranges.STUDY,
    _gelu.STUDY,
    _identities.STUDY,
    _dead.STUDY,
    _one_neuron.STUDY,
    _paths.STUDY,
    _prediction.STUDY,
)
