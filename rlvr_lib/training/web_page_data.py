"""What the web-page models learn from and are tested on: splits, tokenizer, pages of the base model (spec B.3).

``make_data`` fills the data stage from either source, our recorded set or the public WebArena transitions. Long
transitions are left out, as the paper leaves them out. Everything is fixed by the profile and its seed.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlvr_lib.artifacts import ROOT, UserError, atomic_write_json, atomic_write_text
from rlvr_lib.doctor import public_pages
from rlvr_lib.profile import Profile
from rlvr_lib.progress import say
from rlvr_lib.tokens.text_tokenizer import END, PAGE_PIECES, load_tokenizer, train_tokenizer
from rlvr_lib.tokens.web_page_task import WebPageTask, answered_parts, browse_parts
from rlvr_lib.training.language import Parts, hub_tokenizer
from rlvr_lib.training.language_rlvr import evenly
from rlvr_lib.training.released import released
from rlvr_lib.training.web_rewording import rare_words, reworded
from rlvr_lib.worlds.transitions import record_lines
from rlvr_lib.worlds.web_prompt import compact_prompt, full_prompt
from rlvr_lib.worlds.web_public import load_public
from rlvr_lib.worlds.web_transitions import WebTransition, assert_disjoint, load_web_set, short_enough

RECORDED = ROOT / "data" / "web_pages"
ANSWERED_SHARE = 0.05  # pages that show the answer contract, as the web shows any format to a base model
READ_BY_TOKENIZER = 1600  # transitions
NUMBERS, NUMBER_WEIGHT = 400, 30  # element numbers that become one token each, and how often each is read for it
NAMES = {"train": "train", "validation": "validation", "test": "test", "unseen": "held_out"}
ORDER = tuple(NAMES.values())
LOOKED_AT = 10  # transitions read for each one wanted, before long ones are left out
Splits = dict[str, list[WebTransition]]


def make_data(folder: Path, profile: Profile) -> dict[str, Any]:
    """Write train, rlvr, validation, test and held_out as JSON lines and the tokenizer into ``folder``."""
    settings = profile.web_page.data
    limits = (settings.train_transitions, settings.validation_transitions, settings.test_cases, settings.held_out_cases)
    most = dict(zip(ORDER, limits, strict=True))
    found = load_splits(profile)
    assert_disjoint(found)
    whole = {name: evenly(found[name], LOOKED_AT * most[name]) for name in ORDER}
    tokenizer = _tokenizer(folder, profile, whole["train"])
    task = make_task_of(profile, tokenizer)
    short = {name: _short(items, task, profile) for name, items in whole.items()}
    splits = {name: evenly(short[name], most[name]) for name in ORDER}
    splits |= dict(zip(("train", "rlvr"), _for_rlvr(splits["train"], settings.rlvr_share), strict=True))
    for name, items in splits.items():
        atomic_write_text(folder / f"{name}.jsonl", "".join(record_lines(item.record() for item in items)))
    facts = {name: len(items) for name, items in splits.items()}
    facts["too_long"] = {name: len(whole[name]) - len(short[name]) for name in whole}
    facts["sites"] = {
        name: dict(sorted(Counter(item.site for item in items).items())) for name, items in splits.items()
    }
    facts["substitutions"] = _substitutions(profile)
    atomic_write_json(folder / "manifest.json", {"generator": 1, "seed": profile.seed, **facts})
    return facts


def _substitutions(profile: Profile) -> list[str]:
    """What stands in for the paper's data and base model, for the report."""
    found = []
    if profile.web_page.data.source == "recorded":
        found.append("web pages: MiniWoB++ pages and three local sites instead of WebArena; no chain of thought")
    if profile.web_page.model.kind == "tiny_qwen2":
        found.append("web-page base model: a small Qwen2 trained here instead of DeepSeek-R1-Distill-Qwen-1.5B")
    return found


def load_splits(profile: Profile) -> Splits:
    """All transitions by split; the recorded set is checked against its manifest."""
    if profile.web_page.data.source == "webarena":
        return _public_splits(profile)
    return {NAMES[split]: items for split, items in load_web_set(RECORDED).items()}


