"""Golden modules of the ViT paper's code (docs/spec/vit.md, 3 and 4), as timm's or torchvision's modules, filled by interop."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Attention
from torch import Tensor, nn
from torchvision.models.swin_transformer import PatchMerging, ShiftedWindowAttention
from torchvision.ops import MLP

from stillbit.interop import ImportReport, load_published
from stillbit.modules.shift import Shifted
from stillbit.prepare import Override, QuantConfig, calibrate, prepare
from stillbit.quantizers import Quantizer
from tests.golden.case import Case, floored, within

_EXACT = {"atol": 1e-9, "rtol": 1e-9}  # docs/spec/vit.md, 10, float64
_STORED = 1e-6  # of the largest entry: what was stored with float32's rounding (docs/spec/vit.md, 10)
_LARGE = 300  # elements from which on gradients were
_NEGATIVE_BELOW = -1e-5  # docs/spec/vit.md, 2.2
_DEAD = ("move_qkx_aft.bias", "move_k_aft.bias")


def check_module(case: Case) -> dict[str, float]:
    """Compare calibrated scales and their output; then, with the golden state, output, gradients and intermediates."""
    part, layer = _PARTS[case.config["op"]](case.config)
    model = _prepared(case, part, layer)
    x = case.tensors["x"].clone().requires_grad_()
    state = {_key(part, name): tensor for name, tensor in case.tensors.items() if name.startswith("sd.")}
    state |= {"before.weight": model.before.weight} if hasattr(model, "before") else {}
    report = load_published(model, state)  # for the names; and the weights, from which scales follow
    errors = _check_calibration(case, part, model, report)
    load_published(model, state)
    _latch_sign(model.get_submodule(part), x)
    seen = _Watch(case, model.get_submodule(part))
    output = model(x)
    output.backward(case.tensors["g"])
    errors |= {"y": within(output, case.tensors["y"], "y", **_EXACT), "dx": within(x.grad, case.tensors["dx"], "dx", **_EXACT)}
    return errors | _check_gradients(case, part, model, report) | seen.check()


def _check_calibration(case: Case, part: str, model: nn.Module, report: ImportReport) -> dict[str, float]:
    """Calibrate with the biases at zero, as they are at first, and compare scales and output."""
    zero_shifts(model)
    calibrate(model, [case.tensors["x"]])
    errors = {"init": 0.0}
    for name, wanted in case.tensors.items():
        if name.startswith("init."):
            errors["init"] = max(errors["init"], compare_calibrated(report, _key(part, name), model, wanted, name))
    with torch.no_grad():
        errors["y_init"] = stored(model(case.tensors["x"]), case.tensors["y_init"], "y_init")
    return errors


def _check_gradients(case: Case, part: str, model: nn.Module, report: ImportReport) -> dict[str, float]:
    largest: dict[str, float] = {}
    for name, wanted in case.tensors.items():
        key = _key(part, name)
        if name.startswith("grad.") and not is_dead(key):
            kind = "gradients (stored as float32)" if wanted.numel() > _LARGE else "gradients"
            error = compare(report, key, lambda ours: model.get_parameter(ours).grad, wanted, name)
            largest[kind] = max(largest.get(kind, 0.0), error)
    return largest


def _key(part: str, name: str) -> str:
    """Return the published key of e.g. `sd.weight` in a network of which the module is a part."""
    key = name.partition(".")[2]
    return key if key.startswith(f"{part}.") else f"{part}.{key}"


def compare(report: ImportReport, key: str, ours: Callable[[str], Tensor], wanted: Tensor, name: str) -> float:
    """Compare a tensor by a published key with ours, in the part and order that the import has found for it."""
    targets = report.placed[key]
    pieces = wanted.chunk(len(targets)) if len(targets) > 1 else (wanted,)
    found = [target.part_of(ours(target.name)) for target in targets]
    given, expected = (torch.cat([one.flatten() for one in several]) for several in (found, pieces))
    return stored(given, expected, name) if wanted.numel() > _LARGE else within(given, expected, name, **_EXACT)


def compare_calibrated(report: ImportReport, key: str, model: nn.Module, wanted: Tensor, name: str) -> float:
    """Compare what calibration has found, scales from their floor up."""
    state = model.state_dict()
    return compare(report, key, lambda ours: floored(state[ours]), floored(wanted), name)


def is_dead(key: str) -> bool:
    """Whether a published key is a bias that changes nothing, whose gradient is the rounding of zero (docs/spec/vit.md, 4.3)."""
    return key.endswith(_DEAD)


def stored(given: Tensor, wanted: Tensor, name: str) -> float:
    return within(given, wanted, name, atol=_STORED * float(wanted.abs().max()), rtol=0.0)


def model_tensor(model: nn.Module) -> Callable[[str], Tensor]:
    """Return a function from our names to tensors of the model."""
    return dict(model.state_dict()).__getitem__


class _Watch:
    """Keeps what passes the places that the golden files call `mid`."""

    def __init__(self, case: Case, part: nn.Module) -> None:
        self._case, self._part = case, part
        self._seen: dict[str, Tensor] = {}
        for name in case.tensors:
            if name.startswith("mid."):
                published, _, end = name.removeprefix("mid.").rpartition(".")
                module = part.get_submodule(_MIDDLE[published])
                module.register_forward_hook(partial(self._note, name, end == "in"))

    def _note(self, name: str, before: bool, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, Quantizer) and len(inputs) == 3:  # published values are those before the shift behind them
            inputs, output = (module.latent(*inputs[:2]),), module.forward(*inputs[:2])
        self._seen[name] = (inputs[0] if before else output).detach()

    def check(self) -> dict[str, float]:
        largest = {}
        for name, given in self._seen.items():
            wanted = self._case.tensors[name]
            if wanted.dim() == 4 and given.dim() == 3:  # queries and keys, ours before they are split into heads
                given = given.view(*given.shape[:2], wanted.shape[1], -1).transpose(1, 2)
            largest[name] = stored(given.reshape(wanted.shape), wanted, name)
        return {"intermediates": max(largest.values())} if largest else {}


_MIDDLE = {
    "quant_x_4_qkv": "products.input_quantizer",
    "qk_quant": "products.product_quantizer",
    "quan_a_qkx_fn": "products.key_quantizer.quantizer",
    "quan_a_q_fn": "products.query_quantizer.quantizer",
    "quan_a_k_fn": "products.key_quantizer.quantizer",
    "quan_a_v_fn": "products.value_quantizer.quantizer",
    "quan_a_softmax_fn": "products.probability_quantizer",
    "proj": "proj",
    "fc1": "fc1",
}


def _prepared(case: Case, part: str, layer: nn.Module) -> nn.Module:
    """Prepare a module alone, at the case's widths, where it would be a first and last layer."""
    config = case.config
    model = nn.Sequential(OrderedDict([(part, layer)]))
    if isinstance(layer, ShiftedWindowAttention):  # calls no layer; one that changes nothing, in full precision, shall be called
        model = nn.Sequential(OrderedDict([("before", _nothing(config["dim"])), (part, layer)]))
    model.double()
    widths = (Override("*", config["bits_w"], config["bits_a"]),)
    if hasattr(model, "before"):
        widths += (Override("before", 32),)
    settings = {"attention": _ATTENTION.get(config["op"], "float"), "quantizer": "lsq" if config["op"] == "QAttention_lsq" else "statsq"}
    bits = f"W{config['bits_w']}A{config['bits_a']}"
    prepare(model, QuantConfig.for_vit(bits, published=True, overrides=widths, **settings), example=case.tensors["x"])
    model.double()
    if not config.get("act_signed", True):
        quantizer = model.get_submodule(part).input_quantizer.quantizer
        quantizer.range_config = replace(quantizer.range_config, signed=False)
    return model


