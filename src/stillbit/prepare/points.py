"""Where a model's outputs can be quantized: the table of points, applied to the modules of one model."""

from collections.abc import Collection
from dataclasses import dataclass, field

from torch import nn

from stillbit.prepare.graph import Graph
from stillbit.prepare.points_table import Feeds, Input, Join, Layer, Point, table_entry


@dataclass(frozen=True)
class Place:
    """A point in a model.

    Attributes:
        module: Full name of a module.
        before: Whether the module's input is meant, rather than its output.
    """

    module: str
    before: bool = False


@dataclass(frozen=True)
class LayerOutput:
    """The output of one layer.

    Attributes:
        place: Where it is final: behind norm and activation.
        activation: Full name of the activation between norm and `place`; None where the table knows of none.
        summed: Whether a sum reads it.
        max_pooled: Whether a max pool reads it.
    """

    place: Place
    activation: str | None
    summed: bool
    max_pooled: bool


@dataclass(frozen=True)
class Points:
    """All points of a model.

    Attributes:
        layers: Outputs of layers, by the layer's name.
        joins: Blocks that end in a sum or a product, by name.
        pooled: Layers whose input is an average pool's output.
    """

    layers: dict[str, LayerOutput] = field(default_factory=dict)
    joins: dict[str, Join] = field(default_factory=dict)
    pooled: set[str] = field(default_factory=set)


def find_points(model: nn.Module, layers: Collection[str]) -> Points:
    """Look every module up in the table."""
    points = Points()
    for name, module in model.named_modules():
        entry = table_entry(module)
        if entry is None or not all(_does_nothing(module, path) for path in entry.identities):
            continue
        joined = entry.join is not None and (entry.join_if is None or bool(getattr(module, entry.join_if)))
        if entry.join is not None and joined:
            points.joins[name] = entry.join
        for layer in entry.layers:
            full_name = _resolve(name, module, layer.path)
            if full_name is not None and full_name in layers:
                points.layers[full_name] = _layer_output(name, module, layer, summed=joined and layer.feeds is Feeds.SUM)
        pooled = (_resolve(name, module, path) for path in entry.pooled)
        points.pooled.update(full_name for full_name in pooled if full_name is not None and full_name in layers)
    return points


def preceding_places(points: Points, layers: Collection[str], graph: Graph) -> dict[str, Place]:
    """Return, for each layer, the place that was passed last before the layer's first call.

    An average pool reads the tensor of this place if it stands between the two; so does the layer itself if nothing does.
    """
    places = {output.place for output in points.layers.values()} | {Place(block) for block in points.joins}
    times = [(visit.entered if before else visit.left, Place(visit.module, before)) for visit in graph.visits for before in (True, False)]
    passed = sorted(((time, place) for time, place in times if place in places), key=lambda one: one[0])
    preceding: dict[str, Place] = {}
    for layer in graph.order(layers):
        first = next(visit.entered for visit in graph.visits if visit.module == layer)
        earlier = [place for time, place in passed if time < first]
        if earlier:
            preceding[layer] = earlier[-1]
    return preceding


def _layer_output(name: str, block: nn.Module, layer: Layer, *, summed: bool) -> LayerOutput:
    activation = None if layer.activation is None else _resolve(name, block, layer.activation)
    return LayerOutput(_place(name, block, layer.point), activation, summed, layer.feeds is Feeds.MAX_POOL)


def _place(name: str, block: nn.Module, point: Point) -> Place:
    full_name = _resolve(name, block, point.module)
    assert full_name is not None, f"the table's point {point} does not exist in {type(block).__name__} {name}"
    return Place(full_name, isinstance(point, Input))


def _does_nothing(block: nn.Module, path: str) -> bool:
    return isinstance(getattr(block, path, None), nn.Identity | None)


def _resolve(name: str, block: nn.Module, path: str) -> str | None:
    """Return the full name of a module by its path in the block, or None where the block lacks it."""
    module, names = block, [name] if name else []
    for part in path.split(".") if path else []:
        children = list(module._modules)
        child = part
        if part.lstrip("-").isdigit():
            index = int(part)
            child = children[index] if -len(children) <= index < len(children) else ""
        found = module._modules.get(child)
        if found is None:
            return None
        module = found
        names.append(child)
    return ".".join(names)