def _public_splits(profile: Profile) -> Splits:
    """The public set: test tasks as loaded, validation tasks drawn from the others by a hash of the task.

    Training transitions that ask a test or validation question are left out; the paper does not say that it did so.
    """
    settings, place = profile.web_page.data, public_pages(profile)
    if place is None:
        raise UserError("web_page.data.root: no folder of thuml/webarena-world-model-cot there; set it to one")
    items = load_public(place)
    held = [item for item in items if item.split == "test"]
    others = [item for item in items if item.split != "test"]
    wanted = settings.validation_transitions / max(1, len(others))
    drawn = [_share_of(item) < wanted for item in others]
    validation = _new_questions([item for item, on in zip(others, drawn, strict=True) if on], held)
    train = [item for item, on in zip(others, drawn, strict=True) if not on]
    kept = _new_questions(train, [*held, *validation])
    say(f"web pages: {len(kept)} of {len(train)} training transitions ask no test or validation question")
    return {"train": kept, "validation": validation, "test": held, "held_out": []}


def _new_questions(items: Iterable[WebTransition], known: Iterable[WebTransition]) -> list[WebTransition]:
    asked = {item.question for item in known}
    return [item for item in items if item.question not in asked]


def _share_of(item: WebTransition) -> float:
    """A number in [0, 1) that depends on the episode alone."""
    episode = f"episode {item.site} {item.task} {item.seed}"
    return int(hashlib.sha256(episode.encode()).hexdigest()[:8], 16) / 2**32


def _for_rlvr(train: Sequence[WebTransition], share: float) -> tuple[list[WebTransition], list[WebTransition]]:
    """Training transitions for likelihood and for RLVR: whole episodes apart, or the same ones when ``share`` is 0.

    A model that knows its training pages by heart errs there in other ways than on new ones; RLVR should mend the
    latter.
    """
    if not share:
        return list(train), list(train)
    parts: tuple[list, list] = ([], [])
    for item in train:
        parts[_share_of(item) < share].append(item)
    return parts


def _short(items: Sequence[WebTransition], task: WebPageTask, profile: Profile) -> list[WebTransition]:
    settings = profile.web_page.data
    prompts, answers = task.prompt_ids(items) if items else [], task.response_ids(items) if items else []
    lengths = {id(item): (len(p), len(a)) for item, p, a in zip(items, prompts, answers, strict=True)}
    fitting = [item for item in items if lengths[id(item)][1] <= settings.max_answer]
    return short_enough(fitting, lambda item: sum(lengths[id(item)]), settings.max_tokens)


def make_task_of(profile: Profile, tokenizer: PreTrainedTokenizerBase) -> WebPageTask:
    """The task with the profile's prompts: compact for our own small model, the paper's for a hub model."""
    hub = profile.web_page.model.kind == "hub"
    return WebPageTask(tokenizer, full_prompt if hub else compact_prompt, chat=hub)


def _tokenizer(folder: Path, profile: Profile, train: Sequence[WebTransition]) -> PreTrainedTokenizerBase:
    settings = profile.web_page
    if settings.model.kind == "hub":
        return hub_tokenizer(profile, "web_page")
    ready = settings.pretrain.start == "released"
    found = load_tokenizer(released("base", profile, "web_page")) if ready else make_tokenizer(profile, train)
    found.save_pretrained(folder / "tokenizer")
    return found


def make_tokenizer(profile: Profile, train: Sequence[WebTransition]) -> PreTrainedTokenizerFast:
    """Our BPE trained on pages and answers of some training transitions, and on element numbers."""
    some = evenly(train, READ_BY_TOKENIZER)
    texts = [text for item in some for text, _ in [*browse_parts(item, "\n"), *answered_parts(item, "\n")]]
    numbers = [f"[{number}]" for number in range(1, NUMBERS)] * NUMBER_WEIGHT
    return train_tokenizer([*texts, *numbers], profile.web_page.tokenizer.vocabulary, PAGE_PIECES)


def base_pages(items: Sequence[WebTransition], seed: int, copies: int = 0) -> Iterator[Parts]:
    """The base model's corpus: each step as it is browsed, a few as question and answer; then ``copies`` reworded."""
    rng = Random(f"pages/web/{seed}")
    for item in [*items, *reworded_copies(items, seed, copies)]:
        yield answered_parts(item, END) if rng.random() < ANSWERED_SHARE else browse_parts(item, END)


def reworded_copies(items: Sequence[WebTransition], seed: int, copies: int) -> Iterator[WebTransition]:
    """``copies`` times all items, every one with its rare words exchanged anew."""
    rng, rare = Random(f"rewording/{seed}"), rare_words(items) if copies else []
    return (reworded(item, rare, rng) for _ in range(copies) for item in items)
