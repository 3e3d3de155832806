"""Sampling from a video world model: the response id by id, known actions put in where the layout says (E.2, F.2)."""

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM

from rlvr_lib.tokens.video_layouts import Layout


@torch.no_grad()
def sample_response(
    model: LlamaForCausalLM,
    layout: Layout,
    prompt: Tensor,
    given: Tensor | None = None,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Prompt ids [B, P] and the ids of given actions [B, n] -> response ids [B, R].

    ``temperature`` 0 is greedy; ``top_k`` 0 keeps every id. Any id may be drawn; decoding clamps them.
    Runs of given ids go through the model in one pass. The last position is never fed: nothing follows it.
    """
    if prompt.shape[1] != layout.prompt:
        raise ValueError(f"{layout.kind} layout: a prompt has {layout.prompt} ids, got {prompt.shape[1]}")
    if len(layout.given) != (0 if given is None else given.shape[1]):
        raise ValueError(f"{layout.kind} layout: needs {len(layout.given)} given ids")
    model.eval()
    cache, response, fed = DynamicCache(), prompt.new_empty(len(prompt), layout.response), prompt
    sampled, handed, place = layout.sampled.tolist(), 0, 0
    while place < layout.response:
        if sampled[place]:
            logits = model(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
            response[:, place] = draw(logits, temperature, top_k, generator)
            fed, place = response[:, place : place + 1], place + 1
            continue
        run = place
        while run < layout.response and not sampled[run]:
            run += 1
        response[:, place:run] = given[:, handed : handed + run - place]
        fed = torch.cat([fed, response[:, place:run]], dim=1)
        handed, place = handed + run - place, run
    return response


def draw(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator | None = None) -> Tensor:
    """Logits [B, V] -> ids [B]: the likeliest at temperature 0, else from softmax(logits / temperature), top k."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / temperature
    if 0 < top_k < logits.shape[-1]:
        smallest = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, float("-inf"))
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)
