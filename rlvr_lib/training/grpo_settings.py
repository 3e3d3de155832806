"""A profile's section as TRL's settings: the paper's GRPO, value by value (spec 0.2, E.1)."""

import os
from pathlib import Path
from typing import Any

import torch
from trl import GRPOConfig

from rlvr_lib.artifacts import UserError
from rlvr_lib.provenance import fast_bfloat16


def grpo_config(
    settings: Any, output_dir: str | Path, seed: int, device: str | torch.device = "cpu", **overrides: Any
) -> GRPOConfig:
    """The paper's GRPO for TRL, from a profile section such as `text_game.rlvr`.

    `settings.steps` counts rollout batches; each gives prompts_per_step / prompts_per_update optimiser updates.
    `sequences_per_micro_batch` are averaged together (per device) and must divide an update's sequences.
    `overrides` go to `GRPOConfig` as they are.
    """
    cpu = torch.device(device).type == "cpu"
    world = int(os.environ.get("WORLD_SIZE", "1"))
    sequences = settings.prompts_per_update * settings.group_size
    micro = min(settings.sequences_per_micro_batch, sequences // world)
    if settings.prompts_per_step % settings.prompts_per_update or sequences % (micro * world):
        raise UserError(
            f"prompts_per_step {settings.prompts_per_step} must be a multiple of prompts_per_update "
            f"{settings.prompts_per_update}, and an update's {sequences} sequences a multiple of "
            f"sequences_per_micro_batch {micro} x {world} devices"
        )
    updates = settings.prompts_per_step // settings.prompts_per_update
    accumulation = sequences // (micro * world)
    values = dict(
        output_dir=str(output_dir),
        seed=seed,
        max_steps=settings.steps * updates,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        steps_per_generation=accumulation * updates,
        num_generations=settings.group_size,
        num_iterations=1,
        max_completion_length=overrides.pop("max_completion_length", None) or settings.max_response,
        temperature=settings.temperature,
        top_p=settings.top_p,
        # Paper: token mean over a micro-batch, k3 KL as a loss term without importance weight, entropy as a bonus.
        loss_type="bnpo",
        beta=settings.kl_coefficient,
        use_bias_correction_kl=False,
        scale_rewards="group",
        epsilon=settings.clip,
        entropy_coef=settings.entropy_coefficient,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.grad_clip,
        logging_steps=updates,
        save_strategy="steps",
        save_steps=settings.save_every * updates,
        save_total_limit=2,
        report_to="none",
        use_cpu=cpu,
        bf16=getattr(settings, "bf16", not cpu) and fast_bfloat16("cpu" if cpu else "cuda"),
        gradient_checkpointing=not cpu,
        dataloader_pin_memory=not cpu,
        disable_tqdm=True,
    )
    return GRPOConfig(**{**values, **overrides})
