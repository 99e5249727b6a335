import pytest
import torch
from torch import nn

from stillbit.errors import DivergedError
from stillbit.training.diagnose import check_collapse, check_parameters, first_nonfinite


class Explode(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 0.0


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 2)), nn.Linear(2, 2))


def test_a_finite_model_has_no_culprit() -> None:
    assert first_nonfinite(model(), torch.ones(1, 2)) is None


def test_the_first_parameter_on_the_way_is_named() -> None:
    broken = model()
    with torch.no_grad():
        broken[2].weight[0, 0] = float("nan")
        broken[1][1].bias[0] = float("inf")
    assert first_nonfinite(broken, torch.ones(1, 2)) == "1.1.bias"


def test_the_first_output_on_the_way_is_named() -> None:
    broken = nn.Sequential(nn.Linear(2, 2), Explode(), nn.Linear(2, 2))
    assert first_nonfinite(broken, torch.ones(1, 2)) == "output of 1"


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.body(x), self.body(x) / 0.0


def test_either_of_two_outputs_counts() -> None:
    assert first_nonfinite(TwoHeads(), torch.ones(1, 2)) == "output of the model"


def test_no_hook_is_left() -> None:
    broken = model()
    first_nonfinite(broken, torch.ones(1, 2))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in broken.modules())


def test_parameters_are_checked_by_name() -> None:
    broken = model()
    check_parameters(broken, step=3)
    with torch.no_grad():
        broken[0].bias[1] = float("nan")
    with pytest.raises(DivergedError, match=r"step 3: 0\.bias is not finite after the update"):
        check_parameters(broken, step=3)


@pytest.mark.parametrize(
    "top1", [[0.1, 0.1, 0.1], [0.9, 0.1], [0.9, 0.1, 0.2], [0.2, 0.1, 0.1]], ids=["never-up", "too-early", "recovers", "barely-up"]
)
def test_no_collapse(top1: list[float]) -> None:
    check_collapse(top1, num_classes=10)


def test_collapse() -> None:
    with pytest.raises(DivergedError, match=r"fell from 90\.0% to 11\.0%, chance is 10\.0%"):
        check_collapse([0.3, 0.9, 0.1, 0.11], num_classes=10)
