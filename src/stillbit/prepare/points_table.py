"""Where the outputs of layers and blocks are quantized: one literal table, from exact class names to points.

A quantizer of an output stands at one of three points:

    Output("bn1")    (a) the output of a module that is used once: the layer's norm or activation
    Input("conv2")   (b) the input of the only consumer, where (a) does not exist (an activation called twice, a functional one)
    Output("")       (c) the output of the block: its sum or product

The table names classes by text, so that reading it imports neither timm nor torchvision. Paths are attribute names; a number
counts the children of a container, negative from its end. A layer that a model lacks (an identity, or None) is passed over.
"""

from dataclasses import dataclass
from enum import Enum

from torch import nn


@dataclass(frozen=True)
class Output:
    """The output of a module, by its path in the block; "" is the block itself."""

    module: str


@dataclass(frozen=True)
class Input:
    """The input of a module, by its path in the block."""

    module: str


Point = Output | Input


class Join(Enum):
    """How a block joins two branches at its end."""

    SUM = "sum"
    PRODUCT = "product"


class Feeds(Enum):
    """What reads a layer's output besides layers: the block's sum if it has one, or a max pool. Average pools: `Block.pooled`."""

    SUM = "sum"
    MAX_POOL = "max pool"


@dataclass(frozen=True)
class Layer:
    """A layer of a block, and where its output is quantized.

    Attributes:
        path: The layer.
        point: Where its output is final: behind norm and activation.
        activation: The activation between norm and `point`; None where there never is one, or it is a ReLU.
        feeds: What reads the output besides layers.
    """

    path: str
    point: Point
    activation: str | None = None
    feeds: Feeds | None = None


@dataclass(frozen=True)
class Block:
    """A class of modules in which outputs are quantized.

    Attributes:
        layers: Its own layers; those of blocks inside it belong to these.
        join: What it computes at its end from two branches; None: nothing.
        join_if: The attribute that says whether it does; None: always.
        pooled: Layers that read an average pool, which gives back the grid of the tensor that was pooled.
        identities: Modules that must do nothing, else the entry does not describe the block.
    """

    layers: tuple[Layer, ...] = ()
    join: Join | None = None
    join_if: str | None = None
    pooled: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()


_BLOCKS = "timm.models._efficientnet_blocks."
_SPACE_TO_DEPTH = Layer("conv_s2d", Output("bn_s2d"), activation="bn_s2d.act")
_SHORTCUT = Layer("downsample.0", Output("downsample.1"), feeds=Feeds.SUM)
_STEM = Layer("conv_stem", Output("bn1"), activation="bn1.act")

