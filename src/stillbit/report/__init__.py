"""Reports: what a run's record tells, as a page."""

from stillbit.report.history import RunHistory as RunHistory
from stillbit.report.writing import write_report as write_report
