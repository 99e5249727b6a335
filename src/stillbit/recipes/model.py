"""The float network that a recipe names, with the weights that it names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from stillbit.errors import CheckpointError, RecipeError, nearest


@dataclass(frozen=True)
class ModelConfig:
    """A network and where its float weights come from.

    Args:
        name: Name of the network at its source.
        source: `timm`, `torchvision`, or `stillbit`, whose one network is `small_mobilenet`.
        weights: `pretrained` (fetched by the source), `random`, or the path of a file: safetensors, or torch's own
            format with nothing but tensors in it. `torchvision` also takes a name of its own: `IMAGENET1K_V1`.
        num_classes: Width of the classifier; None means as many as the data has. A pretrained classifier of another
            width is replaced by a random one.
        drop_path: Whether training leaves out whole branches at random, as often as the network has it from its source; false for never.
        arguments: What else `timm.create_model` is given, by name: `img_size: 384`, `depth: 6`.
    """

    name: str
    source: Literal["timm", "torchvision", "stillbit"] = "timm"
    weights: str = "pretrained"
    num_classes: int | None = None
    drop_path: bool = True
    arguments: dict[str, int | float | bool | str | tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.source == "stillbit" and self.weights == "pretrained":
            raise RecipeError("weights is 'pretrained'; allowed: random, or a file (stillbit ships no weights)")
        if self.num_classes is not None and self.num_classes < 1:
            raise RecipeError(f"num_classes is {self.num_classes}; allowed: 1 or more")
        if self.arguments and self.source != "timm":
            raise RecipeError(f"arguments is {self.arguments} with source {self.source}; allowed: with timm")


def build_model(config: ModelConfig, *, num_classes: int, channels: int) -> nn.Module:
    """Build the float network and give it its weights."""
    width = config.num_classes or num_classes
    model = _SOURCES[config.source](config, width, channels)
    if not config.drop_path:
        _keep_all_branches(model)
    if _is_file(config):
        load_weights(model, Path(config.weights))
    return model


def pretrained_classes(config: ModelConfig) -> int | None:
    """Return the number of classes of the classifier that a source's own weights come with; nothing is fetched."""
    if config.weights == "random" or _is_file(config):
        return None
    if config.source == "timm":
        import timm

        known = timm.get_pretrained_cfg(config.name) if timm.is_model(config.name.partition(".")[0]) else None
        return None if known is None else int(known.num_classes)
    from torchvision import models

    if config.name not in models.list_models(module=models):
        return None
    named = models.get_model_weights(config.name)
    weights = named.DEFAULT if config.weights == "pretrained" else named[config.weights]
    return len(weights.meta["categories"])


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict from a file, strictly."""
    state = _read_state_dict(path)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:  # torch lists every key, line by line
        _, *problems = str(error).splitlines()
        shown = " ".join(problems[0].split()) if problems else str(error)
        shown = shown if len(shown) <= 200 else shown[:200] + " ..."
        raise CheckpointError(f"weights {path} belong to another network than {type(model).__name__}: {shown}") from None


def _read_state_dict(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"weights {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"weights {path}: cut or damaged ({type(error).__name__})") from None
    except Exception as error:  # pickle has its own errors; torch's text for code in the file is long
        raise CheckpointError(f"weights {path}: not a file of tensors alone ({type(error).__name__})") from None
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"weights {path}: holds a {type(content).__name__}; allowed: a state dict")
    return content


def _from_timm(config: ModelConfig, num_classes: int, channels: int) -> nn.Module:
    import timm

    base = config.name.partition(".")[0]  # after the dot: which of its pretrained weights
    if not timm.is_model(base):
        raise RecipeError(f"model.name: timm has no '{base}'{_meant(base, timm.list_models())}")
    pretrained = config.weights == "pretrained"
    arguments = {"num_classes": num_classes, "in_chans": channels, **config.arguments}
    try:
        model: nn.Module = _fetch(config, lambda: timm.create_model(config.name, pretrained, **arguments))
    except TypeError as error:  # an argument that the network does not have
        raise RecipeError(f"model.arguments of '{config.name}': {error}") from None
    return model


def _from_torchvision(config: ModelConfig, num_classes: int, channels: int) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if config.name not in known:
        raise RecipeError(f"model.name: torchvision has no '{config.name}'{_meant(config.name, known)}")
    if channels != 3:
        raise RecipeError(f"data.channels is {channels}; allowed: 3 (networks of torchvision take RGB images)")
    if config.weights == "random" or _is_file(config):
        random: nn.Module = models.get_model(config.name, num_classes=num_classes)
        return random
    weights = "DEFAULT" if config.weights == "pretrained" else config.weights
    model: nn.Module = _fetch(config, lambda: models.get_model(config.name, weights=weights))
    _fit_classifier(model, num_classes)
    return model


def _from_stillbit(config: ModelConfig, num_classes: int, channels: int) -> nn.Module:
    from stillbit.recipes.small_mobilenet import small_mobilenet

    if config.name != "small_mobilenet":
        raise RecipeError(f"model.name: stillbit has no '{config.name}'; allowed: small_mobilenet")
    return small_mobilenet(num_classes, channels)


_SOURCES: dict[str, Callable[[ModelConfig, int, int], nn.Module]] = {
    "timm": _from_timm,
    "torchvision": _from_torchvision,
    "stillbit": _from_stillbit,
}


def _is_file(config: ModelConfig) -> bool:
    if config.weights in ("pretrained", "random"):
        return False
    if config.source != "torchvision":
        return True
    from torchvision import models

    return config.weights not in models.get_model_weights(config.name).__members__


def _fetch(config: ModelConfig, build: Callable[[], Any]) -> Any:
    try:
        return build()
    except (OSError, RuntimeError) as error:  # no network, no such file at the other end, no such weights
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"model.weights: those of '{config.name}' cannot be fetched from {config.source}: {reason}") from error


def _keep_all_branches(model: nn.Module) -> None:
    from timm.layers import DropPath
    from torchvision.ops import StochasticDepth

    for module in model.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
        elif isinstance(module, StochasticDepth):
            module.p = 0.0


def _fit_classifier(model: nn.Module, num_classes: int) -> None:
    name, last = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    if last.out_features != num_classes:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, nn.Linear(last.in_features, num_classes))


def _meant(given: str, known: list[str]) -> str:
    # Not the whole list: there are over a thousand.
    said = nearest(given, known)
    return said if "did you mean" in said else f"; allowed: the {len(known)} names that it lists"
