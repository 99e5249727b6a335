import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from stillbit.errors import RecipeError, nearest
from stillbit.recipes.mapping import from_mapping, to_mapping


@dataclass(frozen=True)
class Annealed:
    start: float
    begin: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= 1:
            raise ValueError(f"begin is {self.begin}; allowed: 0 to 1")
        if self.start == self.begin:
            raise ValueError("start and begin are equal")


@dataclass(frozen=True)
class Config:
    epochs: int = 3
    rate: float = 0.1
    amp: bool = False
    kind: Literal["sgd", "adam"] = "sgd"
    bits: Literal[1, 2, 3, 4] = 4
    folder: Path = Path("runs")
    seed: int | None = None
    threshold: float | Annealed = 0.5
    sizes: tuple[int, ...] = ()
    layers: dict[str, Annealed] = field(default_factory=dict)
    inner: Annealed = Annealed(1.0, begin=0.5)
    off: Annealed | None = None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({}, Config(), id="defaults"),
        pytest.param({"rate": 1}, Config(rate=1.0), id="whole_number_for_a_float"),
        pytest.param({"folder": "a/b"}, Config(folder=Path("a/b")), id="path"),
        pytest.param({"seed": None}, Config(seed=None), id="null"),
        pytest.param({"seed": 7}, Config(seed=7), id="not_null"),
        pytest.param({"threshold": 2}, Config(threshold=2.0), id="union-number"),
        pytest.param({"threshold": {"start": 2}}, Config(threshold=Annealed(2.0)), id="union-section"),
        pytest.param({"sizes": [1, 2]}, Config(sizes=(1, 2)), id="list"),
        pytest.param({"layers": {"a.b*": {"start": 1}}}, Config(layers={"a.b*": Annealed(1.0)}), id="table"),
        pytest.param({"inner": {"start": 0}}, Config(inner=Annealed(0.0, 0.5)), id="section_keeps_its_other_defaults"),
        pytest.param({"inner": {"begin": 0}}, Config(inner=Annealed(1.0, 0.0)), id="section_may_omit_a_required_field"),
        pytest.param({"off": {"start": 3}}, Config(off=Annealed(3.0)), id="section_switched_on"),
    ],
)
def test_a_mapping_becomes_the_dataclass_and_back(given, expected):
    config = from_mapping(Config, given)
    assert config == expected
    assert type(config.rate) is float
    assert from_mapping(Config, to_mapping(config)) == config


def test_to_mapping_holds_only_what_yaml_knows():
    mapping = to_mapping(Config(sizes=(1,), layers={"a": Annealed(2.0)}))
    assert mapping["sizes"] == [1]
    assert mapping["layers"] == {"a": {"start": 2.0, "begin": 0.25}}
    assert mapping["folder"] == "runs"
    assert mapping["off"] is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param([1], "recipe is a list; allowed: a mapping of keys to values", id="not_a_mapping"),
        pytest.param({"epoch": 1}, "epoch: unknown key; did you mean 'epochs'?", id="unknown_key"),
        pytest.param({"inner": {"start": 1, "begn": 1}}, "inner.begn: unknown key; did you mean 'begin'?", id="unknown_inner_key"),
        pytest.param({"inner": {"zzz": 1}}, "inner.zzz: unknown key; allowed: start, begin", id="unknown_key_with_no_near_name"),
        pytest.param({"off": {}}, "off.start: missing, and it has no default", id="missing"),
        pytest.param({"inner": None}, "inner is null; allowed: a mapping of keys to values", id="null_section"),
        pytest.param({"epochs": 1.5}, "epochs is 1.5; allowed: a whole number", id="float_for_int"),
        pytest.param({"epochs": True}, "epochs is true; allowed: a whole number", id="bool_for_int"),
        pytest.param({"epochs": "four"}, "epochs is 'four'; allowed: a whole number", id="text_for_int"),
        pytest.param({"rate": "fast"}, "rate is 'fast'; allowed: a finite number", id="text_for_float"),
        pytest.param({"rate": True}, "rate is true; allowed: a finite number", id="bool_for_float"),
        pytest.param({"rate": math.nan}, "rate is nan; allowed: a finite number", id="nan"),
        pytest.param({"amp": 1}, "amp is 1; allowed: true or false", id="int_for_bool"),
        pytest.param({"kind": "sdg"}, "kind is 'sdg'; allowed: sgd, adam", id="choice"),
        pytest.param({"bits": 33}, "bits is 33; allowed: 1, 2, 3, 4", id="number_choice"),
        pytest.param({"bits": "4"}, "bits is '4'; allowed: 1, 2, 3, 4", id="text_for_number_choice"),
        pytest.param({"seed": "x"}, "seed is 'x'; allowed: a whole number", id="optional"),
        pytest.param({"threshold": "x"}, "threshold is 'x'; allowed: a finite number or a mapping", id="union"),
        pytest.param({"threshold": {"stat": 1}}, "threshold.stat: unknown key; did you mean 'start'?", id="union_section"),
        pytest.param({"sizes": 3}, "sizes is 3; allowed: a list, each a whole number", id="no_list"),
        pytest.param({"sizes": [1, "x"]}, "sizes[1] is 'x'; allowed: a whole number", id="list_item"),
        pytest.param({"layers": 3}, "layers is 3; allowed: a mapping, each value a mapping", id="no_table"),
        pytest.param({"layers": {"a.b": {}}}, "layers.a.b.start: missing, and it has no default", id="table_item"),
        pytest.param({"inner": {"start": 1, "begin": 2}}, "inner.begin is 2.0; allowed: 0 to 1", id="out_of_range"),
        pytest.param({"inner": {"start": 1, "begin": 1}}, "inner: start and begin are equal", id="two_fields_that_disagree"),
    ],
)
def test_errors_name_the_path_the_given_and_the_allowed(given, message):
    with pytest.raises(RecipeError) as caught:
        from_mapping(Config, given)
    assert str(caught.value) == message


def test_nearest_lists_all_names_where_none_is_near():
    assert nearest("mobilnet", ["mobilenet", "resnet"]) == "; did you mean 'mobilenet'?"
    assert nearest("x", ["mobilenet", "resnet"]) == "; allowed: mobilenet, resnet"
