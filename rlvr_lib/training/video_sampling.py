"""Sampling from a video world model: G responses per prompt, known actions put in where the layout says (E.2, F.2)."""

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from rlvr_lib.tokens.video_layouts import Layout
from rlvr_lib.training.generation import Fill, sample


def given_columns(layout: Layout, given: Tensor | None, rows: int) -> Tensor | None:
    """Ids of given actions [B, n] -> what the sampler wants: [B, R] with -1 where the model samples; None without."""
    if given is None or not len(layout.given):
        return None
    known = torch.full((rows, layout.response), -1)
    known[:, layout.given] = given.cpu()
    return known


def sample_response(
    model: LlamaForCausalLM,
    layout: Layout,
    prompt: Tensor,
    given: Tensor | None = None,
    *,
    group: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    generator: torch.Generator | None = None,
    uniforms: Tensor | None = None,
    race: Tensor | None = None,
    max_rows: int | None = None,
    graphs: bool | None = None,
    dtype: torch.dtype | None = None,
    penalty: float = 1.0,
    fill: Fill | None = None,
) -> Tensor:
    """Prompt ids [B, P] and the ids of given actions [B, n] -> response ids [B x G, R], prompt by prompt.

    ``temperature`` 0 is greedy; ``top_k`` 0 keeps every id. Any id may be drawn; decoding clamps them. ``uniforms``
    [B, G, R] are the random numbers to draw with, if the generator's are not wanted; ``race`` [R, V] is noise that all
    rows share; ``graphs``, ``dtype``, ``penalty`` and ``fill`` as there (see
    :func:`rlvr_lib.training.generation.sample`); with ``fill`` what ``given`` holds does not matter.
    """
    if prompt.shape[1] != layout.prompt:
        raise ValueError(f"{layout.kind} layout: a prompt has {layout.prompt} ids, got {prompt.shape[1]}")
    if len(layout.given) != (0 if given is None else given.shape[1]):
        raise ValueError(f"{layout.kind} layout: needs {len(layout.given)} given ids")
    result = sample(
        model,
        prompt.tolist(),
        group,
        layout.response,
        None,
        0,
        temperature=temperature or 1.0,
        greedy=temperature == 0,
        generator=generator,
        max_rows=max_rows,
        top_k=top_k,
        given=given_columns(layout, given, len(prompt)),
        uniforms=uniforms,
        race=race,
        graphs=graphs,
        dtype=dtype,
        penalty=penalty,
        fill=fill,
    )
    return torch.tensor(result.completions, device=prompt.device)
