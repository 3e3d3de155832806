"""Chain-of-thought answers to learn from, and which of them to keep: rejection sampling (spec A.10).

Two teachers: the embedded engine, which can say what each rule changes, and any OpenAI-compatible endpoint
(DeepSeek-R1 in the paper). The keep rule is the script's. Ours: the answer is judged as a whole, reasoning included,
because that is the text the model will learn; answers cut at the token limit are dropped; the engine can be told to
slip, so that there is something to reject.
"""

import json
import lzma
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from rlvr_lib.artifacts import UserError, atomic_write_text
from rlvr_lib.profile_schema import TextGameTeacher
from rlvr_lib.progress import say
from rlvr_lib.tokens.text_game_task import compact_prompt, thoughts
from rlvr_lib.training.endpoint import ChatClient
from rlvr_lib.worlds.text_game_rewards import is_changed_for_training, perfect_answer, score_answer
from rlvr_lib.worlds.transitions import GameState, TextTransition, open_text

KEEP_UNCHANGED = 1 / 101
MAX_TOKENS = 4000
SYSTEM_MESSAGE = "You are a helpful assistant."
DATA_SOURCE, ABILITY = "llm_simulator", "world_model"
Statistics = dict[str, Any]


@dataclass(frozen=True)
class SftSample:
    """One question and the answer to learn."""

    prompt: str
    response: str
    case_id: str = ""
    game: str = ""


# ---- teachers --------------------------------------------------------------------------------------------------------
def engine_teacher(
    transition: TextTransition, rng: Random | None = None, slip: float = 0.0, notation: str = "json"
) -> str:
    """Which rules fired and what they changed, then the perfect answer.

    With probability ``slip`` (needs ``rng``) the answer, not the reasoning, gets one thing wrong. The notes of public
    records are read off their states: they say what changes, not why; for reasons, ask an endpoint.
    """
    target = transition.target
    if slip and (rng or Random(0)).random() < slip:
        target = _slipped(transition, rng or Random(0))
    return thoughts(transition) + perfect_answer(transition.current, target, notation)


def _slipped(transition: TextTransition, rng: Random) -> GameState:
    """The next state with one changed object left as it was, or a point too many where no object changed."""
    before = {record["uuid"]: record for record in transition.current[:-1]}
    target = list(transition.target)
    moved = [index for index, record in enumerate(target[:-1]) if before.get(record["uuid"], record) != record]
    if moved:
        index = rng.choice(moved)
        target[index] = before[target[index]["uuid"]]
    else:
        target[-1] = {**target[-1], "score": target[-1]["score"] + 1}
    return target


def endpoint_teacher(
    transitions: Sequence[TextTransition], prompts: Sequence[str], client: ChatClient, cache: Path | None = None
) -> list[str | None]:
    """Ask the endpoint (A.10.1); per transition its reasoning and final text, None where there is no whole answer.

    ``cache`` is the file that makes the asking resumable. Prints counts and cost; says so when the run ended early.
    """
    requests = [
        (f"{index}/{transition.case_id}", chat_messages(prompt))
        for index, (transition, prompt) in enumerate(zip(transitions, prompts, strict=True))
    ]
    run = client.ask_all(requests, cache, label="teacher")
    cut = sum(answer.cut for answer in run.answers.values())
    if cut:
        say(f"teacher: {cut} answers were cut at {client.max_tokens} tokens and are left out")
    found = (run.answers.get(key) for key, _ in requests)
    return [answer.text if answer is not None and not answer.cut else None for answer in found]


def ask_teacher(
    transitions: Sequence[TextTransition], prompts: Sequence[str], settings: TextGameTeacher, rng: Random, cache: Path
) -> list[str | None]:
    """Answers of the teacher that the profile names; the budget counts the prices that the profile gives.

    An answer may be twice as long as the one that would be kept: tokenizers differ, and what is longer is not paid for.
    """
    if settings.kind == "engine":
        return [engine_teacher(transition, rng) for transition in transitions]
    client = ChatClient(
        settings.base_url,
        settings.model,
        concurrency=settings.concurrency,
        max_tokens=2 * settings.max_tokens,
        budget_usd=settings.budget_usd,
        price_in=settings.price_in,
        price_out=settings.price_out,
    )
    return endpoint_teacher(transitions, prompts, client, cache)


def chat_messages(prompt: str) -> list[dict[str, str]]:
    """A fixed generic system message and the prompt as user message (A.10.1)."""
    return [{"role": "system", "content": SYSTEM_MESSAGE}, {"role": "user", "content": prompt}]


