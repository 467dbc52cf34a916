"""Mean-field predictions and statistics of activation functions."""

from jaxact.theory._fixed_points import FixedPoint as FixedPoint
from jaxact.theory._fixed_points import fixed_point as fixed_point
from jaxact.theory._kernels import arc_cosine_kernel as arc_cosine_kernel
from jaxact.theory._kernels import erf_kernel as erf_kernel
from jaxact.theory._maps import correlation_curvature as correlation_curvature
from jaxact.theory._maps import correlation_defect as correlation_defect
from jaxact.theory._maps import correlation_map as correlation_map
from jaxact.theory._maps import correlation_slope as correlation_slope
from jaxact.theory._maps import dual_kernel as dual_kernel
from jaxact.theory._maps import variance_map as variance_map
from jaxact.theory._products import newman_exponents as newman_exponents
from jaxact.theory._recursion import MeanField as MeanField
from jaxact.theory._recursion import mean_field as mean_field
from jaxact.theory._statistics import Moments as Moments
from jaxact.theory._statistics import Statistics as Statistics
from jaxact.theory._statistics import flat_fraction as flat_fraction
from jaxact.theory._statistics import gain as gain
from jaxact.theory._statistics import lipschitz_constant as lipschitz_constant
from jaxact.theory._statistics import moments as moments
from jaxact.theory._statistics import statistics as statistics
