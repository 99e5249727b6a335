import importlib
import subprocess
import sys

import pytest

from stillbit.prepare.points_table import TABLE, table_entry


@pytest.mark.parametrize("name", TABLE)
def test_the_class_exists(name: str) -> None:
    module, _, kind = name.rpartition(".")
    assert isinstance(getattr(importlib.import_module(module), kind), type)


def test_a_subclass_is_not_in_the_table() -> None:
    from torchvision.models.mobilenetv2 import InvertedResidual

    class Own(InvertedResidual):
        pass

    assert table_entry(InvertedResidual(8, 8, 1, 2)) is not None
    assert table_entry(Own(8, 8, 1, 2)) is None


@pytest.mark.integration
def test_preparing_an_own_model_imports_neither_library() -> None:
    program = """
import sys, torch
from stillbit.prepare.swap import prepare
from stillbit.prepare.policy import QuantConfig
prepare(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)), QuantConfig(policy="integer"), example=torch.zeros(1, 3))
sys.exit(bool({"timm", "torchvision"} & sys.modules.keys()))
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=False).returncode == 0