def _nothing(width: int) -> nn.Module:
    layer = nn.Linear(width, width, bias=False)
    nn.init.eye_(layer.weight)
    return layer


def _latch_sign(part: nn.Module, x: Tensor) -> None:
    """Set by hand what the published image quantizer does in forward: a negative pixel makes it signed, without another scale."""
    if isinstance(part, nn.Conv2d) and bool((x + part.input_quantizer.before).min() < _NEGATIVE_BELOW):
        part.input_quantizer.quantizer.mark_calibrated(signed=True)


@torch.no_grad()
def zero_shifts(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Shifted):
            for parameter in module.parameters(recurse=False):
                parameter.zero_()


_ATTENTION = {
    "QAttention": "plain",
    "QAttention_lsq": "plain",
    "QAttention_qkreparam": "qkr",
    "QAttention_qkreparam_4_cga": "qkr",
    "swin_attention_plain": "plain",
    "swin_attention_qkr": "qkr",
    "swin_attention_cga": "qkr",
}


def _linear(config: dict) -> tuple[str, nn.Module]:
    # Of all linear layers, the published code gives an unsigned input to `fc2` alone.
    return ("proj" if config["act_signed"] else "fc2"), nn.Linear(config["din"], config["dout"], bias=config["fp_bias"])


def _swin_attention(config: dict) -> tuple[str, nn.Module]:
    return "attn", ShiftedWindowAttention(config["dim"], list(config["window"]), list(config["shift"]), config["heads"])


_PARTS: dict[str, Callable[[dict], tuple[str, nn.Module]]] = {
    "QLinear": _linear,
    "LSQ_QLinear4head": lambda config: ("head", nn.Linear(config["din"], config["dout"])),
    "LSQ_QConv2d": lambda config: ("proj", nn.Conv2d(config["cin"], config["cout"], config["patch"], config["patch"])),
    "QMLP": lambda config: ("mlp", Mlp(config["dim"], config["hidden"])),
    "QMLP_swin": lambda config: ("mlp", MLP(config["dim"], [config["hidden"], config["dim"]], activation_layer=nn.GELU, inplace=None)),
    "PatchMerging+QLinear reduction": lambda config: ("merge", PatchMerging(config["dim"])),
    "QAttention": lambda config: ("attn", Attention(config["dim"], config["heads"], qkv_bias=True)),
    "QAttention_lsq": lambda config: ("attn", Attention(config["dim"], config["heads"], qkv_bias=True)),
    "QAttention_qkreparam": lambda config: ("attn", Attention(config["dim"], config["heads"], qkv_bias=True)),
    "QAttention_qkreparam_4_cga": lambda config: ("attn", Attention(config["dim"], config["heads"], qkv_bias=True)),
    "swin_attention_plain": _swin_attention,
    "swin_attention_qkr": _swin_attention,
    "swin_attention_cga": _swin_attention,
}
