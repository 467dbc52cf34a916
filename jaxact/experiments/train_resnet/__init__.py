"""Training of one residual network on images, measured on the way."""

from jaxact.experiments.train_resnet._config import PRESETS as PRESETS
from jaxact.experiments.train_resnet._config import TrainResNet as TrainResNet
from jaxact.experiments.train_resnet._config import validate as validate
from jaxact.experiments.train_resnet._run import main as main
from jaxact.experiments.train_resnet._run import run as run
