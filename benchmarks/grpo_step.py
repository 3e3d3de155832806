"""One GRPO step: stock TRL against ours, side by side in one run; whole step and its parts, tokens, passes, memory.

    python benchmarks/grpo_step.py [--repeats 3] [--threads 2] [--only reference,groups] [--tiny] [--out FILE]

Both get the same model, prompts and settings, and sample responses of one fixed length. Stock TRL runs with its own
``generate``, whole and in micro-batches of a quarter; its faster way counts. Contestants take turns; medians of wall
seconds. Parts: ``sampling`` and ``logprob_update`` (log-probabilities of old and reference policy, forward, backward,
optimiser). Weights are read into memory before: mapped from a file, they would be copied page by page in the
optimiser's first step, 150 ms in both. ``ideal`` is the token ratio of the shapes: what sharing prompts could save if
every token cost the same.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from side_by_side import PeakMemory, id_words, in_turn, surroundings

import rlvr_lib  # noqa: F401

# isort: split
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, TrainerCallback
from trl import GRPOTrainer

from rlvr_lib.artifacts import atomic_write_text
from rlvr_lib.training.decoding_copy import decoding_model
from rlvr_lib.training.generation import sample
from rlvr_lib.training.grpo import GroupedGRPOTrainer
from rlvr_lib.training.grpo_settings import grpo_config

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Shape:
    """B prompts of P ids, G responses of R ids each, V ids, and the size of the LLaMA."""

    prompts: int = 4
    group: int = 16
    prompt: int = 260
    response: int = 64
    vocabulary: int = 1024
    layers: int = 6
    hidden: int = 256
    heads: int = 8
    intermediate: int = 1024

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens of one pass over the batch: prompts repeated, prompts shared."""
        return (
            self.prompts * self.group * (self.prompt + self.response),
            self.prompts * (self.prompt + self.group * self.response),
        )


def shapes() -> dict[str, dict[str, Shape]]:
    """What is measured, by section."""
    length = 324
    shares = {f"{share} % prompt": round(length * share / 100) for share in (20, 40, 60, 80, 90)}
    small = {"layers": 4, "heads": 4, "intermediate": 704}
    return {
        "reference": {"reference": Shape()},
        "reference_9008": {"reference_9008": Shape(vocabulary=9008)},
        "groups": {f"G = {group}": Shape(group=group) for group in (4, 8, 16, 32)},
        "prompt_share": {name: Shape(prompt=p, response=length - p) for name, p in shares.items()},
        "like_the_notebooks": {
            "video, single-step": Shape(prompts=8, group=8, prompt=337, response=81, vocabulary=1258, **small),
            "video, multi-step": Shape(prompts=8, group=8, prompt=104, response=168, vocabulary=2258, **small),
            "text game": Shape(32, 5, 120, 30, 2048, 4, 192, 6, 512),
        },
    }


def tiny(shape: Shape) -> Shape:
    """The same at a size for tests."""
    sizes = {"prompts": 2, "group": min(shape.group, 4), "prompt": 12, "response": 5, "vocabulary": 64}
    return Shape(**sizes, layers=1, hidden=16, heads=2, intermediate=32)


class Clock(TrainerCallback):
    """Wall seconds of the optimiser step with its rollout, forward passes and ids that went through the model."""

    def __init__(self, device: str):
        self.device, self.seconds, self.passes, self.ids = device, 0.0, 0, 0

    def now(self) -> float:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    def on_train_begin(self, args, state, control, model=None, **_):
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def on_step_begin(self, args, state, control, **_):
        self.began = self.now()

    def on_step_end(self, args, state, control, **_):
        self.seconds = self.now() - self.began

    def _count(self, _module, inputs, named):
        ids = named.get("input_ids", inputs[0] if inputs else None)
        self.passes += 1
        self.ids += 0 if ids is None else ids.numel()


class TimedTRL(GRPOTrainer):
    """Stock TRL that measures how long its own sampling takes; nothing else is touched."""

    sampling = 0.0

    def _generate_single_turn(self, *args, **kw):
        began = time.perf_counter()
        result = super()._generate_single_turn(*args, **kw)
        self.sampling += time.perf_counter() - began
        return result


class TimedOurs(GroupedGRPOTrainer):
    """Ours with responses of a fixed length, as TRL's with the end suppressed."""

    def sample_responses(self, model, prompts, group_size, generator):
        found = sample(model, prompts, group_size, self.max_completion_length, None, 0, generator=generator)
        if decoding_model(model) is not model:  # a copy, whose passes the clock does not see
            self.clock.passes += 1 + found.decode_steps
            self.clock.ids += found.prefill_tokens + found.decode_steps * len(found.completions)
        return found


