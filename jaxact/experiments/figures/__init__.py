"""The paper's figures: each one call from sizes to a table, and from the table to a drawing."""

from jaxact.experiments.figures._run import FIGURES as FIGURES
from jaxact.experiments.figures._run import Figures as Figures
from jaxact.experiments.figures._run import draw as draw
from jaxact.experiments.figures._run import main as main
from jaxact.experiments.figures._run import run as run
from jaxact.experiments.figures._sizes import PRESETS as PRESETS
from jaxact.experiments.figures._sizes import Sizes as Sizes
