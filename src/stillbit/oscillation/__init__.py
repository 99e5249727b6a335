"""Methods against oscillating weights: each watches or treats, once per optimizer step."""

from stillbit.oscillation.annealing import Annealing as Annealing
from stillbit.oscillation.dampening import Dampening as Dampening
from stillbit.oscillation.freezing import Freezing as Freezing
from stillbit.oscillation.history import History as History
from stillbit.oscillation.method import Method as Method
from stillbit.oscillation.recording import Recording as Recording
from stillbit.oscillation.tracking import Tracker as Tracker
from stillbit.oscillation.tracking import Tracking as Tracking
