"""Log-probability and entropy of tokens from logits, with nothing of the logits' size kept beside them."""

import torch
from torch import Tensor

from rlvr_lib.training.fused import Fused

_CHUNK_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 27}  # softmax work space, float32: 1 MB in a core's cache; 512 MB
_COMPILED_ELEMENTS = 1 << 30  # in one kernel nothing is stored between; below 2^31 indices stay 32-bit


def _eager_forward(
    logits: Tensor, targets: Tensor, temperature: float, entropy: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    precision = torch.promote_types(logits.dtype, torch.float32)
    logps, entropies, normalisers = (logits.new_zeros(len(logits), dtype=precision) for _ in range(3))
    for rows in _chunks(logits, _CHUNK_ELEMENTS["cpu" if logits.device.type == "cpu" else "cuda"]):
        scaled = logits[rows].to(precision) / temperature
        normaliser = scaled.logsumexp(-1)
        logps[rows] = scaled.gather(1, targets[rows, None])[:, 0] - normaliser
        normalisers[rows] = normaliser
        if entropy:
            probabilities = (scaled - normaliser[:, None]).exp_()
            entropies[rows] = normaliser - torch.linalg.vecdot(probabilities, scaled)
    return logps, entropies, normalisers


def _eager_backward(logits, targets, normalisers, entropies, logp_gradient, entropy_gradient, temperature) -> Tensor:
    gradient = torch.empty_like(logits)
    for rows in _chunks(logits, _CHUNK_ELEMENTS["cpu" if logits.device.type == "cpu" else "cuda"]):
        log_p = logits[rows].to(normalisers.dtype) / temperature - normalisers[rows, None]
        # d logp / dz = onehot - p;  d entropy / dz = -p (log p + entropy)
        if logits.device.type == "cpu" and not entropy_gradient[rows].any():  # a GPU would have to be waited for
            factor = -logp_gradient[rows, None]
        else:
            factor = log_p + entropies[rows, None]
            factor.mul_(-entropy_gradient[rows, None]).sub_(logp_gradient[rows, None])
        log_p.exp_().mul_(factor)
        log_p.scatter_add_(1, targets[rows, None], logp_gradient[rows, None])
        gradient[rows] = log_p.div_(temperature)
    return gradient


def _softmax_forward(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """The same as `_eager_forward` for a compiler that keeps a row on the chip."""
    scaled = logits.float() / temperature
    normaliser = scaled.logsumexp(-1)
    entropy = normaliser - ((scaled - normaliser[:, None]).exp() * scaled).sum(-1)
    return logits.gather(1, targets[:, None])[:, 0].float() / temperature - normaliser, entropy, normaliser


def _softmax_backward(logits, targets, normalisers, entropies, logp_gradient, entropy_gradient, temperature) -> Tensor:
    """The same as `_eager_backward`, written without a scatter: one read and one write of the logits' size."""
    log_p = logits.float() / temperature - normalisers[:, None]
    hit = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
    factor = logp_gradient[:, None] + entropy_gradient[:, None] * (log_p + entropies[:, None])
    gradient = torch.where(hit, logp_gradient[:, None], 0.0) - log_p.exp() * factor
    return (gradient / temperature).to(logits.dtype)


_forward = Fused(_softmax_forward, _eager_forward)
_backward = Fused(_softmax_backward, _eager_backward)


class TokenStatistics(torch.autograd.Function):
    """(M, V) logits, (M,) targets, temperature -> log-probability of the target and entropy, each (M,), in nats.

    The softmax is recomputed in the backward pass, so that nothing of size M*V but the logits is kept. Who needs no
    entropies says so: they are 0 then (on a GPU they cost nothing), and have no gradient.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, temperature: float, entropy: bool = True):
        if not entropy and logits.device.type == "cpu":
            logps, entropies, normalisers = _eager_forward(logits, targets, temperature, entropy=False)
        else:
            run = _forward if logits.numel() < _COMPILED_ELEMENTS else _eager_forward
            logps, entropies, normalisers = run(logits, targets, temperature)
        if not entropy:
            ctx.mark_non_differentiable(entropies)
        ctx.save_for_backward(logits, targets, normalisers, entropies)
        ctx.temperature = temperature
        return logps, entropies

    @staticmethod
    def backward(ctx, logp_gradient: Tensor, entropy_gradient: Tensor):
        run = _backward if ctx.saved_tensors[0].numel() < _COMPILED_ELEMENTS else _eager_backward
        gradient = run(*ctx.saved_tensors, logp_gradient, entropy_gradient, ctx.temperature)
        return gradient, None, None, None


def _chunks(logits: Tensor, elements: int):
    size = max(1, elements // logits.shape[1])
    return (slice(start, start + size) for start in range(0, len(logits), size))
