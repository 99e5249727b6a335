"""Shipped recipes: each loads, says what it is, and holds nothing that the default says already."""

from copy import deepcopy
from dataclasses import replace

import pytest

from stillbit.errors import RecipeError
from stillbit.prepare import QuantConfig
from stillbit.recipes import catalog, document
from stillbit.recipes.load import load, resolve, with_base
from stillbit.recipes.mapping import from_mapping, to_mapping
from stillbit.recipes.schema import Recipe

NAMES = catalog.names()
TRANSFORMERS = [f"{network}_w{bits}a{bits}" for network in ("deit_t", "deit_s", "swin_t") for bits in (2, 3, 4)]


def test_what_ships():
    methods = ("lsq", "damp", "freeze")
    networks = ("mobilenetv2", "mobilenetv3_small", "efficientnet_lite0")
    expected = {f"{network}_{bits}_{method}" for network in networks for bits in ("w4a4", "w3a3") for method in methods}
    expected |= {f"resnet{depth}_w4a4_{method}" for depth in (18, 50) for method in ("lsq", "freeze")}
    expected |= {"digits_float", *(f"digits_w3a3_{method}" for method in methods)}
    expected |= {"digits_deit_float", *(f"digits_deit_w2a2_{part}" for part in ("lsq", "statsq", "qkr", "cga"))}
    variants = ("w2a2_lsq", "w2a2_statsq", "w4a4_tensor")
    expected |= {*TRANSFORMERS, *(f"{network}_{variant}" for network in ("deit_t", "deit_s", "swin_t") for variant in variants)}
    assert set(NAMES) == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_resolves_and_round_trips(name):
    recipe = load(name)
    assert from_mapping(Recipe, to_mapping(recipe)) == recipe


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_what_its_name_says(name):
    recipe = load(name)
    method = name.rpartition("_")[2]
    assert (recipe.freezing is not None) == (method == "freeze")
    assert (recipe.dampening is not None) == (method == "damp")
    assert (recipe.annealing is not None) == (name in TRANSFORMERS or method in ("cga", "tensor"))
    if method == "float":
        assert recipe.quantization is None
    else:
        bits = recipe.quantization
        assert f"_w{bits.weight_bits}a{bits.activation_bits}_" in f"{name}_"


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_opens_with_its_goal_and_its_command(name):
    goal, command = catalog.text(name).splitlines()[:2]
    assert 0 < len(goal) <= 50  # a line of the list has 80 columns
    assert f"stillbit train {name}" in command
    assert catalog.goal(name) == goal.removeprefix("# ")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_holds_only_what_differs_from_the_default(name):
    content = document.parse(catalog.text(name), origin=name)
    for path in _leaves({key: value for key, value in content.items() if key != "base"}):
        assert _without(content, path, name) != load(name), f"{name} repeats its base's or the default of {'.'.join(path)}"


