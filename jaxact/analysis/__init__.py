"""What to measure on a network, by depth.

A network is read by `as_chain` as a chain of pure functions, whatever library it came from; the
measurements take chains and arrays and give arrays with a layer axis. `measure_matrices`,
`measure_spectrum` and `measure_stream` give `Measurement` records, and `table` makes of any of them
one tidy frame.
"""

from jaxact.analysis._alignment import batch_hsic as batch_hsic
from jaxact.analysis._alignment import stream_cka as stream_cka
from jaxact.analysis._chain import Chain as Chain
from jaxact.analysis._chain import Segment as Segment
from jaxact.analysis._chain import as_chain as as_chain
from jaxact.analysis._chain import run as run
from jaxact.analysis._features import feature_matrix as feature_matrix
from jaxact.analysis._features import features as features
from jaxact.analysis._flips import FlipRank as FlipRank
from jaxact.analysis._flips import flip_rank as flip_rank
from jaxact.analysis._flips import flips as flips
from jaxact.analysis._gradients import gradients as gradients
from jaxact.analysis._gradients import per_example_gradients as per_example_gradients
from jaxact.analysis._gradients import tangent_kernel as tangent_kernel
from jaxact.analysis._jacobians import input_jacobians as input_jacobians
from jaxact.analysis._jacobians import output_jacobians as output_jacobians
from jaxact.analysis._measurement import QUANTITIES as QUANTITIES
from jaxact.analysis._measurement import Measurement as Measurement
from jaxact.analysis._measurement import concatenate as concatenate
from jaxact.analysis._measurement import measure_spectrum as measure_spectrum
from jaxact.analysis._measurement import select as select
from jaxact.analysis._moments import Moments as Moments
from jaxact.analysis._moments import Root as Root
from jaxact.analysis._moments import Scatter as Scatter
from jaxact.analysis._moments import covariance as covariance
from jaxact.analysis._moments import merge_moments as merge_moments
from jaxact.analysis._moments import moments_spectrum as moments_spectrum
from jaxact.analysis._moments import reduce_moments as reduce_moments
from jaxact.analysis._moments import spectrum_floor as spectrum_floor
from jaxact.analysis._moments import start_moments as start_moments
from jaxact.analysis._moments import update_moments as update_moments
from jaxact.analysis._ranks import Ranks as Ranks
from jaxact.analysis._ranks import matrix_ranks as matrix_ranks
from jaxact.analysis._ranks import ranks as ranks
from jaxact.analysis._residual import Lesions as Lesions
from jaxact.analysis._residual import PathGradients as PathGradients
from jaxact.analysis._residual import contributions as contributions
from jaxact.analysis._residual import effective_depth as effective_depth
from jaxact.analysis._residual import lesion as lesion
from jaxact.analysis._residual import lesion_study as lesion_study
from jaxact.analysis._residual import path_gradients as path_gradients
from jaxact.analysis._similarity import Similarity as Similarity
from jaxact.analysis._similarity import align as align
from jaxact.analysis._similarity import angular_distance as angular_distance
from jaxact.analysis._similarity import cka as cka
from jaxact.analysis._similarity import cosine_similarity as cosine_similarity
from jaxact.analysis._similarity import example_gram as example_gram
from jaxact.analysis._similarity import hsic as hsic
from jaxact.analysis._similarity import mean_cosine as mean_cosine
from jaxact.analysis._similarity import rank_one_residual as rank_one_residual
from jaxact.analysis._similarity import start_similarity as start_similarity
from jaxact.analysis._similarity import update_similarity as update_similarity
from jaxact.analysis._singularities import Singularities as Singularities
from jaxact.analysis._singularities import eliminated as eliminated
from jaxact.analysis._singularities import singularities as singularities
from jaxact.analysis._stream import LayerState as LayerState
from jaxact.analysis._stream import measure_stream as measure_stream
from jaxact.analysis._stream import merge_streams as merge_streams
from jaxact.analysis._stream import reduce_streams as reduce_streams
from jaxact.analysis._stream import start_stream as start_stream
from jaxact.analysis._stream import stream as stream
from jaxact.analysis._stream import update_stream as update_stream
from jaxact.analysis._table import table as table
from jaxact.analysis._table import tidy as tidy
from jaxact.analysis._tags import collect as collect
from jaxact.analysis._tags import tag_units as tag_units
from jaxact.analysis._units import UnitRange as UnitRange
from jaxact.analysis._units import UnitStates as UnitStates
from jaxact.analysis._units import mean_shift as mean_shift
from jaxact.analysis._units import merge_units as merge_units
from jaxact.analysis._units import reduce_units as reduce_units
from jaxact.analysis._units import shares as shares
from jaxact.analysis._units import start_units as start_units
from jaxact.analysis._units import unit_states as unit_states
from jaxact.analysis._units import update_units as update_units
from jaxact.analysis._weights import OUTPUTS_FIRST as OUTPUTS_FIRST
from jaxact.analysis._weights import as_matrices as as_matrices
from jaxact.analysis._weights import measure_matrices as measure_matrices
from jaxact.analysis._weights import weight_matrices as weight_matrices
