from pathlib import Path

from benchmarks.report_page import OBSERVATIONS, write_record
from stillbit.report import write_report
from stillbit.report.reading import read_run


def test_the_made_up_record_reads_as_one_of_the_trainer(tmp_path: Path) -> None:
    write_record(tmp_path, epochs=3, steps_per_epoch=100, layers=4)
    run = read_run(tmp_path)
    assert run.status == "complete"
    assert run.steps["loss"].steps == (50, 100, 150, 200, 250, 300)
    assert len(run.layers) == len(run.activations) == len(run.batchnorms) == 4
    assert len(run.layers[0].histograms) == len(run.layers[0].oscillating.steps) == OBSERVATIONS
    assert {one.first_step for one in run.layers[0].trajectories} == {101, 201}
    assert write_report([tmp_path]).stat().st_size > 50_000
