"""Export: a trained network as files that other programs read and run."""

from stillbit.export.capture import capture as capture
from stillbit.export.exported import export_program as export_program
from stillbit.export.layers import LayerInfo as LayerInfo
from stillbit.export.layers import layers_of as layers_of
from stillbit.export.onnx import export_onnx as export_onnx
from stillbit.export.packed import PackedModel as PackedModel
from stillbit.export.packed import load_packed as load_packed
from stillbit.export.packer import export_packed as export_packed
from stillbit.export.program import Program as Program
