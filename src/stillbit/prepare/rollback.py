"""All or nothing: a model that cannot be prepared stays the float model that it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def structure_restored_on_error(model: nn.Module) -> Iterator[None]:
    """Put children and hooks of every module back if the block raises."""
    before = [(module, dict(module._modules), dict(module._forward_hooks), dict(module._forward_pre_hooks)) for module in model.modules()]
    try:
        yield
    except BaseException:
        for module, children, hooks, pre_hooks in before:
            for current, old in ((module._modules, children), (module._forward_hooks, hooks), (module._forward_pre_hooks, pre_hooks)):
                current.clear()
                current.update(old)  # type: ignore[arg-type]
        raise
