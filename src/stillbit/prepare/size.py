"""How large a model is when each weight takes its own width, and how large it was."""

from torch import nn

from stillbit.modules.shift import Shifted
from stillbit.quantizers.base import Quantizer
from stillbit.quantizers.site import WeightSite, weight_sites

_FLOAT_BYTES = 4


def packed_bytes(model: nn.Module) -> int:
    """Return the bytes of a model whose quantized weights are packed at their width; everything else that it needs to infer is float32.

    Counted are codes, scales and zero points, biases, and batch norm's parameters and statistics; not pins, flags and step counts,
    which only training needs.

    Args:
        model: Any model; a float one has no codes.

    Returns:
        Bytes, codes of each layer rounded up to whole bytes.

    >>> packed_bytes(nn.Linear(8, 4))
    144
    """
    sites = weight_sites(model)
    latents = {id(parameter) for site in sites for parameter in site.parameters}
    codes = sum(code_bytes(site) for site in sites)
    parameters = sum(p.numel() for p in model.parameters() if id(p) not in latents)
    buffers = sum(buffer.numel() for buffer in model.buffers() if buffer.is_floating_point())
    return codes + _FLOAT_BYTES * (parameters + buffers)


def code_bytes(site: WeightSite) -> int:
    """Return the bytes of a weight's codes, packed at their width, rounded up to a whole one."""
    return -(-site.latent().numel() * site.quantizer.bits // 8)


def float_bytes(model: nn.Module) -> int:
    """Return the bytes of the network that a model was prepared from, all in float32: no scales, zero points or learned shifts.

    Args:
        model: Any model.

    >>> float_bytes(nn.Linear(8, 4))
    144
    """
    own = (module for module in model.modules() if isinstance(module, Quantizer | Shifted))
    apart = {id(tensor) for module in own for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))}
    tensors = (*model.parameters(), *(buffer for buffer in model.buffers() if buffer.is_floating_point()))
    return _FLOAT_BYTES * sum(tensor.numel() for tensor in tensors if id(tensor) not in apart)
