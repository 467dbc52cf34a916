"""Claims of the literature put to the test: pre-registered studies, verdicts computed from data."""

from jaxact.experiments._plots import lines as lines
from jaxact.experiments.verdicts._cells import train_cells as train_cells
from jaxact.experiments.verdicts._cells import trials as trials
from jaxact.experiments.verdicts._effects import by_seed as by_seed
from jaxact.experiments.verdicts._effects import no_ceiling as no_ceiling
from jaxact.experiments.verdicts._effects import remaining as remaining
from jaxact.experiments.verdicts._effects import select as select
from jaxact.experiments.verdicts._effects import trains as trains
from jaxact.experiments.verdicts._protocol import Batch as Batch
from jaxact.experiments.verdicts._protocol import Budget as Budget
from jaxact.experiments.verdicts._protocol import Gate as Gate
from jaxact.experiments.verdicts._protocol import Plot as Plot
from jaxact.experiments.verdicts._protocol import Prediction as Prediction
from jaxact.experiments.verdicts._protocol import Study as Study
from jaxact.experiments.verdicts._protocol import budgets as budgets
from jaxact.experiments.verdicts._run import Result as Result
from jaxact.experiments.verdicts._run import Verdicts as Verdicts
from jaxact.experiments.verdicts._run import main as main
from jaxact.experiments.verdicts._run import run as run
from jaxact.experiments.verdicts._run import summary as summary
from jaxact.experiments.verdicts._statistics import Outcome as Outcome
from jaxact.experiments.verdicts._statistics import Test as Test
from jaxact.experiments.verdicts._statistics import Verdict as Verdict
from jaxact.experiments.verdicts._statistics import decide as decide
from jaxact.experiments.verdicts._statistics import verdict as verdict
from jaxact.experiments.verdicts.studies import STUDIES as STUDIES
