"""Other libraries on the same W4A4 job, by their documented public interface, calibrated on the same batch.

    pip install -e '.[bench]'

Left out, with what each of them said (torch 2.15, November 2026):
- torchao 0.18: "Module of type Conv2d does not have QAT support". Its graph mode would need a quantizer written for this job, and has no
  learned scales.
- NNCF 3.4: 4 bits are "incompatible with HW capabilities", for each of its target devices.
- optimum-quanto 0.2.7: activations of 4 bits fail: "QBytesTensor can only be of 8-bit qtype".
- neural-compressor-pt 3.10: its configurations quantize after training; none is for training.
- pytorch-quantization 2.2.1: a placeholder on the registry; its successor is nvidia-modelopt, which is here.
- model-compression-toolkit 2.6: not tried; it wants older versions of what other packages here need.
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.speed.networks import Codes, LayerJob, float_model, with_layers
from benchmarks.speed.settings import Settings

Build = Callable[[Settings, Mapping[str, LayerJob], Tensor], nn.Module]


@dataclass(frozen=True)
class Peer:
    """A library that can do the job.

    Attributes:
        name: Its name on the package registry.
        module: The module to import.
        differs: Where it deviates from the job; empty if nowhere.
        build: Returns the network in training mode.
    """

    name: str
    module: str
    differs: str
    build: Build

    def installed(self) -> bool:
        """Return whether it can be imported."""
        return importlib.util.find_spec(self.module) is not None


def brevitas(settings: Settings, job: Mapping[str, LayerJob], images: Tensor) -> nn.Module:
    """Learned scales that start from the layer's statistics; one batch of statistics for inputs (the default is 300)."""
    from brevitas import nn as layers
    from brevitas import quant
    from brevitas.inject.enum import ScalingImplType

    class Weight(quant.Int8WeightPerTensorFloat):
        scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS

    def build(layer: nn.Module, each: LayerJob) -> nn.Module:
        options: dict[str, Any] = {
            "weight_quant": Weight,
            "weight_bit_width": each.weight.bits,
            "bias": getattr(layer, "bias", None) is not None,
        }
        if each.input is not None:
            options["input_quant"] = quant.Int8ActPerTensorFloat if each.input.signed else quant.Uint8ActPerTensorFloat
            options |= {"input_bit_width": each.input.bits, "input_collect_stats_steps": 1}
        if isinstance(layer, nn.Linear):
            made = layers.QuantLinear(layer.in_features, layer.out_features, **options)
        else:
            assert isinstance(layer, nn.Conv2d)
            made = layers.QuantConv2d(
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size,
                stride=layer.stride,
                padding=layer.padding,
                dilation=layer.dilation,
                groups=layer.groups,
                **options,
            )
        made.load_state_dict(layer.state_dict(), strict=False)
        assert isinstance(made, nn.Module)
        return made

    model = with_layers(settings, dict(job), build)
    for _ in range(3):
        model(images)  # past the batch of statistics, so that the timed steps learn the scales
    return model


def modelopt(settings: Settings, job: Mapping[str, LayerJob], images: Tensor) -> nn.Module:
    """Fixed scales from calibration."""
    import modelopt.torch.quantization as mtq

    config: dict[str, Any] = {"default": {"enable": False}}
    for name, each in job.items():
        for kind, codes in (("weight", each.weight), ("input", each.input)):
            if codes is not None:
                config[f"{name}.{kind}_quantizer"] = {"num_bits": codes.bits, "axis": None, "unsigned": not codes.signed}
    model = float_model(settings.cnn, settings)
    made: nn.Module = mtq.quantize(model, {"quant_cfg": config, "algorithm": "max"}, forward_loop=lambda given: given(images))
    return made.train()


def aimet(settings: Settings, job: Mapping[str, LayerJob], images: Tensor) -> nn.Module:
    """Learned ranges."""
    from aimet_torch.nn import QuantizationMixin
    from aimet_torch.quantization.affine import QuantizeDequantize

    def quantizer(codes: Codes) -> nn.Module:
        made = QuantizeDequantize((), bitwidth=codes.bits, symmetric=codes.signed)
        made.set_range(codes.low * codes.scale, codes.high * codes.scale)
        return made

    def build(layer: nn.Module, each: LayerJob) -> nn.Module:
        made: Any = QuantizationMixin.from_module(layer)
        made.input_quantizers[0] = None if each.input is None else quantizer(each.input)
        made.param_quantizers["weight"] = quantizer(each.weight)
        assert isinstance(made, nn.Module)
        return made

    del images
    return with_layers(settings, dict(job), build)


def mqbench(settings: Settings, job: Mapping[str, LayerJob], images: Tensor) -> nn.Module:
    """LSQ by its "academic" backend, which itself uses 8 bits in the first and last layer."""
    from mqbench.prepare_by_platform import BackendType, prepare_by_platform
    from mqbench.utils.state import enable_calibration, enable_quantization

    del job
    bits = {"bit": 4, "per_channel": False, "pot_scale": False}
    options = {
        "w_observer": "MinMaxObserver",
        "a_observer": "EMAMinMaxObserver",
        "w_fakequantize": "LearnableFakeQuantize",
        "a_fakequantize": "LearnableFakeQuantize",
        "w_qscheme": {**bits, "symmetry": True},
        "a_qscheme": {**bits, "symmetry": False},
    }
    model = float_model(settings.cnn, settings)
    made: nn.Module = prepare_by_platform(model, BackendType.Academic, {"extra_qconfig_dict": options})
    made.train()
    enable_calibration(made)
    with torch.no_grad():
        made(images)
    enable_quantization(made)
    return made


PEERS = (
    Peer("brevitas", "brevitas", "", brevitas),
    Peer("mqbench-torch2", "mqbench", "zero points are learned too; the first layer's input is quantized too", mqbench),
    Peer("aimet-torch", "aimet_torch", "smallest and largest value are learned, not the scale", aimet),
    Peer("nvidia-modelopt", "modelopt", "scales are fixed, not learned", modelopt),
)
