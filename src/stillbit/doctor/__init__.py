"""What is wrong with a model, a run or an exported file, and what to do."""

from stillbit.doctor.examine import examine as examine
from stillbit.doctor.examine import examine_file as examine_file
from stillbit.doctor.examine import examine_path as examine_path
from stillbit.doctor.examine import examine_run as examine_run
from stillbit.doctor.finding import Examination as Examination
from stillbit.doctor.finding import Finding as Finding
