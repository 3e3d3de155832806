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
        scaled = _scaled(logits[rows], precision, temperature)
        top = scaled.amax(-1, keepdim=True)
        weights = (scaled - top).exp_()  # the softmax but for its sum: one exponential serves both results
        total = weights.sum(-1)
        normaliser = top[:, 0] + total.log()
        logps[rows] = scaled.gather(1, targets[rows, None])[:, 0] - normaliser
        normalisers[rows] = normaliser
        if entropy:
            entropies[rows] = normaliser - torch.linalg.vecdot(weights, scaled) / total
    return logps, entropies, normalisers


def _eager_backward(
    logits, targets, normalisers, entropies, logp_gradient, entropy_gradient, temperature, in_place: bool = False
) -> Tensor:
    gradient = logits if in_place else torch.empty_like(logits)
    for rows in _chunks(logits, _CHUNK_ELEMENTS["cpu" if logits.device.type == "cpu" else "cuda"]):
        log_p = _scaled(logits[rows], normalisers.dtype, temperature)
        shared = log_p.data_ptr() == logits[rows].data_ptr()  # nothing was converted
        log_p = log_p.sub_(normalisers[rows, None]) if shared and in_place else log_p - normalisers[rows, None]
        # d logp / dz = onehot - p;  d entropy / dz = -p (log p + entropy)
        if logits.device.type == "cpu" and not entropy_gradient[rows].any():  # a GPU would have to be waited for
            factor = -logp_gradient[rows, None]
        else:
            factor = log_p + entropies[rows, None]
            factor.mul_(-entropy_gradient[rows, None]).sub_(logp_gradient[rows, None])
        log_p.exp_().mul_(factor)
        log_p.scatter_add_(1, targets[rows, None], logp_gradient[rows, None])
        if temperature != 1:
            log_p.div_(temperature)
        if log_p.data_ptr() != gradient[rows].data_ptr():
            gradient[rows] = log_p
    return gradient


def _scaled(logits: Tensor, precision: torch.dtype, temperature: float) -> Tensor:
    """Logits over temperature in a precision; themselves where neither changes anything."""
    logits = logits.to(precision)
    return logits if temperature == 1 else logits / temperature


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
    entropies says so: they are 0 then (on a GPU they cost nothing), and have no gradient. With ``in_place`` the
    gradient may take the logits' memory, for those who read them nowhere else: a second backward pass then raises
    RuntimeError.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, temperature: float, entropy: bool = True, in_place: bool = False):
        if not entropy and logits.device.type == "cpu":
            logps, entropies, normalisers = _eager_forward(logits, targets, temperature, entropy=False)
        else:
            run = _forward if logits.numel() < _COMPILED_ELEMENTS else _eager_forward
            logps, entropies, normalisers = run(logits, targets, temperature)
        if not entropy:
            ctx.mark_non_differentiable(entropies)
        ctx.save_for_backward(logits, targets, normalisers, entropies)
        ctx.temperature, ctx.in_place = temperature, in_place and logits.device.type == "cpu"
        return logps, entropies

    @staticmethod
    def backward(ctx, logp_gradient: Tensor, entropy_gradient: Tensor):
        inputs = (*ctx.saved_tensors, logp_gradient, entropy_gradient, ctx.temperature)
        if ctx.in_place:
            return _eager_backward(*inputs, in_place=True), None, None, None, None
        run = _backward if ctx.saved_tensors[0].numel() < _COMPILED_ELEMENTS else _eager_backward
        return run(*inputs), None, None, None, None


def _chunks(logits: Tensor, elements: int):
    size = max(1, elements // logits.shape[1])
    return (slice(start, start + size) for start in range(0, len(logits), size))
