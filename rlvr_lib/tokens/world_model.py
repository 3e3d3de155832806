"""The video world model: a LLaMA decoder over a layout's ids, the standard class with a standard checkpoint (C.1)."""

from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlvr_lib.tokens.video_layouts import MultiStepLayout, SingleStepLayout


@dataclass(frozen=True)
class Size:
    """The paper's by default: 120 381 696 parameters single-step, 127 101 696 multi-step."""

    hidden: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072


PAPER = Size()


def world_model(layout: SingleStepLayout | MultiStepLayout, size: Size = PAPER, seed: int = 0) -> LlamaForCausalLM:
    """A fresh model for the layout's vocabulary: normal(0, 0.02) weights, no biases, untied embeddings, rotary 10 000.

    The layout is written into the configuration (``config.layout``), so that a checkpoint says how to read it.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=layout.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=8192,
        rms_norm_eps=1e-6,
        initializer_range=0.02,
        tie_word_embeddings=False,
        attention_bias=False,
        bos_token_id=layout.vocabulary - 2,
        eos_token_id=layout.vocabulary - 1,
        pad_token_id=layout.vocabulary - 1,
    )
    config.layout = layout.describe()
    return LlamaForCausalLM(config)
