"""Golden cases of the ViT paper's LSQ of our own: a walk under iterative freezing, losses, a linear layer with silent tokens."""

from collections.abc import Iterator

import torch
from torch import Tensor

from tests.data.golden_quantizers import File

_FLOOR = 1e-5  # of the scale in forward (docs/spec/vit.md, 2.1)
_STEPS, _STEPS_EVAL = 60, 2


def vit_files() -> Iterator[File]:
    yield _walk("lsq_iterfreeze_tensor_b3", bits=3, momentum=0.1, threshold=0.2, per_channel=False)
    yield _walk("lsq_iterfreeze_row_b2", bits=2, momentum=0.05, threshold=0.15, per_channel=True)
    yield _soft_loss("kd_soft_T2_none", reduction="none", temperature=2.0)
    yield _joint_loss("kd_softhard_distilled_none", reduction="none")
    yield _joint_loss("kd_softhard_distilled_sum", reduction="sum")
    yield _linear("mod_qlinear_w3a3_silent_token", bits=3)


def _lsq(x: Tensor, scale: Tensor, bits: int, frozen: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Return codes and values of a signed grid (docs/spec/vit.md, 2.1); gradients follow by autograd from the straight-through rounding."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    factor = (high * x.numel() / scale.numel()) ** -0.5
    used = scale + (scale.clamp(min=_FLOOR) - scale).detach()
    used = used.detach() + (used - used.detach()) * factor
    v = x / used
    inside = (v >= low) & (v <= high)
    clipped = torch.where(inside, v, v.detach().clamp(low, high))
    code = clipped + (clipped.round() - clipped).detach()
    if frozen is not None:
        code = torch.where(frozen[0], frozen[1], code)
    return code, code * used


def _walk(stem: str, *, bits: int, momentum: float, threshold: float, per_channel: bool) -> File:
    """A weight whose latents jitter about rounding boundaries, and its tracker (docs/spec/vit.md, 2.3)."""
    generator = torch.Generator().manual_seed(9700 + bits)
    steps, shape = _STEPS + _STEPS_EVAL, (4, 6)
    s = 0.1 + 0.05 * torch.rand((4, 1) if per_channel else (1,), generator=generator)
    home = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, shape, generator=generator) + torch.rand(shape, generator=generator)
    noise = 0.4 * torch.rand(shape, generator=generator) * torch.randn(steps, *shape, generator=generator)
    x, g = (home + noise) * s, torch.randn(steps, *shape, generator=generator)
    previous, average = None, None
    frequency, total, direction, frozen, pinned = (torch.zeros(shape) for _ in range(5))
    found: dict[str, list[Tensor]] = {}
    for index in range(steps):
        w, scale = x[index].clone().requires_grad_(), s.clone().requires_grad_()
        code, y = _lsq(w, scale, bits, (frozen.bool(), pinned))
        dx, ds = torch.autograd.grad(y, [w, scale], g[index])
        k = code.detach()
        if index < _STEPS:
            previous, average = (k, k) if previous is None else (previous, average)
            turn = torch.sign((previous - k).round())
            oscillated = (direction * turn == -1).float()
            frequency = momentum * oscillated + (1 - momentum) * frequency
            direction, previous = torch.where(turn != 0, turn, direction), k
            total = total + oscillated
            hot = frequency > threshold
            frozen = (frozen.bool() | hot).float()
            pinned = torch.where(hot, average.round(), pinned)
            average = momentum * k + (1 - momentum) * average
        state = {"y": y, "dx": dx, "ds": ds.flatten(), "ema_oscillation": frequency, "total_oscillation": total}
        state |= {"prev_switch_dir": direction, "frozen": frozen, "frozen_x_int": pinned, "ema_x_int": average}
        for name, tensor in state.items():
            found.setdefault(name, []).append(tensor.detach().clone())
    tensors = {name: torch.stack(series) for name, series in found.items()}
    config = {"op": "lsq_iterative_freezing", "bits": bits, "per_channel": per_channel, "momentum": momentum, "freeze_threshold": threshold}
    config |= {"steps_train": _STEPS, "steps_eval": _STEPS_EVAL, "n_frozen_end": int(frozen.sum()), "compute_dtype": "float32"}
    assert 0 < frozen.sum() < frozen.numel(), f"{stem}: {int(frozen.sum())} frozen"
    return stem, config, tensors | {"x": x, "g": g, "s": s.flatten()}


_REDUCTIONS = {"none": lambda losses: losses, "sum": torch.sum, "mean": torch.mean}


