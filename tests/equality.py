"""Bitwise equality of checkpoints."""

import torch


def assert_equal(there: object, here: object, path: str = "") -> None:
    """Assert that two nested structures hold equal tensors and numbers; name the first that differs."""
    if isinstance(there, torch.Tensor):
        assert isinstance(here, torch.Tensor)
        assert torch.equal(there, here), path
    elif isinstance(there, dict):
        assert isinstance(here, dict)
        assert list(there) == list(here), path
        for key, value in there.items():
            assert_equal(value, here[key], f"{path}.{key}")
    elif isinstance(there, list | tuple):
        assert isinstance(here, list | tuple)
        assert len(there) == len(here), path
        for index, value in enumerate(there):
            assert_equal(value, here[index], f"{path}[{index}]")
    else:
        assert there == here, path
