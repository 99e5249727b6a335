import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from stillbit.errors import PrepareError
from stillbit.quantizers import LSQ, Quantizer
from stillbit.quantizers.tied import TiedQuantizer


def tied_pair() -> nn.ModuleDict:
    source = LSQ(3)
    source.label = "block.output_quantizer"
    source.set_range(torch.tensor([0.0]), torch.tensor([7.0]))
    return nn.ModuleDict({"source": source, "tied": TiedQuantizer(source)})


def test_quantizes_on_the_grid_of_its_source() -> None:
    pair = tied_pair()
    assert torch.equal(pair["tied"](torch.tensor([0.4, 3.6, 9.0])), torch.tensor([0.0, 4.0, 7.0]))
    with torch.no_grad():
        pair["source"].scale.mul_(2)
    assert torch.equal(pair["tied"](torch.tensor([0.4, 3.6, 9.0])), torch.tensor([0.0, 4.0, 8.0]))


def test_state_is_stored_once() -> None:
    pair = tied_pair()
    assert list(pair["tied"].parameters()) == []
    assert list(pair["tied"].state_dict()) == []
    assert [module for module in pair["tied"].modules() if isinstance(module, Quantizer)] == []


def test_gradients_of_both_uses_add_up() -> None:
    pair, x = tied_pair(), torch.tensor([9.0])
    (pair["source"](x) + pair["tied"](x)).sum().backward()
    assert pair["source"].scale.grad.item() == 14.0


def test_passes_by_the_hooks_of_its_source() -> None:
    pair, calls = tied_pair(), []
    pair["source"].register_forward_pre_hook(lambda *_: calls.append(True))
    pair["tied"](torch.zeros(1))
    assert calls == []


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"])
def test_a_copy_keeps_the_tie(copied: object) -> None:
    pair = tied_pair()
    twin = copied(pair)
    assert twin["tied"].source is twin["source"]
    assert twin["source"] is not pair["source"]


def test_follows_its_source_to_another_dtype() -> None:
    pair = tied_pair().double()
    assert pair["tied"].source.scale.dtype == torch.float64
    assert pair["tied"](torch.tensor([3.6], dtype=torch.float64)).item() == 4.0


def test_follows_bypass_and_readiness_of_its_source() -> None:
    x: Tensor = torch.tensor([3.6])
    source = LSQ(3)
    tied = TiedQuantizer(source)
    with pytest.raises(PrepareError, match="has no range yet"):
        tied(x)
    source.bypass = True
    assert tied(x) is x


def test_shows_its_source() -> None:
    assert repr(tied_pair()["tied"]) == "TiedQuantizer(source=block.output_quantizer)"
