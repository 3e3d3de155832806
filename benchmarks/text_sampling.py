"""Sampling and a whole GRPO step against HF generate and unmodified TRL, side by side in one run.

    python benchmarks/text_sampling.py [--repeats 3] [--out benchmarks/results/text_sampling_cpu.json]

A text-game-like shape on one thread: 32 prompts of about 180 tokens, 5 responses of 60 tokens each, a Qwen2 of 4 layers
and 192 dimensions. The contestants take turns; medians and their ratios are reported, in CPU seconds (what the work
costs, also when other programs run) and wall seconds. HF generate is given its better batch size of the two tried.
"""

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import torch

import rlvr_lib  # noqa: F401  (first: makes transformers importable beside a CPU torch)

# isort: split
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, PrinterCallback, Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from trl import GRPOTrainer

from rlvr_lib.artifacts import atomic_write_text
from rlvr_lib.training.generation import sample
from rlvr_lib.training.grpo import GroupedGRPOTrainer
from rlvr_lib.training.grpo_settings import grpo_config

B, G, P, R, V = 32, 5, 180, 60, 1500
PAD, EOS = V - 2, V - 1


def build(folder: Path) -> tuple[Qwen2ForCausalLM, PreTrainedTokenizerFast, list[list[int]]]:
    """A model with random weights (saved to `folder`), a number tokenizer, and prompts of 150 to 210 tokens."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=V,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        intermediate_size=512,
        tie_word_embeddings=True,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    model = Qwen2ForCausalLM(config).eval()
    model.save_pretrained(folder)
    inner = Tokenizer(models.WordLevel({str(i): i for i in range(PAD)} | {"<pad>": PAD, "<eos>": EOS}, unk_token="0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )
    generator = random.Random(0)
    lengths = [generator.randint(P - 30, P + 30) for _ in range(B)]
    return model, tokenizer, [[generator.randrange(PAD) for _ in range(length)] for length in lengths]


def timed(function) -> tuple[float, float]:
    """CPU and wall seconds of a call."""
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return time.process_time() - cpu, time.perf_counter() - wall


def hf_generate(model, prompts: list[list[int]], group: int, rows_at_a_time: int) -> None:
    """Plain `generate` on every row, left-padded, exactly R new tokens."""
    rows = [prompt for prompt in prompts for _ in range(group)]
    for start in range(0, len(rows), rows_at_a_time):
        part = rows[start : start + rows_at_a_time]
        width = max(map(len, part))
        ids = torch.tensor([[PAD] * (width - len(row)) + row for row in part])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in part])
        with torch.no_grad():
            model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=R,
                do_sample=True,
                top_k=0,
                pad_token_id=PAD,
                eos_token_id=None,
            )


class StepClock(TrainerCallback):
    """CPU and wall seconds of the optimiser steps, rollout included."""

    def on_step_begin(self, args, state, control, **_):
        self.began = time.process_time(), time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        self.seconds = time.process_time() - self.began[0], time.perf_counter() - self.began[1]


def share_of_even(completion_ids, **_):
    """A reward that costs nothing and varies within groups."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def grpo_step(trainer_class, folder: Path, tokenizer, prompts, micro: int, **options):
    """One GRPO step (rollout, reward, reference pass, update) of a fresh trainer; returns its seconds and itself."""
    settings = SimpleNamespace(
        steps=1,
        prompts_per_step=len(prompts),
        prompts_per_update=len(prompts),
        group_size=G,
        learning_rate=1e-4,
        betas=(0.9, 0.999),
        weight_decay=0.01,
        grad_clip=1.0,
        kl_coefficient=0.001,
        clip=0.2,
        entropy_coefficient=0.001,
        temperature=1.0,
        top_p=1.0,
        max_response=R,
        save_every=1000,
        sequences_per_micro_batch=micro,
    )
    clock = StepClock()
    trainer = trainer_class(
        model=str(folder),
        reward_funcs=share_of_even,
        args=grpo_config(settings, folder / "out", seed=0, save_strategy="no"),
        train_dataset=Dataset.from_dict({"prompt": [" ".join(map(str, prompt)) for prompt in prompts]}),
        processing_class=tokenizer,
        callbacks=[clock],
        **options,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return clock.seconds, trainer


def rounds(contestants: dict, repeats: int) -> dict[str, dict[str, float]]:
    """Let the contestants take turns; medians of CPU and wall seconds."""
    seconds = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            seconds[name].append(run())
    medians = {}
    for name, pairs in seconds.items():
        cpu, wall = (statistics.median(column) for column in zip(*pairs, strict=True))
        medians[name] = {"cpu_seconds": round(cpu, 3), "wall_seconds": round(wall, 3)}
    return medians


def ratio(medians: dict, slow: str, fast: str) -> float:
    return round(medians[slow]["cpu_seconds"] / medians[fast]["cpu_seconds"], 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "text_sampling_cpu.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load = round(os.getloadavg()[0], 1)
    parts: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, tokenizer, prompts = build(folder)

        def ours(group):
            return timed(lambda: sample(model, prompts, group, R, None, PAD))

        def step(trainer_class, micro, **options):
            seconds, trainer = grpo_step(trainer_class, folder, tokenizer, prompts, micro, **options)
            if isinstance(trainer, GroupedGRPOTrainer):
                parts.update({part: round(value, 3) for part, value in trainer.seconds.items()})
            return seconds

        sample(model, prompts[:2], 2, 4, None, PAD)  # warm-up
        hf_generate(model, prompts[:2], 2, 4)
        sampling = rounds(
            {
                "ours, G=5": lambda: ours(G),
                "generate, G=5, 160 rows": lambda: timed(lambda: hf_generate(model, prompts, G, B * G)),
                "generate, G=5, 32 rows at a time": lambda: timed(lambda: hf_generate(model, prompts, G, 32)),
                "ours, G=1": lambda: ours(1),
                "generate, G=1": lambda: timed(lambda: hf_generate(model, prompts, 1, B)),
            },
            arguments.repeats,
        )
        for name, row in sampling.items():
            row["tokens_per_cpu_second"] = round(B * R * (G if "G=5" in name else 1) / row["cpu_seconds"])
        steps = rounds(
            {
                "ours": lambda: step(GroupedGRPOTrainer, B * G, self_check=False),
                "TRL, 160 sequences at a time": lambda: step(GRPOTrainer, B * G),
                "TRL, 20 sequences at a time": lambda: step(GRPOTrainer, 20),
            },
            max(1, arguments.repeats - 1),
        )
    best = min(list(sampling)[1:3], key=lambda name: sampling[name]["cpu_seconds"])
    best_step = min(list(steps)[1:], key=lambda name: steps[name]["cpu_seconds"])
    result = {
        "shape": {"B": B, "G": G, "P": P, "R": R, "V": V, "layers": 4, "hidden": 192, "threads": 1},
        "sampling": sampling,
        "grpo_step": steps,
        "ratios_cpu": {
            "sampling, G=5, against the better generate": ratio(sampling, best, "ours, G=5"),
            "sampling, G=1, against generate": ratio(sampling, "generate, G=1", "ours, G=1"),
            "GRPO step against the better TRL": ratio(steps, best_step, "ours"),
        },
        "our_step_wall_seconds_by_part": parts,
        "repeats": arguments.repeats,
        "load_average": {"at the start": load, "at the end": round(os.getloadavg()[0], 1)},
        "hardware": {"machine": platform.machine(), "processor": processor(), "system": platform.system()},
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")}
        | {"python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
    }
    atomic_write_text(arguments.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
