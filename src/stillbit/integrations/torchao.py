"""torchao: a configuration for its `quantize_`, and tracking of its own fake-quantized layers.

quantize_(model, StillbitConfig("W3A3", example=torch.zeros(1, 3, 224, 224)), filter_fn=whole_model)
Tracking(watched(model)).attach(optimizer)
"""

import re
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor, nn
from torch.nn import Parameter
from torchao.core.config import AOBaseConfig
from torchao.quantization.qat import FakeQuantizedEmbedding, FakeQuantizedLinear, IntxFakeQuantizer
from torchao.quantization.quant_primitives import ZeroPointDomain
from torchao.quantization.transform_module import register_quantize_module_handler

from stillbit.errors import PrepareError
from stillbit.integrations.watching import Watched
from stillbit.numerics.limits import code_limits
from stillbit.prepare import QuantConfig, prepare


@final
@dataclass(frozen=True)
class StillbitConfig(AOBaseConfig):  # type: ignore[misc]  # mypy does not follow the library
    """What `quantize_` does to a model: `stillbit.prepare`.

    `prepare` needs the whole model: it runs the example, and gives first and last layers 8 bits. So `quantize_` needs
    `filter_fn=whole_model`; layers that shall stay as they are belong into the configuration's overrides.

    Args:
        config: Widths and policy, or what `QuantConfig.parse` reads, e.g. "W4A4".
        example: The model's input: a tensor, or a tuple of positional inputs.
    """

    config: QuantConfig | str
    example: Any


def whole_model(module: nn.Module, name: str) -> bool:
    """Return whether a module is the model itself; a `filter_fn` of `quantize_`."""
    del module
    return name == ""


@register_quantize_module_handler(StillbitConfig)  # type: ignore[untyped-decorator]
def _prepare(module: nn.Module, config: StillbitConfig) -> nn.Module:
    """Prepare what `quantize_` gives, in place."""
    if not any(True for _ in module.children()):
        raise PrepareError(
            f"quantize_ gave a single {type(module).__name__}, StillbitConfig needs the whole model; "
            "allowed: filter_fn=stillbit.integrations.torchao.whole_model"
        )
    chosen = QuantConfig.parse(config.config) if isinstance(config.config, str) else config.config
    prepare(module, chosen, example=config.example)
    return module


def watched(model: nn.Module) -> Watched:
    """Return a model as `Tracking` sees it: every fake-quantized linear layer and embedding of torchao with an integer weight.

    Where torchao computes scales of the weight at every step, so does each step of tracking, by torchao itself.

    Args:
        model: A model after `quantize_` with a `QATConfig`.

    Raises:
        PrepareError: If there is none, or one without scales yet, with a zero point that is no integer, or a learned one.
    """
    return Watched(model, _reader, "torchao")


@final
@dataclass(frozen=True)
class _Reader:
    """A fake-quantized layer."""

    layer: Any
    bits: int
    limits: tuple[int, int]
    output_axis: int = 0

    @property
    def parameter(self) -> Parameter:
        """The weight."""
        weight = self.layer.weight
        assert isinstance(weight, Parameter)
        return weight

    def position(self) -> Tensor:
        """Return weight * (1 / scale), which torchao rounds."""
        quantizer = self.layer.weight_fake_quantizer
        if quantizer.config.is_dynamic:
            quantizer(self.parameter)  # leaves the scales of this weight behind
        return self.parameter * (1.0 / self._spread(quantizer.scale))

    def offset(self) -> Tensor | None:
        """Return the zero points, where the grid is asymmetric."""
        quantizer = self.layer.weight_fake_quantizer
        return None if quantizer.config.is_symmetric else self._spread(quantizer.zero_point)

    def _spread(self, of_groups: Tensor) -> Tensor:
        rows, columns = self.parameter.shape
        of_groups = of_groups.reshape(rows, -1)
        return of_groups.repeat_interleave(columns // of_groups.shape[1], dim=1)


def _reader(name: str, layer: nn.Module) -> _Reader | None:
    if not isinstance(layer, FakeQuantizedLinear | FakeQuantizedEmbedding):
        return None
    quantizer = layer.weight_fake_quantizer
    if not isinstance(quantizer, IntxFakeQuantizer) or not quantizer.enabled:
        return None
    config = quantizer.config
    if config.zero_point_domain == ZeroPointDomain.FLOAT or (config.range_learning and not config.is_symmetric):
        raise PrepareError(f"layer {name}: torchao's zero point is not an integer; allowed: symmetric, or a computed integer zero point")
    if not config.is_dynamic and quantizer.scale is None:
        raise PrepareError(f"layer {name}: torchao has no scale for it yet; run a batch, or torchao's initialize_fake_quantizers, first")
    # torch.int4, torch.uint4, or torchao's own names of such
    unsigned, bits = re.search(r"(u?)int(\d+)", str(config.dtype).lower()).groups()  # type: ignore[union-attr]
    return _Reader(layer, int(bits), code_limits(int(bits), signed=not unsigned))
