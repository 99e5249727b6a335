"""ONNX: a graph of our own, written so that runtimes execute it on integers."""

from stillbit.export.onnx.containers import Container as Container
from stillbit.export.onnx.writer import to_onnx as to_onnx
