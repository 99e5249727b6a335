"""Checkpoints of the two published codebases, into our models."""

from stillbit.interop.load import load_published as load_published
from stillbit.interop.reading import PublishedCheckpoint as PublishedCheckpoint
from stillbit.interop.reading import read_published as read_published
from stillbit.interop.report import ImportReport as ImportReport
