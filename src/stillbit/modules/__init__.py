"""Quantized layers: the float layer with a quantizer before its input and one around its weight."""

from stillbit.modules.adopt import adopt as adopt
from stillbit.modules.conv import QuantConv1d as QuantConv1d
from stillbit.modules.conv import QuantConv2d as QuantConv2d
from stillbit.modules.conv import QuantConvTranspose1d as QuantConvTranspose1d
from stillbit.modules.conv import QuantConvTranspose2d as QuantConvTranspose2d
from stillbit.modules.linear import QuantLinear as QuantLinear