def share_of_even(completion_ids, **_):
    """A reward that costs nothing and varies within groups."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def step(kind: type, shape: Shape, folder: Path, micro: int, device: str) -> dict[str, float]:
    """One step of a fresh trainer: seconds by part, passes, ids, peak memory."""
    settings = SimpleNamespace(
        **{"steps": 1, "prompts_per_step": shape.prompts, "prompts_per_update": shape.prompts},
        **{"group_size": shape.group, "learning_rate": 1e-4, "betas": (0.9, 0.999), "weight_decay": 0.01},
        **{"grad_clip": 1.0, "kl_coefficient": 0.001, "clip": 0.2, "entropy_coefficient": 0.0, "temperature": 1.0},
        **{"top_p": 1.0, "max_response": shape.response, "save_every": 1000, "sequences_per_micro_batch": micro},
    )
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(shape.vocabulary - 2, (shape.prompts, shape.prompt), generator=generator)
    ends = [shape.vocabulary - 2, shape.vocabulary - 1]
    options: dict[str, Any] = {"self_check": False}
    overrides: dict[str, Any] = {"save_strategy": "no"}
    if kind is TimedTRL:
        options, overrides = {}, {**overrides, "generation_kwargs": {"suppress_tokens": ends}}
    clock = Clock(device)
    model = LlamaForCausalLM.from_pretrained(folder)
    for weight in model.parameters():  # else the optimiser's first step copies them out of the file's mapping
        weight.data = weight.data.clone()
    trainer = kind(
        model=model,
        reward_funcs=share_of_even,
        args=grpo_config(settings, folder / "out", 0, device, **overrides),
        train_dataset=Dataset.from_dict({"prompt": [" ".join(map(str, row.tolist())) for row in rows]}),
        processing_class=id_words(shape.vocabulary),
        callbacks=[clock],
        **options,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.clock = clock
    with PeakMemory(device) as memory:
        trainer.train()
    sampling = trainer.sampling if kind is TimedTRL else trainer.seconds["sampling"]
    return {
        "step": clock.seconds,
        "sampling": sampling,
        "logprob_update": clock.seconds - sampling,
        "forward_calls": clock.passes,
        "ids_forwarded": clock.ids,
        "peak_mib": memory.mib,
    }


def measure(shape: Shape, repeats: int, device: str) -> dict[str, Any]:
    """Medians of both, and ratios against the faster way of TRL, part by part."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _model(shape).save_pretrained(folder)
        whole = shape.prompts * shape.group
        quarter = max(1, whole // 4)
        ways = {
            "ours": (TimedOurs, whole),
            "TRL, whole": (TimedTRL, whole),
            "TRL, a quarter at a time": (TimedTRL, quarter),
        }
        contestants = {
            label: lambda kind=kind, micro=micro: step(kind, shape, folder, micro, device)
            for label, (kind, micro) in ways.items()
        }
        found = in_turn(contestants, repeats)
    stock = [row for label, row in found.items() if label != "ours"]
    ratios = {f"{part}_speedup": round(min(row[part] for row in stock) / found["ours"][part], 2)
              for part in ("step", "sampling", "logprob_update")}  # fmt: skip
    repeated, shared = shape.tokens
    return {
        "shape": asdict(shape),
        "prompt_share": round(shape.prompt / (shape.prompt + shape.response), 3),
        "tokens_per_pass": {"repeated": repeated, "shared": shared},
        "ideal": round(repeated / shared, 2),
        **{"whole_step_speedup": ratios.pop("step_speedup"), **ratios},
        "median_of": found,
    }


def _model(shape: Shape) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        tie_word_embeddings=False,
        pad_token_id=shape.vocabulary - 2,
        eos_token_id=shape.vocabulary - 1,
    )
    return LlamaForCausalLM(config)


def line(name: str, row: dict[str, Any]) -> str:
    """One line of the printed table."""
    shape, ours = row["shape"], row["median_of"]["ours"]
    stock = min((one for key, one in row["median_of"].items() if key != "ours"), key=lambda one: one["step"])
    return (
        f"{name}: {shape['prompt']}+{shape['response']}, G {shape['group']}, tokens x {row['ideal']}, "
        f"step {stock['step']:.2f} -> {ours['step']:.2f} s ({row['whole_step_speedup']} x), "
        f"log-probs and update {stock['logprob_update']:.2f} -> {ours['logprob_update']:.2f} s "
        f"({row['logprob_update_speedup']} x), sampling {stock['sampling']:.2f} -> {ours['sampling']:.2f} s, "
        f"passes {stock['forward_calls']:.0f} -> {ours['forward_calls']:.0f}, "
        f"memory {stock['peak_mib']:.0f} -> {ours['peak_mib']:.0f} MiB"
    )


def main(arguments: list[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--only", default="", help="sections, separated by commas")
    parser.add_argument("--tiny", action="store_true", help="a size for tests; the figures mean nothing")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    load, result = os.getloadavg()[0], {}
    wanted = {name: part for name, part in shapes().items() if not given.only or name in given.only.split(",")}
    for section, part in wanted.items():
        rows = {}
        for name, shape in part.items():
            rows[name] = measure(tiny(shape) if given.tiny else shape, given.repeats, device)
            print(line(name, rows[name]), flush=True)
        result[section] = rows.get(section, rows)
    out = given.out or RESULTS / f"grpo_step_{device}.json"
    atomic_write_text(out, json.dumps({**result, **surroundings(given.repeats, load)}, indent=1) + "\n")
    return out


if __name__ == "__main__":
    main()
