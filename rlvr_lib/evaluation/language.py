"""Evaluation of language world models: one response per held-out case from each model, scored, written per case.

As the paper's Table 5 says, the main rows are sampled at temperature 1; greedy and cooler decoding are reference rows
that tell how much of a gain is sharpening. Every model sees the same cases in the same order, so rows can be paired.
Text games and web pages differ in their task and in ``score``, which turns cases and answers into a table.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import AutoModelForCausalLM

from rlvr_lib.artifacts import atomic_write_text
from rlvr_lib.processes import alone, pool
from rlvr_lib.profile import Profile
from rlvr_lib.progress import say
from rlvr_lib.training.generation import sample


@dataclass(frozen=True)
class Answer:
    """One sampled response: its text, length in tokens, and whether it ended by itself."""

    text: str
    tokens: int
    ended: bool


Splits = Mapping[str, Sequence[Any]]  # name of a split -> its cases
Score = Callable[[Sequence[Any], Sequence[Answer], str], pd.DataFrame]  # module-level, so that it can be sent about
Rows = dict[str, tuple[Path, dict[str, Any]]]  # name of a row -> checkpoint, sampling settings


def answer_all(
    model,
    task: Any,
    cases: Sequence[Any],
    *,
    max_response: int,
    seed: int,
    temperature: float = 1.0,
    greedy: bool = False,
    rows: int = 512,
) -> list[Answer]:
    """One response per case, in order. The random numbers belong to the case, so batch size does not matter."""
    generator = torch.Generator().manual_seed(seed)
    result = sample(
        model,
        task.prompt_ids(cases),
        group_size=1,
        max_new_tokens=max_response,
        eos_id=task.tokenizer.eos_token_id,
        pad_id=task.tokenizer.pad_token_id,
        temperature=temperature,
        greedy=greedy,
        generator=generator,
        max_rows=rows,
    )
    pairs = zip(result.completions, result.ended, strict=True)
    return [Answer(task.text(ids), len(ids), ended) for ids, ended in pairs]


def decodings(models: Mapping[str, Path], temperature: float) -> Rows:
    """Rows of a table that need a model: every one sampled, SFT and RLVR ones greedily too, SFT cooler as well."""
    rows: Rows = {name: (path, {"temperature": temperature}) for name, path in models.items()}
    greedy = [name for name in models if name != "base"]
    rows |= {f"{name}_greedy": (models[name], {"greedy": True}) for name in greedy}
    if "sft" in models:
        rows["sft_t05"] = (models["sft"], {"temperature": 0.5})
    return rows


def evaluate_models(
    folder: Path, profile: Profile, modality: str, task: Any, splits: Splits, models: Mapping[str, Path], score: Score
) -> dict[str, Any]:
    """Write ``folder``/<row>.csv (scores) and <row>.jsonl (responses) for every row; rows already there are kept.

    Returns facts with seconds per row.
    """
    seconds = {}
    rows = decodings(models, getattr(profile, modality).evaluation.temperature)
    left = {name: row for name, row in rows.items() if not (folder / f"{name}.csv").exists()}
    if len(left) < len(rows):
        say(f"evaluation: {len(rows) - len(left)} of {len(rows)} rows are there already")
    for name, took in _rows_of(folder, profile, modality, task, splits, left, score):
        seconds[name] = took
        say(f"evaluation: {name} done in {took} s")
    return {"seconds": seconds, "cases": {name: len(cases) for name, cases in splits.items()}}


def _rows_of(
    folder: Path, profile: Profile, modality: str, task: Any, splits: Splits, rows: Rows, score: Score
) -> Iterator[tuple[str, float]]:
    """Write the rows, yield names and seconds. On a CPU side by side with one thread each: decoding shares badly."""
    work = [(folder, name, profile, modality, task, splits, *row, score) for name, row in rows.items()]
    if profile.torch_device() != "cpu" or min(profile.threads, len(work)) < 2:
        yield from map(_write_row, work)
        return
    with pool(min(profile.threads, len(work)), alone) as processes:
        yield from processes.imap(_write_row, work)


def _write_row(work: tuple) -> tuple[str, float]:
    folder, name, profile, modality, task, splits, path, how, score = work
    begin = time.perf_counter()
    write_scores(folder, name, _answers_of(path, profile, modality, task, splits, how), score)
    return name, round(time.perf_counter() - begin, 1)


def _answers_of(path: Path, profile: Profile, modality: str, task: Any, splits: Splits, how: dict[str, Any]) -> dict:
    settings = getattr(profile, modality).evaluation
    device = profile.torch_device()
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device)
    rows = settings.batch
    return {
        name: (
            cases,
            answer_all(model, task, cases, max_response=settings.max_response, seed=profile.seed, rows=rows, **how),
        )
        for name, cases in splits.items()
        if cases
    }


def write_scores(
    folder: Path, name: str, answered: Mapping[str, tuple[Sequence[Any], Sequence[Answer]]], score: Score
) -> pd.DataFrame:
    """Score the answers of every split and write the two files of a row; the table last, as it marks the row done."""
    scores = pd.concat([score(cases, answers, split) for split, (cases, answers) in answered.items()])
    texts = pd.DataFrame(
        [
            {"case_id": case.case_id, "response": answer.text}
            for cases, answers in answered.values()
            for case, answer in zip(cases, answers, strict=True)
        ]
    )
    atomic_write_text(folder / f"{name}.jsonl", texts.to_json(orient="records", lines=True))
    atomic_write_text(folder / f"{name}.csv", scores.to_csv(index=False))
    return scores
