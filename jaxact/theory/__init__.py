"""Mean-field predictions and statistics of activation functions."""

from jaxact.theory._products import newman_exponents as newman_exponents
from jaxact.theory._statistics import Moments as Moments
from jaxact.theory._statistics import gain as gain
from jaxact.theory._statistics import moments as moments
