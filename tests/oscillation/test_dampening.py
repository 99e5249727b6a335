import pytest
import torch
from torch import nn

from stillbit.errors import RecipeError
from stillbit.modules import QuantConvTranspose2d, adopt
from stillbit.oscillation import Dampening
from tests.oscillation.small_models import calibrated, linear, network, one_weight

# Scale 0.2, codes -4..3: inside above its value, inside below it, outside above, outside below, on the upper limit.
WEIGHTS = [[0.25, -0.45], [0.9, -1.1], [0.6, 0.05]]
DISTANCES = [[0.05, -0.05], [0.0, 0.0], [0.0, 0.05]]


def model() -> nn.Sequential:
    return nn.Sequential(linear(torch.tensor(WEIGHTS), calibrated(3, 0.2)))


@pytest.mark.parametrize(
    ("aggregation", "factor"),
    [pytest.param("sum", 1.0, id="sum"), pytest.param("mean", 1 / 6, id="mean"), pytest.param("kernel_mean", 1 / 2, id="kernel_mean")],
)
def test_loss_and_gradient_in_closed_form(aggregation: str, factor: float) -> None:
    dampened = model()
    dampening = Dampening(dampened, weight=0.3, aggregation=aggregation)
    distances = torch.tensor(DISTANCES)
    penalty = dampening.penalty()
    # 1e-6: differences of float32 numbers near 0.5, of which 0.05 is left
    assert penalty.item() == pytest.approx(0.3 * factor * distances.square().sum().item(), rel=1e-5)
    dampening.before_step(1)
    torch.testing.assert_close(dampened[0].weight.grad, 0.6 * factor * distances, atol=1e-6, rtol=0)


def test_the_closed_form_is_the_gradient_of_the_penalty() -> None:
    """At random latents, some of them pinned and outside the grid."""
    by_loss, by_hand = network(), network()
    for dampened in (by_loss, by_hand):
        quantizer = dampened[0].weight_quantizer
        quantizer.allocate_pins(dampened[0].weight.shape)
        quantizer.pins[:, 0].fill_(-3)
    Dampening(by_loss, weight=0.3).penalty().backward()
    Dampening(by_hand, weight=0.3).before_step(1)
    for index in (0, 3):
        # one rounding apart: autograd multiplies the factors in another order
        torch.testing.assert_close(by_hand[index].weight.grad, by_loss[index].weight.grad, rtol=1e-6, atol=1e-9)
        assert by_hand[index].weight_quantizer.scale.grad is None


def test_the_scale_gets_no_gradient_but_from_pinned_latents_outside() -> None:
    dampened = model()
    quantizer = dampened[0].weight_quantizer
    Dampening(dampened, weight=1.0).penalty().backward()
    assert quantizer.scale.grad.item() == 0.0
    quantizer.allocate_pins(dampened[0].weight.shape)
    quantizer.pins[1, 0] = 2  # value 0.4, clipped latent 0.6 = 3 * scale: d(0.4 - 3 s)^2 / ds = 6 * 0.2, halved by kernel_mean
    Dampening(dampened, weight=1.0).penalty().backward()
    assert quantizer.scale.grad.item() == pytest.approx(0.6)


def test_output_channels_of_a_transposed_convolution_are_its_second_axis() -> None:
    layer = nn.ConvTranspose2d(2, 5, 3, bias=False)
    transposed = adopt(QuantConvTranspose2d, layer, weight_quantizer=calibrated(3, 0.2), input_quantizer=None)
    total, kernel_mean = (Dampening(transposed, weight=1.0, aggregation=how).penalty().item() for how in ("sum", "kernel_mean"))
    assert kernel_mean == pytest.approx(total * 5 / (2 * 5 * 9))


def test_it_adds_to_the_task_gradient() -> None:
    dampened = model()
    dampened[0].weight.grad = torch.ones(3, 2)
    Dampening(dampened, weight=0.5, aggregation="sum").before_step(1)
    torch.testing.assert_close(dampened[0].weight.grad, 1 + torch.tensor(DISTANCES), atol=1e-6, rtol=0)


def test_weights_that_are_not_trained_get_none() -> None:
    dampened = model()
    dampened[0].weight.requires_grad_(False)
    Dampening(dampened, weight=0.5).before_step(1)
    assert dampened[0].weight.grad is None


def test_in_the_loss_nothing_is_added() -> None:
    dampened = model()
    Dampening(dampened, weight=0.5, in_loss=True).before_step(1)
    assert dampened[0].weight.grad is None


def test_the_weight_is_that_of_the_step() -> None:
    dampening = Dampening(model(), weight=lambda step: 0.5 * step, aggregation="sum")
    dampening.before_step(2)
    assert dampening.model[0].weight.grad[0, 0].item() == pytest.approx(0.1)
    dampening.step = 3
    assert dampening.penalty().item() == pytest.approx(dampening.penalty(1).item() * 4)


def test_metrics_are_of_the_last_step() -> None:
    dampening = Dampening(model(), weight=lambda step: 0.5 * step, aggregation="sum")
    dampening.step = 2
    assert dampening.metrics() == {"dampening_weight": 1.0, "dampening_loss": pytest.approx(3 * 0.05**2, rel=1e-5)}


def test_an_unknown_aggregation_is_refused() -> None:
    with pytest.raises(RecipeError, match="aggregation is 'kernel'; allowed: sum, mean, kernel_mean"):
        Dampening(one_weight(), weight=1.0, aggregation="kernel")  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [{"weight": -1.0}, {"final_weight": float("inf")}, {"begin": -0.1}], ids=str)
def test_values_out_of_range_are_refused(given: dict[str, float]) -> None:
    (name,) = given
    with pytest.raises(RecipeError, match=f"^{name} is .*; allowed: "):
        Dampening(network(), steps=10, **given)  # type: ignore[arg-type]


def test_a_weight_rises_as_published_over_the_steps_of_a_run() -> None:
    dampening = Dampening(network(), steps=100, weight=0.02, begin=0.5, aggregation="mean")
    assert [dampening.weight(step) for step in (1, 50, 100)] == pytest.approx([0.02, 0.02, 0.1])


def test_without_a_final_weight_it_stays() -> None:
    dampening = Dampening(network(), steps=100, weight=0.02, final_weight=None)
    assert [dampening.weight(step) for step in (1, 60, 100)] == [0.02, 0.02, 0.02]
