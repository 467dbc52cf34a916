"""Data and the optax training loop: pure functions of parameters and arrays."""

from jaxact.training._data import Dataset as Dataset
from jaxact.training._data import load as load
from jaxact.training._loop import Fit as Fit
from jaxact.training._loop import accuracy as accuracy
from jaxact.training._loop import batch_order as batch_order
from jaxact.training._loop import cross_entropy as cross_entropy
from jaxact.training._loop import fit as fit
