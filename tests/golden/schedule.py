"""Golden schedules (docs/spec/cnn.md, 6): the cosine of the published code, and both methods' annealing by it."""

import torch

from stillbit.schedules import Cosine
from tests.golden.case import Case, close


def check_schedule(case: Case) -> dict[str, float]:
    errors: dict[str, float] = {}
    for index, setting in enumerate(case.config["cases"]):
        start, end, steps, begin = (setting[key] for key in ("start", "end", "t_max", "rel_decay_start"))
        published = Cosine(start, end, steps, begin=begin, published=True)
        threshold = Cosine(start, end, steps, begin=begin, before=0.0)
        series = {
            "schedule_t0_to_tmax_plus5": [published(step) for step in range(steps + 6)],
            "dampening_weight_iter1_to_tmax": [Cosine(start, end, steps, begin=begin)(step) for step in range(1, steps + 1)],
            "freeze_threshold_iter1_to_tmax": [threshold(step) for step in range(1, steps + 1)],
        }
        for name, values in series.items():
            wanted = case.tensors[f"case{index}.{name}"]
            error = close(torch.tensor(values, dtype=torch.float64), wanted, 1e-12, name, floor=1.0)
            errors[name] = max(errors.get(name, 0.0), error)
    return errors
