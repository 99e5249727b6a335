"""Golden quantizers of the ViT paper's code (docs/spec/vit.md, 1 and 2): StatsQ and LSQ, one forward and backward pass at a time."""

import pytest
import torch
from torch import Tensor

from stillbit.errors import PrepareError
from stillbit.numerics.ranges import RangeConfig
from stillbit.quantizers import LSQ, StatsQ
from tests.golden.case import Case, equal, floored, within

_FLOAT32 = {"atol": 2e-6, "rtol": 1e-5}  # docs/spec/vit.md, 10: the published outputs are up to one rounding off their grid
_SCALE_AXES = {  # of the published classes (docs/spec/vit.md, 2.2)
    "LsqQuantizerWeight": 0,
    "LsqQuantizer4Conv2d": 0,
    "LsqQuantizer": -2,
    "LsqQuantizer4v": -1,
    "LsqQuantizer4img": 1,
    "LsqQuantizer_only_headwise": 1,
    "LsqQuantizer4head_input": None,
}


def check_statsq(case: Case) -> dict[str, float]:
    """Compare scale, values and gradient; where the published code gives NaN, a row of zeros, ask for finite numbers."""
    x = case.tensors["x"].clone().requires_grad_()
    quantizer = StatsQ(case.config["bits"], tuple(case.config["scale_shape"]))
    output = quantizer(x)
    output.backward(case.tensors["g"])
    assert output.isfinite().all()
    known = case.tensors["y"].isfinite()
    scale = quantizer.grid(x).scale * 2 ** (case.config["bits"] - 1)  # the published scale is half the grid's width
    some = (case.tensors["scale"] > 0).expand_as(scale)
    assert bool((some.expand_as(x) == known).all())
    return {
        "scale": within(scale[some], case.tensors["scale"][some], "scale", **_FLOAT32),
        "y": within(output[known], case.tensors["y"][known], "y", **_FLOAT32),
        "dx": equal(x.grad[known], case.tensors["dx"][known], "dx"),
        "dx, row of zeros": equal(x.grad, case.tensors["g"], "dx"),
    }


def check_lsq(case: Case) -> dict[str, float]:
    """Calibrate by the first batch, then compare a pass with other scales; a sign that the published code latches is set by hand."""
    if case.config["bits"] == 1 and not case.config["all_positive"]:  # the published code gives the latent no gradient
        with pytest.raises(PrepareError, match="1 bit and signed latents"):
            published_lsq(case)
        return {"refused": 0.0}
    quantizer = published_lsq(case)
    errors = {
        "s_init": within(floored(quantizer.scale), floored(case.tensors["s_init"]), "s_init", **_FLOAT32),
        "y0": within(quantizer(case.tensors["x0"]), case.tensors["y0"], "y0", **_FLOAT32),
    }
    assert quantizer.limits == (case.config["thd_neg_at_init"], case.config["thd_pos_at_init"])
    quantizer.mark_calibrated(signed=case.config["thd_neg"] < 0)
    assert quantizer.limits == (case.config["thd_neg"], case.config["thd_pos"])
    place_scale(quantizer, case.tensors["s"])
    x = case.tensors["x"].clone().requires_grad_()
    output = quantizer(x)
    output.backward(case.tensors["g"])
    found = {"y": output, "dx": x.grad, "ds": quantizer.scale.grad}
    return errors | {name: within(given, case.tensors[name], name, **_FLOAT32) for name, given in found.items()}


def published_lsq(case: Case) -> LSQ:
    """Build the quantizer of a published class, its range found from the first batch."""
    config, x = case.config, case.tensors["x0"]
    axis = _SCALE_AXES[config["ref_class"]] if config["per_channel"] else None
    shape = [1] * x.dim()
    if axis is not None:
        shape[axis] = x.shape[axis]
    quantizer = LSQ(config["bits"], tuple(shape), ste_range="position", scale_gradient="lsq", published=True)
    signed = None if config["ref_class"] == "LsqQuantizer4img" else not config["all_positive"]
    quantizer.range_config = RangeConfig(estimator="mean_magnitude", signed=signed)
    channel_axis = None if axis is None else axis % x.dim()
    quantizer.set_range(*quantizer.range_config.build(symmetric=True, bits=config["bits"], channel_axis=channel_axis).update(x))
    return quantizer


@torch.no_grad()
def place_scale(quantizer: LSQ, scale: Tensor) -> None:
    quantizer.scale.copy_(scale.reshape(quantizer.scale_shape))
