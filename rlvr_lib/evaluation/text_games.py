"""Table 1's evaluation: sample one response per held-out case from each model, decode, score, write per-case scores.

As the paper's Table 5 says, the main rows are sampled at temperature 1; greedy and cooler decoding are reference rows
that tell how much of a gain is sharpening. Every model sees the same cases in the same order, so rows can be paired.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from rlvr_lib.artifacts import atomic_write_text
from rlvr_lib.profile import Profile
from rlvr_lib.progress import say
from rlvr_lib.tokens.text_game_task import TextGameTask
from rlvr_lib.training.generation import sample
from rlvr_lib.worlds.text_game_rewards import is_changed, no_change_answer, perfect_answer, score_answer
from rlvr_lib.worlds.transitions import TextTransition


@dataclass(frozen=True)
class Answer:
    """One sampled response: its text, length in tokens, and whether it ended by itself."""

    text: str
    tokens: int
    ended: bool


def answer_all(
    model,
    task: TextGameTask,
    cases: Sequence[TextTransition],
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


def score_cases(cases: Sequence[TextTransition], answers: Sequence[Answer], split: str) -> pd.DataFrame:
    """Per-case scores: one row per case (columns as docs of ``report.scores``)."""
    rows = []
    for case, answer in zip(cases, answers, strict=True):
        score = score_answer(answer.text, case.current, case.target)
        rows.append(
            {
                "case_id": case.case_id,
                "game": case.game,
                "split": split,
                "changed": is_changed(case.current, case.target),
                "binary": float(score.binary),
                "task_specific": float(score.task_specific),
                "corrected": float(score.corrected),
                "parsed": bool(score.parsed),
                "response_tokens": answer.tokens,
                "ended": answer.ended,
            }
        )
    return pd.DataFrame(rows)


def reference_answers(cases: Sequence[TextTransition], kind: str) -> list[Answer]:
    """Answers without a model: ``always_no_change``, or the ``oracle`` that writes the perfect answer."""
    write: Callable[[TextTransition], str] = {
        "always_no_change": lambda case: no_change_answer(),
        "oracle": lambda case: perfect_answer(case.current, case.target),
    }[kind]
    return [Answer(write(case), 0, True) for case in cases]


def decodings(models: dict[str, Path], temperature: float) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Rows of the table that need a model: name, checkpoint and sampling settings, greedy and cooler ones too."""
    rows: dict[str, tuple[Path, dict[str, Any]]] = {
        name: (path, {"temperature": temperature}) for name, path in models.items()
    }
    for name in ("sft", "rlvr_binary", "rlvr_task_specific"):
        if name in models:
            rows[f"{name}_greedy"] = (models[name], {"greedy": True})
    if "sft" in models:
        rows["sft_t05"] = (models["sft"], {"temperature": 0.5})
    return rows


def evaluate(
    folder: Path, profile: Profile, task: TextGameTask, splits: dict[str, list], models: dict[str, Path]
) -> dict[str, Any]:
    """Write ``folder``/<row>.csv (scores) and <row>.jsonl (responses) for every row; rows already there are kept.

    ``splits`` maps ``in_distribution`` and ``held_out`` to their cases. Returns facts with seconds per row.
    """
    seconds = {}
    for kind in ("always_no_change", "oracle"):
        write_scores(folder, kind, {name: (cases, reference_answers(cases, kind)) for name, cases in splits.items()})
    rows = decodings(models, profile.text_game.evaluation.temperature)
    left = {name: row for name, row in rows.items() if not (folder / f"{name}.csv").exists()}
    if len(left) < len(rows):
        say(f"evaluation: {len(rows) - len(left)} of {len(rows)} rows are there already")
    for name, took in _rows_of(folder, profile, task, splits, left):
        seconds[name] = took
        say(f"evaluation: {name} done in {took} s")
    return {"seconds": seconds, "cases": {name: len(cases) for name, cases in splits.items()}}


def _rows_of(
    folder: Path, profile: Profile, task: TextGameTask, splits: dict[str, list], rows: dict[str, tuple[Path, dict]]
) -> Iterator[tuple[str, float]]:
    """Write the rows, yield names and seconds. On a CPU side by side with one thread each: decoding shares badly."""
    work = [(folder, name, profile, task, splits, path, how) for name, (path, how) in rows.items()]
    if profile.torch_device() != "cpu" or min(profile.threads, len(work)) < 2:
        yield from map(_write_row, work)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(profile.threads, len(work)), initializer=_alone) as pool:
        yield from pool.imap(_write_row, work)


def _alone() -> None:
    """A worker has one thread and shows no bars of its own."""
    torch.set_num_threads(1)
    disable_progress_bar()


def _write_row(work: tuple) -> tuple[str, float]:
    folder, name, profile, task, splits, path, how = work
    begin = time.perf_counter()
    write_scores(folder, name, _answers_of(path, profile, task, splits, how))
    return name, round(time.perf_counter() - begin, 1)


def _answers_of(path: Path, profile: Profile, task: TextGameTask, splits: dict[str, list], how: dict[str, Any]) -> dict:
    settings = profile.text_game.evaluation
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
    folder: Path, name: str, answered: dict[str, tuple[Sequence[TextTransition], list[Answer]]]
) -> pd.DataFrame:
    """Score the answers of every split and write the two files of a row; the table last, as it marks the row done."""
    scores = pd.concat([score_cases(cases, answers, split) for split, (cases, answers) in answered.items()])
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