@pytest.mark.parametrize(
    ("name", "lr", "weight_decay", "epochs", "method"),
    [
        # docs/spec/cnn.md, 9
        pytest.param("mobilenetv2_w3a3_damp", 0.01, 2.5e-5, 90, (0.0, 0.1), id="mobilenetv2_w3a3_damp"),
        pytest.param("mobilenetv2_w4a4_damp", 0.0033, 2.5e-5, 90, (0.0, 0.1), id="mobilenetv2_w4a4_damp"),
        pytest.param("mobilenetv2_w3a3_freeze", 0.01, 2.5e-5, 90, (0.1, 0.011), id="mobilenetv2_w3a3_freeze"),
        pytest.param("mobilenetv2_w4a4_freeze", 0.0033, 5e-5, 90, (0.1, 0.01), id="mobilenetv2_w4a4_freeze"),
        pytest.param("efficientnet_lite0_w3a3_damp", 0.01, 5e-5, 50, (0.0, 0.1), id="efficientnet_lite0_w3a3_damp"),
        pytest.param("efficientnet_lite0_w4a4_damp", 0.0033, 1e-4, 50, (0.0, 0.1), id="efficientnet_lite0_w4a4_damp"),
        pytest.param("efficientnet_lite0_w3a3_freeze", 0.01, 5e-5, 50, (0.1, 0.005), id="efficientnet_lite0_w3a3_freeze"),
        pytest.param("efficientnet_lite0_w4a4_freeze", 0.0033, 1e-4, 50, (0.1, 0.015), id="efficientnet_lite0_w4a4_freeze"),
    ],
)
def test_published_hyper_parameters(name, lr, weight_decay, epochs, method):
    recipe = load(name)
    assert (recipe.optimizer.lr, recipe.optimizer.weight_decay, recipe.training.epochs) == (lr, weight_decay, epochs)
    if recipe.dampening is not None:
        damp = recipe.dampening
        assert (damp.weight, damp.final_weight) == method
        assert (damp.begin, damp.aggregation) == (0.25, "kernel_mean")
    else:
        freeze = recipe.freezing
        assert (freeze.threshold, freeze.final_threshold) == method
        assert (freeze.begin, freeze.ema_momentum, freeze.max_bits, freeze.use_ema) == (0.25, 0.001, 4, True)
    _check_what_all_published_recipes_share(recipe)


def _check_what_all_published_recipes_share(recipe):
    weights, scales, bits = recipe.optimizer, recipe.scale_optimizer, recipe.quantization
    assert (weights.name, weights.momentum, weights.nesterov) == ("sgd", 0.9, False)
    assert (weights.schedule.kind, weights.schedule.end, weights.schedule.per) == ("cosine", 0.0, "epoch")
    assert (scales.name, scales.lr, scales.weight_decay, scales.schedule.kind) == ("adam", 1e-5, 0.0, "constant")
    assert (bits.policy, bits.per_channel, bits.weight_symmetric, bits.activation_symmetric) == ("lsq_paper", False, True, True)
    assert (bits.weight_range.estimator, bits.activation_range.estimator, bits.scale_gradient) == ("mse", "mse", "none")
    assert (recipe.calibration.batches, recipe.data.batch_size, recipe.training.reestimate_batches) == (1, 128, 50)


# docs/spec/vit.md, 7: images of a process, learning rate, weight decay, warm-up, mixup, cutmix, repeated augmentation
TINY = (140, 5.47e-4, 0.05, 5, 0.0, 0.0, 1)
SWIN = (64, 2e-4, 0.0, 0, 0.8, 1.0, 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("deit_t_w2a2", TINY, id="deit_t_w2a2"),
        pytest.param("deit_t_w3a3", TINY, id="deit_t_w3a3"),
        pytest.param("deit_t_w4a4", TINY, id="deit_t_w4a4"),
        pytest.param("deit_s_w2a2", TINY, id="deit_s_w2a2"),
        pytest.param("deit_s_w3a3", (100, 3.2e-4, 0.0, 0, 0.8, 1.0, 3), id="deit_s_w3a3"),
        pytest.param("deit_s_w4a4", (100, 3.2e-4, 0.0, 0, 0.8, 1.0, 3), id="deit_s_w4a4"),
        pytest.param("swin_t_w2a2", (64, 5e-4, 0.05, 5, 0.0, 0.0, 1), id="swin_t_w2a2"),
        pytest.param("swin_t_w3a3", SWIN, id="swin_t_w3a3"),
        pytest.param("swin_t_w4a4", SWIN, id="swin_t_w4a4"),
    ],
)
def test_published_hyper_parameters_of_transformers(name, expected):
    recipe = load(name)
    weights, augment = recipe.optimizer, recipe.data.augment
    found = (recipe.data.batch_size, weights.lr, weights.weight_decay, weights.schedule.warmup_epochs)
    assert (*found, augment.mixup, augment.cutmix, augment.repeats) == expected
    assert (recipe.training.label_smoothing > 0.0) == (augment.mixup > 0.0)
    assert weights.decay_norms == (weights.weight_decay == 0.0)
    if weights.schedule.warmup_epochs:
        assert weights.schedule.warmup_start == 1e-6
    bits = recipe.quantization.weight_bits
    assert recipe.quantization == QuantConfig.for_vit(f"W{bits}A{bits}")


