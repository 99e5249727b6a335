"""Weights in an ONNX file: the codes that were trained, whatever holds them, and a bias that is met closely."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from stillbit.export.onnx.builder import Array, Builder
from stillbit.export.onnx.containers import Arrangement, Container, store_codes
from stillbit.export.onnx.weights import Accumulation, StoredWeight, Weight, arrange, store_weight
from tests.export.onnx.running import session

PLAIN = Arrangement(1, np.zeros(1, np.int64), np.ones(1, np.int64))


def decoded(builder: Builder, name: str, shape: tuple[int, ...]) -> Array:
    """Evaluate a constant int8 tensor; the graph must depend on something, so that it is not all folded away."""
    whole = builder.add("Cast", [name], "whole", to=onnx.TensorProto.FLOAT)
    builder.add("Add", [whole, "x"], "sum", output="y")
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [])]
    proto = builder.model(inputs, [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)], "test")
    onnx.checker.check_model(proto, full_check=True)
    (found,) = session(proto).run(None, {"x": np.zeros((), np.float32)})
    assert isinstance(found, np.ndarray)
    return found.astype(np.int64)


@pytest.mark.parametrize("container", ["int8", "int4", "packed"])
@pytest.mark.parametrize("bits", range(1, 8))
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_containers_give_codes_back(container: str, bits: int, signed: bool) -> None:
    kind = Container(container).choose(33, bits)
    low = -(2 ** (bits - 1)) if signed else 0
    codes = np.random.default_rng(0).integers(low, low + 2**bits, (3, 11)).astype(np.int8 if signed else np.uint8)
    builder = Builder()
    name, _ = store_codes(builder, codes, bits, kind, "w", PLAIN)
    assert np.array_equal(decoded(builder, name, codes.shape), codes)


def test_packed_codes_take_their_true_width() -> None:
    codes = np.zeros((64, 100), np.int8)
    for bits, size in ((2, 1600), (3, 2400), (4, 3200), (7, 5600)):
        builder = Builder()
        name, _ = store_codes(builder, codes, bits, "packed", "w", PLAIN)
        whole = builder.add("Cast", [name], "whole", output="y", to=onnx.TensorProto.FLOAT)
        proto = builder.model([], [helper.make_tensor_value_info(whole, onnx.TensorProto.FLOAT, codes.shape)], "test")
        stored = [tensor for tensor in proto.graph.initializer if tensor.name.startswith("w.")]
        assert sum(len(tensor.raw_data) for tensor in stored) == size


def test_auto_takes_the_smallest_that_the_runtime_knows() -> None:
    assert [Container().choose(100_000, bits) for bits in (2, 3, 4, 5, 8)] == ["packed", "packed", "int4", "packed", "int8"]
    assert Container("auto", (1, 20)).choose(100_000, 4) == "packed"
    assert Container("int4").choose(100_000, 5) == "int8"
    assert Container("packed").choose(100_000, 8) == "int8"


def weight(bits: int, *, shift: float = 0.0, zero_point: bool = False, outputs: int = 6) -> Weight:
    generator = np.random.default_rng(bits)
    low = 0 if zero_point else -(2 ** (bits - 1))
    codes = generator.integers(low, low + 2**bits, (outputs, 5)).astype(np.uint8 if zero_point else np.int8)
    points = generator.integers(0, 2**bits, outputs).astype(np.int32) if zero_point else None
    scale = generator.uniform(0.01, 0.1, outputs) * np.where(np.arange(outputs) % 2, -1, 1)
    return Weight(codes, scale, points, shift, bits, "w")


def values_of(builder: Builder, stored: StoredWeight, shape: tuple[int, ...]) -> Array:
    tensor = decoded(builder, stored.name, shape)
    return (tensor - stored.offset.reshape(-1, 1)) * stored.scale.astype(np.float64).reshape(-1, 1)


@pytest.mark.parametrize("bits", [2, 3, 4, 7, 8])
@pytest.mark.parametrize("grid", ["symmetric", "zero_point", "half_step"])
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no_bias"])
def test_values_stay_as_they_are(bits: int, grid: str, biased: bool) -> None:
    given_weight = weight(bits, shift=0.5 if grid == "half_step" else 0.0, zero_point=grid == "zero_point")
    beside = Accumulation(np.linspace(-3, 3, 6), 0.05, 15) if biased else None
    builder = Builder()
    arranged = arrange(given_weight, beside)
    if bits == 8 and grid == "half_step":
        assert arranged is None  # 9 bits of odd numbers
        return
    assert arranged is not None
    stored = store_weight(builder, given_weight, Container(), arranged)
    np.testing.assert_allclose(values_of(builder, stored, given_weight.codes.shape), given_weight.values(), rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([2, 3, 4]), st.floats(-20, 20), st.floats(0.01, 1), st.sampled_from([3, 15, 255]))
def test_the_bias_is_met_closer_than_by_whole_codes(bits: int, bias: float, input_scale: float, largest: int) -> None:
    given_weight = weight(bits)
    beside = Accumulation(np.full(6, bias), input_scale, largest)
    stored = arrange(given_weight, beside)
    assert stored is not None
    assert stored.bias is not None
    units = np.abs(input_scale * given_weight.scale)  # of an accumulator of whole codes
    error = np.abs(stored.bias * np.float64(input_scale) * stored.scale - bias) / units
    naive = np.abs(bias / units - np.rint(bias / units))
    rounding = 2e-7 * np.abs(bias) / units  # of a float32 scale
    assert (error <= naive + rounding).all()
    assert (error <= 0.5 / stored.arrangement.refined + rounding).all()
    pairs = 2 * largest * np.abs(given_weight.codes.astype(int) * stored.arrangement.refined.reshape(-1, 1)).max()
    assert pairs < 2**15 or stored.arrangement.refined.max() == 1


def test_a_bias_of_a_channel_without_scale_stays_in_int32() -> None:
    given_weight = weight(4).scaled(np.array([0.0, 1e-20, -1e-20, 1.0, 1.0, 1.0]))
    stored = arrange(given_weight, Accumulation(np.full(6, 2.0), 0.1, 15))
    assert stored is not None
    assert stored.bias is not None
    np.testing.assert_allclose(stored.bias * 0.1 * stored.scale.astype(np.float64), 2.0, atol=0.05)
    assert np.abs(given_weight.codes.astype(float).sum(1) * 15 * 0.1 * stored.scale)[:3].max() < 2e-3 * 2.0