TABLE: dict[str, Block] = {
    # ---- timm: MobileNetV2, MobileNetV3, EfficientNet and their lite forms
    _BLOCKS + "ConvBnAct": Block(
        layers=(Layer("conv", Output("bn1"), activation="bn1.act", feeds=Feeds.SUM),),
        join=Join.SUM,
        join_if="has_skip",
        identities=("aa",),
    ),
    _BLOCKS + "DepthwiseSeparableConv": Block(
        layers=(
            _SPACE_TO_DEPTH,
            Layer("conv_dw", Output("bn1"), activation="bn1.act"),
            Layer("conv_pw", Output("bn2"), activation="bn2.act", feeds=Feeds.SUM),
        ),
        join=Join.SUM,
        join_if="has_skip",
        identities=("aa",),
    ),
    _BLOCKS + "InvertedResidual": Block(
        layers=(
            _SPACE_TO_DEPTH,
            Layer("conv_pw", Output("bn1"), activation="bn1.act"),
            Layer("conv_dw", Output("bn2"), activation="bn2.act"),
            Layer("conv_pwl", Output("bn3"), feeds=Feeds.SUM),
        ),
        join=Join.SUM,
        join_if="has_skip",
        identities=("aa",),
    ),
    _BLOCKS + "EdgeResidual": Block(
        layers=(
            Layer("conv_exp", Output("bn1"), activation="bn1.act"),
            Layer("conv_pwl", Output("bn2"), feeds=Feeds.SUM),
        ),
        join=Join.SUM,
        join_if="has_skip",
        identities=("aa",),
    ),
    _BLOCKS + "SqueezeExcite": Block(
        layers=(
            Layer("conv_reduce", Output("act1"), activation="act1"),
            Layer("conv_expand", Output("gate"), activation="gate"),
        ),
        join=Join.PRODUCT,
        pooled=("conv_reduce",),
    ),
    "timm.models.efficientnet.EfficientNet": Block(
        layers=(
            _STEM,
            Layer("conv_head", Output("bn2"), activation="bn2.act"),
            Layer("classifier", Output("classifier")),
        ),
        pooled=("classifier",),
    ),
    "timm.models.mobilenetv3.MobileNetV3": Block(
        layers=(
            _STEM,
            Layer("conv_head", Output("act2"), activation="act2"),
            Layer("classifier", Output("classifier")),
        ),
        pooled=("conv_head",),
    ),
    # ---- timm: ResNet
    "timm.models.resnet.BasicBlock": Block(
        layers=(
            Layer("conv1", Output("act1"), activation="act1"),
            Layer("conv2", Output("bn2"), feeds=Feeds.SUM),
            _SHORTCUT,
        ),
        join=Join.SUM,
        identities=("aa",),
    ),
    "timm.models.resnet.Bottleneck": Block(
        layers=(
            Layer("conv1", Output("act1"), activation="act1"),
            Layer("conv2", Output("act2"), activation="act2"),
            Layer("conv3", Output("bn3"), feeds=Feeds.SUM),
            _SHORTCUT,
        ),
        join=Join.SUM,
        identities=("aa",),
    ),
    "timm.models.resnet.ResNet": Block(
        layers=(
            Layer("conv1", Output("act1"), activation="act1", feeds=Feeds.MAX_POOL),
            Layer("fc", Output("fc")),
        ),
        pooled=("fc",),
    ),
    # ---- torchvision: MobileNetV2 and MobileNetV3, whose convolutions with norm are a class of their own
    "torchvision.ops.misc.Conv2dNormActivation": Block(layers=(Layer("0", Output("-1"), activation="2"),)),
    "torchvision.ops.misc.SqueezeExcitation": Block(
        layers=(
            Layer("fc1", Output("activation"), activation="activation"),
            Layer("fc2", Output("scale_activation"), activation="scale_activation"),
        ),
        join=Join.PRODUCT,
        pooled=("fc1",),
    ),
    "torchvision.models.mobilenetv2.InvertedResidual": Block(
        layers=(Layer("conv.-2", Output("conv.-1"), feeds=Feeds.SUM),),
        join=Join.SUM,
        join_if="use_res_connect",
    ),
    "torchvision.models.mobilenetv2.MobileNetV2": Block(
        layers=(Layer("classifier.-1", Output("classifier.-1")),),
        pooled=("classifier.-1",),
    ),
    "torchvision.models.mobilenetv3.InvertedResidual": Block(join=Join.SUM, join_if="use_res_connect"),
    "torchvision.models.mobilenetv3.MobileNetV3": Block(
        layers=(
            Layer("classifier.0", Output("classifier.1"), activation="classifier.1"),
            Layer("classifier.-1", Output("classifier.-1")),
        ),
        pooled=("classifier.0",),
    ),
    # ---- torchvision: ResNet, whose blocks call one ReLU two or three times
    "torchvision.models.resnet.BasicBlock": Block(
        layers=(
            Layer("conv1", Input("conv2")),
            Layer("conv2", Output("bn2"), feeds=Feeds.SUM),
            _SHORTCUT,
        ),
        join=Join.SUM,
    ),
    "torchvision.models.resnet.Bottleneck": Block(
        layers=(
            Layer("conv1", Input("conv2")),
            Layer("conv2", Input("conv3")),
            Layer("conv3", Output("bn3"), feeds=Feeds.SUM),
            _SHORTCUT,
        ),
        join=Join.SUM,
    ),
    "torchvision.models.resnet.ResNet": Block(
        layers=(
            Layer("conv1", Output("relu"), feeds=Feeds.MAX_POOL),
            Layer("fc", Output("fc")),
        ),
        pooled=("fc",),
    ),
}


def table_entry(module: nn.Module) -> Block | None:
    """Return the entry of a module's exact class, or None."""
    kind = type(module)
    return TABLE.get(f"{kind.__module__}.{kind.__qualname__}")
