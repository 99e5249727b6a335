import pytest

from stillbit.errors import RecipeError
from stillbit.recipes.load import dump, load, resolve


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model: {name: resnet18}\nfreezing: {final_threshold: 0.02}\ndampening: null\n")
    return str(path)


def test_what_is_not_given_has_its_default(recipe):
    loaded = load(recipe)
    assert loaded.model.name == "resnet18"
    assert loaded.freezing.final_threshold == 0.02
    assert loaded.freezing.threshold == 0.1
    assert loaded.dampening is None
    assert (loaded.optimizer.name, loaded.optimizer.schedule.kind) == ("sgd", "cosine")
    assert (loaded.scale_optimizer.name, loaded.scale_optimizer.lr) == ("adam", 1e-5)


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        pytest.param("training.epochs=3", lambda r: r.training.epochs, 3, id="whole_number"),
        pytest.param("optimizer.lr=1e-3", lambda r: r.optimizer.lr, 1e-3, id="exponent_without_dot"),
        pytest.param("optimizer.lr=1", lambda r: r.optimizer.schedule.kind, "cosine", id="others_of_the_section_stay"),
        pytest.param("data.root=/a=b", lambda r: str(r.data.root), "/a=b", id="equals_sign_in_the_value"),
        pytest.param("data.augment.scale=[0.5, 1]", lambda r: r.data.augment.scale, (0.5, 1.0), id="list"),
        pytest.param("freezing=null", lambda r: r.freezing, None, id="section_off"),
        pytest.param("dampening={}", lambda r: r.dampening.final_weight, 0.1, id="section_on"),
        pytest.param("dampening.final_weight=2", lambda r: r.dampening.final_weight, 2.0, id="section_on_by_a_value"),
        pytest.param("training.tensorboard=false", lambda r: r.training.tensorboard, False, id="false"),
    ],
)
def test_override(recipe, override, read, expected):
    assert read(load(recipe, [override])) == expected


def test_the_last_of_two_overrides_holds(recipe):
    assert load(recipe, ["training.epochs=3", "training.epochs=4"]).training.epochs == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        pytest.param(
            "quantization.weight_bits=0",
            "quantization.weight_bits is 0; allowed are 2 to 8 (an override leaves single layers at 32)",
            id="bits_0",
        ),
        pytest.param(
            "quantization.weight_bits=33",
            "quantization.weight_bits is 33; allowed are 2 to 8 (an override leaves single layers at 32)",
            id="bits_33",
        ),
        pytest.param("quantization.weight_bits=four", "quantization.weight_bits is 'four'; allowed: a whole number", id="bits_four"),
        pytest.param("quantisation.weight_bits=3", "quantisation: unknown key; did you mean 'quantization'?", id="unknown_section"),
        pytest.param("training.epoch=3", "training.epoch: unknown key; did you mean 'epochs'?", id="unknown_key"),
        pytest.param("data.batch_size=0", "data.batch_size is 0; allowed: 1 or more", id="out_of_range"),
        pytest.param("training.epochs", "override 'training.epochs': allowed: key.path=value, as in training.epochs=3", id="no_value"),
        pytest.param("=3", "override '=3': allowed: key.path=value, as in training.epochs=3", id="no_key"),
        pytest.param("model.name.x=3", "override 'model.name.x=3': model.name is a value; allowed: a section", id="below_a_value"),
        pytest.param(
            "training.epochs=[3", "override 'training.epochs=[3', line 1: expected ',' or ']', but got '<stream end>'", id="no_yaml"
        ),
        pytest.param(
            "tracking={}",
            "tracking is given beside freezing; allowed: freezing.ema_momentum and freezing.max_bits",
            id="tracking_beside_freezing",
        ),
        pytest.param(
            "quantization=null",
            "freezing is given and quantization is null; allowed: where weights are quantized",
            id="freezing_a_float_network",
        ),
        pytest.param("training.epochs=-1", "training.epochs is -1; allowed: 0 or more", id="epochs"),
        pytest.param(
            "training.epochs=0",
            "freezing is given and training.epochs is 0; allowed: with 1 epoch or more, which its schedule takes",
            id="freezing_without_epochs",
        ),
        pytest.param("training.observations=1", "training.observations is 1; allowed: 0, or 2 and more", id="observations"),
        pytest.param("annealing.epochs=0", "annealing.epochs is 0; allowed: 1 or more", id="annealing"),
        pytest.param("distillation.temperature=2", "distillation.teacher: missing, and it has no default", id="no_teacher"),
        pytest.param("model.num_classes=0", "model.num_classes is 0; allowed: 1 or more", id="no_classes"),
        pytest.param(
            "model.source=stillbit",
            "model.weights is 'pretrained'; allowed: random, or a file (stillbit ships no weights)",
            id="pretrained_small_network",
        ),
        pytest.param("calibration.batches=0", "calibration.batches is 0; allowed: 1 or more", id="calibration"),
    ],
)
def test_bad_override(recipe, override, message):
    with pytest.raises(RecipeError) as caught:
        load(recipe, [override])
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "recipe is null; allowed: a mapping of keys to values", id="empty"),
        pytest.param("- a\n", "recipe is a list; allowed: a mapping of keys to values", id="list"),
        pytest.param("training: {epochs: 3}\n", "model: missing, and it has no default", id="no_model"),
    ],
)
def test_bad_file(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load(str(path), ["training.seed=1"])
    assert str(caught.value) == message


def test_a_dumped_recipe_loads_to_an_equal_one(recipe, tmp_path):
    loaded = load(recipe, ["optimizer.lr=1e-5", "data.root=/a b", "quantization.overrides=[{layers: 'a.*', weight_bits: 8}]"])
    path = tmp_path / "again.yaml"
    path.write_text(dump(loaded))
    assert load(str(path)) == loaded


def test_resolve_leaves_its_argument_alone():
    content = {"model": {"name": "resnet18"}}
    assert resolve(content, ["model.name=resnet50"]).model.name == "resnet50"
    assert content == {"model": {"name": "resnet18"}}


def test_the_stages_of_a_recipe_make_one_timetable(recipe):
    stages = ["freezing=null", "training.epochs=300", "training.cooldown_epochs=10", "annealing={}"]
    timetable = load(recipe, stages).timetable
    assert (timetable.before_final_stage, timetable.total, timetable.final_stage.lr) == (310, 340, 1e-5)
    assert load(recipe, [*stages, "training.epochs=0", "training.cooldown_epochs=0"]).timetable.total == 30


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        pytest.param(["training.epochs=0"], "recipe: training.epochs is 0; allowed: 1 or more, 0 only where an annealing", id="nothing"),
        pytest.param(
            ["training.epochs=0", "training.cooldown_epochs=2", "annealing={}"],
            "recipe: training.cooldown_epochs is 2 with epochs 0; allowed: 0",
            id="cooldown_of_nothing",
        ),
        pytest.param(["quantization=null", "annealing={}"], "annealing is given and quantization is null", id="annealing_a_float_network"),
        pytest.param(["quantization=null", "start=last.pt"], "start is given and quantization is null", id="start_of_a_float_network"),
    ],
)
def test_sections_that_do_not_go_together(recipe, overrides, message):
    with pytest.raises(RecipeError) as caught:
        load(recipe, ["freezing=null", *overrides])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "sections"),
    [("deit_t_w2a2", ("quantization", "annealing")), ("mobilenetv2_w3a3_freeze", ("quantization", "freezing"))],
)
def test_published_at_the_top_stands_for_every_section(name, sections):
    recipe = load(name, ["published=true"])
    assert all(getattr(recipe, section).published for section in sections)
    assert load(name, ["published=false"]) == load(name)
    spared = load(name, ["published=true", f"{sections[1]}.published=false"])
    assert spared.quantization.published
    assert not getattr(spared, sections[1]).published


