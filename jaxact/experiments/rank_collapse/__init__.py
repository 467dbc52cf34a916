"""How rank degrades with depth in plain and residual networks, on real images."""

from jaxact.experiments.rank_collapse._config import NETWORKS as NETWORKS
from jaxact.experiments.rank_collapse._config import PLACEMENTS as PLACEMENTS
from jaxact.experiments.rank_collapse._config import PRESETS as PRESETS
from jaxact.experiments.rank_collapse._config import Cell as Cell
from jaxact.experiments.rank_collapse._config import RankCollapse as RankCollapse
from jaxact.experiments.rank_collapse._config import cells as cells
from jaxact.experiments.rank_collapse._config import validate as validate
from jaxact.experiments.rank_collapse._figures import draw as draw
from jaxact.experiments.rank_collapse._study import main as main
from jaxact.experiments.rank_collapse._study import run as run
from jaxact.experiments.rank_collapse._study import summary as summary
