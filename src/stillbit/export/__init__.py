"""Export: a trained network as files that other programs read and run."""

from stillbit.export.capture import capture as capture
from stillbit.export.findings import Bounds as Bounds
from stillbit.export.findings import Verification as Verification
from stillbit.export.inspect import Inspection as Inspection
from stillbit.export.inspect import inspect as inspect
from stillbit.export.layers import LayerInfo as LayerInfo
from stillbit.export.layers import layers_of as layers_of
from stillbit.export.onnx_file import export_onnx as export_onnx
from stillbit.export.packed_model import PackedModel as PackedModel
from stillbit.export.packed_model import load_packed as load_packed
from stillbit.export.packed_writer import export_packed as export_packed
from stillbit.export.program import Program as Program
from stillbit.export.program_file import export_program as export_program
from stillbit.export.saturation import Saturation as Saturation
from stillbit.export.saturation import saturation_of as saturation_of
from stillbit.export.verify import verify as verify
