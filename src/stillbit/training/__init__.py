"""Training: data, one optimizer, one loop, exact resume."""

from stillbit.training.augment import AugmentConfig as AugmentConfig
from stillbit.training.batches import Batches as Batches
from stillbit.training.batches import calibration_batches as calibration_batches
from stillbit.training.batches import validation_batches as validation_batches
from stillbit.training.checkpoint import load_model as load_model
from stillbit.training.config import TrainingConfig as TrainingConfig
from stillbit.training.data import Data as Data
from stillbit.training.data import DataConfig as DataConfig
from stillbit.training.data import load_data as load_data
from stillbit.training.evaluate import Evaluation as Evaluation
from stillbit.training.evaluate import evaluate as evaluate
from stillbit.training.loop import fit as fit
from stillbit.training.optim import JointOptimizer as JointOptimizer
from stillbit.training.optim import OptimizerConfig as OptimizerConfig
from stillbit.training.optim import build_optimizer as build_optimizer
from stillbit.training.position import Position as Position
from stillbit.training.processes import place as place
from stillbit.training.processes import start_processes as start_processes
from stillbit.training.rates import ScheduleConfig as ScheduleConfig
from stillbit.training.record import read_record as read_record
