"""The claims that are put to the test, a study each, in the order of their numbers."""

from jaxact.experiments.verdicts._protocol import Study
from jaxact.experiments.verdicts.studies import (
    _flips,
    _gelu,
    _identities,
    _mean_shift,
    _phase,
    _product_rate,
    _ranges,
)

STUDIES: tuple[Study, ...] = (
    _mean_shift.STUDY,
    _flips.STUDY,
    _product_rate.STUDY,
    _phase.STUDY,
    _ranges.STUDY,
    _gelu.STUDY,
    _identities.STUDY,
)
