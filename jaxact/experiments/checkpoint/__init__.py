"""Where a checkpoint's weights carry their rank, layer by layer."""

from jaxact.experiments.checkpoint._figures import draw as draw
from jaxact.experiments.checkpoint._findings import findings as findings
from jaxact.experiments.checkpoint._study import Checkpoint as Checkpoint
from jaxact.experiments.checkpoint._study import by_attention as by_attention
from jaxact.experiments.checkpoint._study import main as main
from jaxact.experiments.checkpoint._study import run as run
from jaxact.experiments.checkpoint._study import summary as summary