def _soft(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the soft cross-entropy of each image (docs/spec/vit.md, 6)."""
    return -((teacher / temperature).softmax(1) * (logits / temperature).log_softmax(1)).sum(1)


def _logits(count: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 7, generator=generator, dtype=torch.float64) for _ in range(count)]


def _loss_config(op: str, reduction: str, temperature: float) -> dict:
    return {"op": op, "reduction": reduction, "temperature": temperature, "hard": "int", "compute_dtype": "float64"}


def _soft_loss(stem: str, *, reduction: str, temperature: float) -> File:
    student, teacher = _logits(2, 9800)
    student.requires_grad_()
    loss = _REDUCTIONS[reduction](_soft(student, teacher, temperature))
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    tensors = {"out0": student, "teacher0": teacher, "loss": loss, "grad.out0": gradient}
    return stem, _loss_config("KLLossSoft", reduction, temperature), tensors


def _joint_loss(stem: str, *, reduction: str) -> File:
    classes, distilled, teacher = _logits(3, 9801)
    hard = torch.tensor([3, 0, 6, 2], dtype=torch.int32)
    heads = [classes.requires_grad_(), distilled.requires_grad_()]
    losses = _soft(distilled, teacher, 1.0) - classes.log_softmax(1)[torch.arange(4), hard.long()]
    loss = _REDUCTIONS[reduction](losses)
    gradients = torch.autograd.grad(loss.sum(), heads)
    tensors = {"out0": classes, "out1": distilled, "teacher0": teacher, "hard": hard, "loss": loss}
    tensors |= {f"grad.out{index}": gradient for index, gradient in enumerate(gradients)}
    return stem, _loss_config("KDLossSoftandHard", reduction, 1.0), tensors


def _statsq(w: Tensor, bits: int) -> Tensor:
    """Return the values of the mid-rise grid whose scale follows from each row (docs/spec/vit.md, 1); the gradient passes as it is."""
    half = 2 ** (bits - 1)
    s = 2 * w.detach().abs().mean(1, keepdim=True)
    index = ((w.detach() / s).clamp(-1, 1 - 1e-6) * half - 0.5).round()
    return w + (s * (index + 0.5) / half - w).detach()


def _linear(stem: str, *, bits: int) -> File:
    """A low-bit linear layer (docs/spec/vit.md, 3.2); one token is silent and one nearly, so their first scales lie below any floor."""
    generator = torch.Generator().manual_seed(9900)

    def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    inputs, outputs, tokens = 6, 5, 4
    x, g = noise(2, tokens, inputs), noise(2, tokens, outputs)
    x[:, 1], x[:, 2] = 0.0, x[:, 2] * 1e-9
    parameters = {"weight": noise(outputs, inputs), "bias": noise(outputs)}
    parameters |= {"move_b4.bias": 0.1 * noise(inputs), "move_aft.bias": 0.1 * noise(inputs)}
    first = 2 * x.abs().mean((0, 2)) / (2 ** (bits - 1) - 1) ** 0.5
    parameters["input_quant_fn.s"] = (0.4 + 0.3 * torch.rand(tokens, generator=generator)).double()
    leaves = {name: tensor.requires_grad_() for name, tensor in (parameters | {"x": x}).items()}

    def run(scale: Tensor, before: Tensor, after: Tensor) -> Tensor:
        value = _lsq(x + before, scale.view(1, tokens, 1), bits)[1] + after
        return value @ _statsq(leaves["weight"], bits).T + leaves["bias"]

    y = run(leaves["input_quant_fn.s"], leaves["move_b4.bias"], leaves["move_aft.bias"])
    gradients = dict(zip(leaves, torch.autograd.grad(y, list(leaves.values()), g), strict=True))
    zero = torch.zeros(inputs, dtype=torch.float64)
    tensors = {"x": x, "g": g, "y": y, "y_init": run(first, zero, zero).float(), "init.input_quant_fn.s": first}
    tensors |= {"dx": gradients.pop("x")} | {f"grad.{name}": tensor for name, tensor in gradients.items()}
    tensors |= {f"sd.{name}": tensor for name, tensor in parameters.items()}
    tensors["sd.statsq_fn.clip_val"] = torch.tensor([2.0])
    config = {"op": "QLinear", "bits_a": bits, "bits_w": bits, "din": inputs, "dout": outputs, "fp_bias": True, "act_signed": True}
    return stem, config | {"compute_dtype": "float64"}, tensors