@pytest.mark.parametrize("network", ["deit_t", "deit_s", "swin_t"])
@pytest.mark.parametrize(
    ("variant", "differing"),
    [
        pytest.param("w2a2_lsq", {"quantization": {"quantizer": "lsq", "attention": "plain"}, "annealing": None}, id="lsq"),
        pytest.param("w2a2_statsq", {"quantization": {"attention": "plain"}, "annealing": None}, id="statsq"),
        pytest.param("w4a4_tensor", {"quantization": {"activation_scales": "tensor"}}, id="tensor"),
    ],
)
def test_a_variant_of_a_transformer_differs_as_its_name_says(network, variant, differing):
    expected = load(f"{network}_{variant[:4]}")
    expected = replace(expected, quantization=replace(expected.quantization, **differing["quantization"]))
    assert load(f"{network}_{variant}") == (replace(expected, annealing=None) if "annealing" in differing else expected)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_what_all_published_recipes_of_transformers_share(name):
    recipe = load(name)
    weights, stage, teaching, augment = recipe.optimizer, recipe.annealing, recipe.distillation, recipe.data.augment
    assert (weights.name, weights.betas, recipe.scale_optimizer) == ("adamw", None, None)
    assert (weights.schedule.kind, weights.schedule.end, weights.schedule.per) == ("cosine", 1e-5, "epoch")
    assert (recipe.training.epochs, recipe.training.cooldown_epochs, recipe.training.precision) == (300, 10, "fp32")
    assert (stage.epochs, stage.lr, stage.boundary_range) == (30, 1e-5, 0.005)
    assert (teaching.temperature, teaching.soft_weight, teaching.hard_weight) == (1.0, 1.0, 1.0)
    assert (teaching.teacher.name, teaching.teacher.weights) == (recipe.model.name, recipe.model.weights)
    assert (augment.scale, augment.hflip, augment.auto_augment) == ((0.08, 1.0), 0.5, "rand-m9-mstd0.5-inc1")
    assert (augment.random_erasing, augment.erasing_mode, augment.mix_probability) == (0.25, "pixel", 1.0)
    assert (recipe.data.interpolation, recipe.data.val_interpolation, recipe.data.crop_pct) == ("random", "bicubic", 0.9)
    assert recipe.model.drop_path == (recipe.model.name != "swin_t")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param(
            "mobilenetv2_w3a3_frezee",
            "unknown recipe 'mobilenetv2_w3a3_frezee'; did you mean 'mobilenetv2_w3a3_freeze'?",
            id="misspelt",
        ),
        pytest.param("x", f"unknown recipe 'x'; allowed: {', '.join(NAMES)}", id="far_from_all"),
        pytest.param("missing.yaml", "recipe missing.yaml: No such file or directory", id="missing_file"),
        pytest.param("some/missing", "recipe some/missing: No such file or directory", id="missing_path"),
    ],
)
def test_unknown_recipe(name, message):
    with pytest.raises(RecipeError) as caught:
        catalog.text(name)
    assert str(caught.value) == message


def test_a_binary_file_is_no_recipe(tmp_path):
    path = tmp_path / "weights.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not a text file"):
        catalog.text(str(path))


def _leaves(mapping, path=()):
    for key, value in mapping.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key)


def _without(content, path, name):
    """The recipe without one of its values; None where it cannot do without."""
    content = deepcopy(content)
    section = content
    for key in path[:-1]:
        section = section[key]
    del section[path[-1]]
    try:
        return resolve(with_base(content, name))
    except RecipeError:
        return None
