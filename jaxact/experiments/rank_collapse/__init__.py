"""How rank degrades with depth in plain and residual networks, on real images."""

from jaxact.experiments.rank_collapse._figures import draw as draw
from jaxact.experiments.rank_collapse._findings import findings as findings
from jaxact.experiments.rank_collapse._study import PRESETS as PRESETS
from jaxact.experiments.rank_collapse._study import RankCollapse as RankCollapse
from jaxact.experiments.rank_collapse._study import brief as brief
from jaxact.experiments.rank_collapse._study import grid as grid
from jaxact.experiments.rank_collapse._study import main as main
from jaxact.experiments.rank_collapse._study import run as run
from jaxact.experiments.rank_collapse._study import summary as summary
