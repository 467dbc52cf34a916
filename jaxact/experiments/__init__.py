"""Studies: from a config to a table, figures and a report."""

from jaxact.experiments import checkpoint as checkpoint
from jaxact.experiments import device_check as device_check
from jaxact.experiments import figures as figures
from jaxact.experiments import rank_collapse as rank_collapse
from jaxact.experiments import train_resnet as train_resnet
from jaxact.experiments import verdicts as verdicts
from jaxact.experiments._store import Run as Run
from jaxact.experiments._store import StudyError as StudyError
