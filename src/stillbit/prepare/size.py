"""How large a model is when each weight takes its own width."""

from torch import nn

from stillbit.quantizers.site import weight_sites

_FLOAT_BYTES = 4


def packed_bytes(model: nn.Module) -> int:
    """Gives the bytes of a model whose quantized weights are packed at their width; everything else that it needs to infer is float32.

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
    codes = sum(-(-site.latent().numel() * site.quantizer.bits // 8) for site in sites)
    parameters = sum(p.numel() for p in model.parameters() if id(p) not in latents)
    buffers = sum(buffer.numel() for buffer in model.buffers() if buffer.is_floating_point())
    return codes + _FLOAT_BYTES * (parameters + buffers)
