"""The largest sums of a layer: in closed form, reached by an input that is run, and from a program as from a file."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stillbit.export import capture
from stillbit.export.manifest import manifest_in
from stillbit.export.runtime import linked
from stillbit.export.saturation import INT16, INT32, Saturation, _rows, _stored_rows, saturation_in, saturation_lines, saturation_of
from tests.export.chains import Writer, chain
from tests.export.networks import MODELS, image


@given(st.lists(st.lists(st.integers(-128, 127), min_size=5, max_size=5), min_size=1, max_size=4), st.sampled_from([1, 15, 255]))
def test_no_input_gives_more_and_one_gives_as_much(rows: list[list[int]], activation: int) -> None:
    weight = np.array(rows)
    found = Saturation.of("a", weight, activation)
    worst = [np.abs((weight * chosen).sum(1) * activation).max() for chosen in (weight > 0, weight < 0)]
    assert found.accumulator == max(worst)
    pairs = [(row[i] * a + row[j] * b) * activation for row in weight for i in range(5) for j in range(i) for a in (0, 1) for b in (0, 1)]
    assert found.pair == max(map(abs, pairs))


def test_codes_up_to_64_are_safe_beside_8_bits_and_65_are_not() -> None:
    assert Saturation.of("a", np.array([[64, 64, -64, -64]]), 255).pair_fits
    assert not Saturation.of("a", np.array([[65, 64, 0, 0]]), 255).pair_fits
    assert Saturation("a", 1, 1, INT32, INT16).accumulator_fits
    assert Saturation("a", 1, 1, INT32, INT16).pair_fits
    assert not Saturation("a", 1, 1, INT32 + 1, INT16 + 1).accumulator_fits


def test_a_file_says_what_its_program_says() -> None:
    program = chain()
    model = Writer(program).write()
    from_program = saturation_of(program)
    assert [one.layer for one in from_program] == ["2", "4", "6"]  # the first takes the image as it is
    assert saturation_in(linked(model), manifest_in(model, "f")) == from_program
    assert [one.activation for one in from_program] == [15, 15, 255]
    assert from_program[0].accumulator <= 9 * 8 * 15
    assert not from_program[2].pair_fits  # 8 bits times 8 bits


def test_turned_weights_are_summed_along_their_inputs() -> None:
    codes, model = np.arange(6).reshape(2, 3), Writer(chain()).write()
    gemm = next(node for node in linked(model).graph if node.op_type == "Gemm")
    gemm.attributes.clear()
    layers = manifest_in(model, "f").layers
    assert np.array_equal(_stored_rows(codes, layers[-1], gemm), codes.T)
    transposed = np.arange(2 * 3 * 2).reshape(2, 3, 2, 1)
    assert _rows(transposed, "conv_transpose2d", 1).tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]


def test_half_steps_are_odd_codes() -> None:
    found = saturation_of(capture(MODELS["vit-qkr_tensor"](), image()))
    assert {one.weight for one in found if "mlp" in one.layer} == {3}  # 2 bits: -3, -1, 1, 3
    assert all(one.accumulator_fits for one in found)


def test_lines_name_the_layers_and_what_to_do() -> None:
    safe, paired, wide = Saturation("a", 8, 15, 1000, 240), Saturation("b", 127, 255, 9000, 64770), Saturation("c", 1, 1, 2**31, 5)
    assert saturation_lines([]) == ["saturation: no layer multiplies codes by codes"]
    assert saturation_lines([safe])[1] == "saturation: largest pair sum 240, 16 bits hold 32767: exact without VNNI, too"
    lines = saturation_lines([safe, paired])
    assert "none can overflow" in lines[0]
    assert "pair sums of 1 of 2 layers can leave 16 bits on processors without VNNI (b 64770)" in lines[1]
    assert lines[1].endswith("exact there with the session option session.x64quantprecision=1, or with codes up to 64")
    assert "1 layers can overflow: c" in saturation_lines([safe, wide])[0]


def test_float_layers_are_left_out() -> None:
    assert not saturation_of(capture(MODELS["plain-W4A32"](), image()))
