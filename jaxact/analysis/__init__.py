"""What to measure on a network, by depth.

A network is read by `as_chain` as a chain of pure functions, whatever library it came from; the
measurements take chains and arrays and give arrays with a layer axis.
"""

from jaxact.analysis._chain import Chain as Chain
from jaxact.analysis._chain import Segment as Segment
from jaxact.analysis._chain import as_chain as as_chain
from jaxact.analysis._chain import run as run
from jaxact.analysis._features import cosine_similarity as cosine_similarity
from jaxact.analysis._features import feature_matrix as feature_matrix
from jaxact.analysis._features import features as features
from jaxact.analysis._gradients import gradients as gradients
from jaxact.analysis._jacobians import input_jacobians as input_jacobians
from jaxact.analysis._ranks import Ranks as Ranks
from jaxact.analysis._ranks import matrix_ranks as matrix_ranks
from jaxact.analysis._ranks import ranks as ranks
from jaxact.analysis._table import tidy as tidy
from jaxact.analysis._weights import weight_matrices as weight_matrices
