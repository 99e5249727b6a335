import numpy as np
import pytest
import torch
from PIL import Image

from stillbit.errors import RecipeError
from stillbit.training.augment import AugmentConfig, build_transform, mix
from stillbit.training.seeding import seeded

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(4.0)[:, None, None, None].expand(4, 3, 8, 8).clone(), torch.arange(4)


def test_mixup_blends_with_the_reversed_batch() -> None:
    images, labels = batch()
    mixed = mix(images, labels, AugmentConfig(mixup=1.0), seed=0)
    assert 0.0 < mixed.share < 1.0
    assert mixed.other_labels.tolist() == [3, 2, 1, 0]
    expected = mixed.share * images + (1 - mixed.share) * images.flip(0)
    torch.testing.assert_close(mixed.images, expected, rtol=1e-6, atol=1e-6)  # lerp rounds once less


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_share_is_the_area_that_is_left(seed: int) -> None:
    images, labels = batch()
    mixed = mix(images, labels, AugmentConfig(cutmix=1.0), seed)
    own = (mixed.images[0] == 0.0).double().mean().item()
    assert mixed.share == own
    assert set(mixed.images[0].unique().tolist()) <= {0.0, 3.0}


def test_both_are_used_when_both_are_on() -> None:
    images, labels = batch()
    kinds = {len(mix(images, labels, AugmentConfig(mixup=1.0, cutmix=1.0), seed).images[1].unique()) for seed in range(20)}
    assert kinds == {1, 2}  # a blend has one value an image, a cut two


def test_mixing_is_a_function_of_its_seed() -> None:
    images, labels = batch()
    config = AugmentConfig(mixup=0.2, cutmix=1.0, mix_probability=0.5)
    first, again = (mix(images, labels, config, seed=11) for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert first.share == again.share


def test_mix_probability_leaves_batches_alone() -> None:
    images, labels = batch()
    shares = [mix(images, labels, AugmentConfig(mixup=1.0, mix_probability=0.5), seed).share for seed in range(40)]
    assert 8 <= sum(share == 1.0 for share in shares) <= 32  # 20 expected; outside by chance in 1 of 10000


def test_mixing_is_off_by_default_and_leaves_the_batch_alone() -> None:
    images, labels = batch()
    mixed = mix(images, labels, AugmentConfig(), seed=0)
    assert mixed.images is images
    assert mixed.share == 1.0


def test_mixing_does_not_change_its_input() -> None:
    images, labels = batch()
    before = images.clone()
    for seed in range(6):
        mix(images, labels, AugmentConfig(mixup=1.0, cutmix=1.0), seed)
    assert torch.equal(images, before)


def test_evaluation_resizes_and_crops_the_center() -> None:
    transform = build_transform(None, 224, 3, "bilinear", 0.9, MEAN, STD)
    assert "Resize(size=248" in str(transform)  # published: 248, then 224
    tensor = transform(Image.new("RGB", (300, 400)))
    assert tensor.shape == (3, 224, 224)
    assert tensor.dtype == torch.uint8


def test_training_images_stay_uint8_without_erasing() -> None:
    picture = Image.fromarray(np.full((40, 40), 200, np.uint8))
    tensor = build_transform(AugmentConfig(), 16, 1, "bilinear", 1.0, (0.5,), (0.25,))(picture)
    assert tensor.shape == (1, 16, 16)
    assert tensor.dtype == torch.uint8
    assert tensor.unique().tolist() == [200]


def test_erasing_fills_normalized_images_with_the_mean() -> None:
    config = AugmentConfig(random_erasing=1.0)
    tensor = build_transform(config, 16, 3, "bilinear", 1.0, MEAN, STD)(Image.new("RGB", (40, 40), "white"))
    assert sorted(tensor.unique().tolist()) == [0.0, 2.0]


def test_pixel_erasing_fills_with_seeded_noise() -> None:
    transform = build_transform(AugmentConfig(random_erasing=1.0, erasing_mode="pixel"), 16, 3, "bilinear", 1.0, MEAN, STD)
    tensors = []
    for seed in (1, 1, 2):
        with seeded(seed):
            tensors.append(transform(Image.new("RGB", (40, 40), "white")))
    first, again, other = tensors
    assert len(first.unique()) > 10
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": (0.5,)}, r"scale is \[0.5\]"),
        ({"ratio": (2.0, 1.0)}, r"ratio is \[2.0, 1.0\]"),
        ({"hflip": 1.5}, "hflip is 1.5; allowed: 0 to 1"),
        ({"mixup": -0.1}, "mixup is -0.1; allowed: 0 or more"),
        ({"erasing_mode": "rand"}, "erasing_mode is 'rand'; allowed: const, pixel"),
        ({"repeats": 0}, "repeats is 0; allowed: 1 or more"),
    ],
    ids=["one-number", "descending", "probability", "negative", "erasing-mode", "repeats"],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        AugmentConfig(**settings)  # type: ignore[arg-type]