# ---- rejection sampling ----------------------------------------------------------------------------------------------
def rejection_sample(
    transitions: Sequence[TextTransition],
    answers: Sequence[str | None],
    rng: Random,
    keep_unchanged: float = KEEP_UNCHANGED,
    max_tokens: int = MAX_TOKENS,
    count_tokens: Callable[[str], int] | None = None,
    prompt: Callable[[TextTransition], str] = compact_prompt,
) -> tuple[list[SftSample], Statistics]:
    """Keep right answers (A.10.2, A.10.3), in order; also returns and prints how many fell by which reason.

    A transition with changed entries (A.2, definition 2) needs all of them right. One without must be fully right, and
    a draw of probability ``keep_unchanged`` must succeed; each transition has its own draw, so that one answer more or
    less moves no other. ``count_tokens`` counts the tokens of a text (base-model tokenizer, end token not included;
    None: no length limit); the limit of ``max_tokens`` counts the end token.
    """
    kept: list[SftSample] = []
    reasons: Counter[str] = Counter()
    for transition, answer in zip(transitions, answers, strict=True):
        drawn = rng.random() < keep_unchanged
        reason = _fault(transition, answer, drawn)
        if not reason and count_tokens is not None and count_tokens(answer or "") + 1 > max_tokens:
            reason = "too_long"
        changed = is_changed_for_training(transition.current, transition.target)
        reasons[reason or ("kept_changed" if changed else "kept_unchanged")] += 1
        if not reason:
            kept.append(SftSample(prompt(transition), answer or "", transition.case_id, transition.game))
    statistics = _statistics(reasons)
    say(statistics_line(statistics))
    return kept, statistics


def _fault(transition: TextTransition, answer: str | None, drawn: bool) -> str:
    """Why an answer is not kept; empty if nothing speaks against it."""
    if answer is None:
        return "no_answer"
    score = score_answer(answer, transition.current, transition.target)
    if not score.parsed:
        return "no_format"
    if is_changed_for_training(transition.current, transition.target):
        # An invented property key makes the scorer fail (A.9): accuracy of changed entries may be 1, the score is 0.
        right = score.changed_accuracy == 1 and score.task_specific > 0
        return "" if right else "wrong_changed"
    if score.binary != 1:
        return "wrong_unchanged"
    return "" if drawn else "not_drawn"


def _statistics(reasons: Counter) -> Statistics:
    kept = reasons["kept_changed"] + reasons["kept_unchanged"]
    return {
        "asked": reasons.total(),
        "answered": reasons.total() - reasons["no_answer"],
        "right": kept + reasons["not_drawn"] + reasons["too_long"],
        "kept": kept,
        "by_reason": dict(sorted(reasons.items())),
    }


def statistics_line(statistics: Statistics) -> str:
    """One line about a rejection sampling."""
    reasons = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in statistics["by_reason"].items())
    counts = ", ".join(f"{statistics[name]} {name}" for name in ("asked", "answered", "right", "kept"))
    return f"teacher answers: {counts} ({reasons or 'nothing asked'})"


# ---- files (columns of the public data set, A.10.4) ------------------------------------------------------------------
def to_public_row(sample: SftSample, index: int) -> dict[str, Any]:
    """A row of the public chain-of-thought set; ``extra_info`` carries our case name and game as well."""
    return {
        "data_source": DATA_SOURCE,
        "prompt": [{"role": "user", "content": sample.prompt}],
        "ability": ABILITY,
        "reward_model": {"style": "rule", "ground_truth": sample.response},
        "extra_info": {"split": "train", "index": index, "case_id": sample.case_id, "game": sample.game},
    }


def from_public_row(row: dict[str, Any]) -> SftSample:
    """Inverse of :func:`to_public_row`, also for rows that name no case; raises ValueError saying what is wrong."""
    try:
        messages, response = row["prompt"], row["reward_model"]["ground_truth"]
        prompt = messages[0]["content"]
    except (KeyError, TypeError, IndexError):
        raise ValueError("no prompt (a list of one message) or no reward_model.ground_truth") from None
    if len(messages) != 1 or messages[0].get("role", "user") != "user":
        raise ValueError("prompt is not one user message")
    if not isinstance(prompt, str) or not isinstance(response, str):
        raise ValueError("prompt and reward_model.ground_truth must be texts")
    extra = row.get("extra_info") or {}
    case_id = extra.get("case_id") or f"{extra.get('split', 'train')}/{extra.get('index', '')}"
    return SftSample(prompt, response, case_id, extra.get("game", ""))


def write_sft_samples(path: Path | str, samples: Sequence[SftSample]) -> Path:
    """Write samples as JSON lines with the public columns, whole or not at all; equal samples give equal bytes."""
    rows = (to_public_row(sample, index) for index, sample in enumerate(samples))
    return atomic_write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_sft_samples(path: Path | str) -> list[SftSample]:
    """Read samples in the public format: JSON lines (plain, ``.gz``, ``.xz``) or ``.parquet``.

    Raises UserError naming the file and the line for anything that is not such a row.
    """
    path, samples = Path(path), []
    try:
        for row in _rows(path):
            samples.append(from_public_row(row))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the data stage (rlvr reproduce --only 10) first") from None
    except (ValueError, EOFError, OSError, lzma.LZMAError) as error:
        raise UserError(f"{path}, row {len(samples) + 1}: {error}; make or fetch the file again") from None
    return samples


def _rows(path: Path):
    if path.suffix == ".parquet":
        import pyarrow.parquet

        yield from pyarrow.parquet.read_table(path).to_pylist()
        return
    with open_text(path) as lines:
        yield from (json.loads(line) for line in lines if line.strip())