def test_published_at_the_top_switches_nothing_on():
    assert load("digits_float", ["published=true"]) == load("digits_float")
    assert load("mobilenetv2_w3a3_lsq", ["published=true"]).freezing is None


def test_published_at_the_top_is_true_or_false():
    with pytest.raises(RecipeError, match="published is 'yes please'; allowed: true, false"):
        load("digits_float", ["published=yes please"])


def test_keys_of_the_first_edition_are_still_read():
    named = {"model": {"name": "resnet18"}, "quantization": {"ste_range": "position"}}
    assert resolve({**named, "quantization": {"band": "position"}}) == resolve(named)


def test_a_base_is_laid_under_and_looked_for_beside_the_recipe(tmp_path):
    (tmp_path / "below.yaml").write_text("base: digits_w3a3_lsq\noptimizer: {lr: 0.5}\ntracking: null\n")
    (tmp_path / "mine.yaml").write_text("base: below.yaml\noptimizer: {weight_decay: 0.0}\nfreezing: {}\n")
    found = load(str(tmp_path / "mine.yaml"), ["training.epochs=2"])
    expected = load(
        "digits_w3a3_lsq", ["optimizer.lr=0.5", "optimizer.weight_decay=0.0", "tracking=null", "freezing={}", "training.epochs=2"]
    )
    assert found == expected
    assert "base" not in dump(found)


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("base: second.yaml", "whose base it is itself"),
        ("base: nowhere.yaml", "nowhere.yaml: No such file"),
        ("base: digits_w3a3", "did you mean 'digits_w3a3_"),
        ("base: [a]", r"base is \['a'\]; allowed: a shipped recipe"),
    ],
    ids=["cycle", "missing", "near", "list"],
)
def test_a_base_that_is_none_is_refused(tmp_path, first, message):
    (tmp_path / "first.yaml").write_text(first)
    (tmp_path / "second.yaml").write_text("base: first.yaml")
    with pytest.raises(RecipeError, match=message):
        load(str(tmp_path / "first.yaml"))


def test_a_circle_of_bases_across_folders_is_refused(tmp_path):
    for folder, other in (("x", "y"), ("y", "x")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.yaml").write_text(f"base: ../{other}/one.yaml")
    with pytest.raises(RecipeError, match="whose base it is itself"):
        load(str(tmp_path / "x" / "one.yaml"))


def test_an_old_key_beside_its_new_name_is_refused():
    both = {"model": {"name": "resnet18"}, "quantization": {"ste_range": "position", "band": "rounded"}}
    with pytest.raises(RecipeError, match=r"quantization\.band is given beside quantization\.ste_range, its new name"):
        resolve(both)
