"""What the text-game models learn from and are tested on: cases, teacher answers, tokenizer, play-through pages.

``make_data`` fills the data stage for either source (our games, or the public ByteSized32 files); ``base_pages`` writes
the corpus of the base model. Settings come from the profile; every drawing is seeded.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlvr_lib.artifacts import atomic_write_json
from rlvr_lib.profile import Profile
from rlvr_lib.progress import say
from rlvr_lib.tokens import text_game_task as task
from rlvr_lib.tokens.text_tokenizer import END, load_tokenizer, train_tokenizer
from rlvr_lib.training.language import Parts, hub_tokenizer
from rlvr_lib.training.released import released
from rlvr_lib.training.teacher import ask_teacher, rejection_sample, write_sft_samples
from rlvr_lib.worlds.text_crawl import crawl_split, layout_seed, start
from rlvr_lib.worlds.text_game_data import crawl_transitions, draw_cases, question_key, save_cases
from rlvr_lib.worlds.text_game_rewards import is_changed, is_changed_for_training
from rlvr_lib.worlds.text_games import GAMES, HELD_OUT, TRAINING_GAMES
from rlvr_lib.worlds.transitions import TextTransition

PAGE_TOKENS = 900  # longest page of play-through text
TRIES = 10  # actions on a page
ANSWERED_SHARE = 0.05  # pages that show the answer contract, as the web shows any format to a base model
CHANGED_SHARE = 0.6  # of the tries on a page
TOKENIZER_LAYOUTS = 12
NAME_WEIGHT = 20  # a name is read this often, so that it becomes one token


def make_data(folder: Path, profile: Profile) -> dict[str, Any]:
    """Write test, held_out, validation, both pools and sft as JSON lines, and the tokenizer, into ``folder``."""
    settings, seed = profile.text_game.data, profile.seed
    sources = public_splits(profile) if settings.source == "bytesized32" else embedded_splits(profile)
    train, fresh = sources.pop("train"), sources.pop("rlvr", [])
    cases = {name: items for name, items in sources.items()}
    half = settings.train_transitions // 2
    chosen = draw_cases(train, settings.train_transitions, 0.5, seed, is_changed_for_training)
    pool = draw_cases(fresh, settings.train_transitions, 0.5, seed, is_changed_for_training) if fresh else chosen
    for name, wanted in (("pool_changed", True), ("pool_unchanged", False)):
        cases[name] = [item for item in pool if is_changed_for_training(item.current, item.target) is wanted][:half]
    for name, items in cases.items():
        save_cases(folder / f"{name}.jsonl", items)
    if profile.text_game.model.kind == "tiny_qwen2":
        ready = profile.text_game.pretrain.start == "released"
        tokenizer = load_tokenizer(released("base", profile)) if ready else make_tokenizer(profile, train)
        tokenizer.save_pretrained(folder / "tokenizer")
    else:
        tokenizer = hub_tokenizer(profile, "text_game")
    samples, told = teacher_samples(folder, chosen, profile, tokenizer)
    write_sft_samples(folder / "sft.jsonl", samples)
    facts = {**{name: len(items) for name, items in cases.items()}, "sft": len(samples), "teacher": told}
    facts["substitutions"] = _substitutions(profile)
    atomic_write_json(folder / "manifest.json", {"generator": 1, "seed": seed, **facts})
    return facts


def _substitutions(profile: Profile) -> list[str]:
    """What stands in for the paper's data, teacher and base model, for the report."""
    settings = profile.text_game
    found = []
    if settings.data.source == "embedded":
        found.append("text games: our own twelve embedded games instead of ByteSized32")
    if settings.teacher.kind == "engine":
        found.append("text-game teacher: the engine's own account instead of DeepSeek-R1")
    if settings.model.kind == "tiny_qwen2":
        found.append("text-game base model: a small Qwen2 trained here instead of DeepSeek-R1-Distill-Qwen-1.5B")
    return found


def embedded_splits(profile: Profile) -> dict[str, list[TextTransition]]:
    """Cases by name for the embedded games; no test, held_out or validation question occurs in a training layout.

    ``rlvr`` comes from layouts that neither the base corpus nor the teacher's questions know: a model that knows its
    training layouts by heart errs there in other ways than on new ones, and RLVR should mend the latter. Test layouts
    before ``first_layout_test`` were looked at while settings were chosen; their questions stay out too.
    """
    settings, layouts = profile.text_game.data, profile.text_game.pretrain.layouts
    layouts = max(layouts, settings.layouts_train)
    train = list(crawl_transitions("train", settings.layouts_train, TRAINING_GAMES))
    beyond = range(settings.layouts_train, layouts)
    records = (record for name in TRAINING_GAMES for record in crawl_split("train", beyond, (name,)))
    seen = {question_key(item) for item in train} | {
        question_key(TextTransition.from_record(record)) for record in records
    }
    numbers = range(layouts, layouts + settings.layouts_rlvr)
    fresh = [
        TextTransition.from_record(record)
        for name in TRAINING_GAMES
        for record in crawl_split("train", numbers, (name,))
    ]
    seen |= {question_key(item) for item in fresh}
    splits: dict[str, list[TextTransition]] = {"train": train, "rlvr": fresh}
    for name, split, number, games in (
        ("validation", "validation", settings.validation_transitions, TRAINING_GAMES),
        ("test", "test", settings.test_cases, TRAINING_GAMES),
        ("held_out", "test", settings.held_out_cases, HELD_OUT),
    ):
        first = settings.first_layout_test if split == "test" else 0
        looked_at = {question_key(item) for item in crawl_transitions(split, first, games)}
        crawled = list(crawl_transitions(split, getattr(settings, f"layouts_{split}"), games, first))
        cases = draw_cases(
            crawled, number, settings.changed_share, profile.seed, is_changed, frozenset(seen | looked_at)
        )
        say(f"{name}: {len(cases)} cases drawn from {len(crawled)} tries of layouts never trained on")
        splits[name] = cases
        if name == "validation":
            seen |= {question_key(item) for item in crawled}
    return splits


def public_splits(profile: Profile) -> dict[str, list[TextTransition]]:
    """The official test set, a validation set drawn from the training crawl, and the rest of the crawl.

    The crawl repeats itself: the same state and action occur at several steps. The paper removes test *records* from
    the pool; we also remove records that ask a test or validation *question*, and say how many.
    """
    from rlvr_lib.worlds import bytesized32

    settings = profile.text_game.data
    data = bytesized32.load(settings.root or None)
    tested = frozenset(question_key(item) for item in data.test)
    number, share = settings.validation_transitions, settings.changed_share
    validation = draw_cases(data.train, number, share, profile.seed, is_changed, tested)
    taken = tested | {question_key(item) for item in validation}
    train = [item for item in data.train if question_key(item) not in taken]
    say(f"training pool: {len(train)} of {len(data.train)} transitions ask no test or validation question")
    test = data.test
    if settings.test_cases < len(test):
        test = draw_cases(test, settings.test_cases, share, profile.seed, is_changed)
    return {"train": train, "validation": validation, "test": test, "held_out": []}


def teacher_samples(
    folder: Path, train: Sequence[TextTransition], profile: Profile, tokenizer: PreTrainedTokenizerBase
):
    """Teacher answers by rejection sampling (A.10), at most ``data.sft_samples`` of them, in random order.

    About twice as many questions are asked as answers wanted, half of them about changing transitions.
    """
    settings, wanted = profile.text_game.teacher, profile.text_game.data.sft_samples
    rng = Random(f"teacher/{profile.seed}")
    asked = rng.sample(list(train), min(len(train), round(2.2 * wanted)))
    prompt = prompt_writer(profile)
    answers = ask_teacher(asked, [prompt(item) for item in asked], settings, rng, folder / "teacher_cache.jsonl")
    keep = settings.keep_unchanged_ratio
    samples, told = rejection_sample(
        asked,
        answers,
        rng,
        keep_unchanged=keep,
        max_tokens=settings.max_tokens,
        count_tokens=lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]),
        prompt=prompt,
    )
    return samples[:wanted], told


def prompt_writer(profile: Profile):
    """How a profile writes prompts: compact for our own small model, the paper's full prompt for a hub model."""
    if profile.text_game.model.kind == "tiny_qwen2":
        return task.compact_prompt
    from rlvr_lib.worlds.bytesized32_prompt import full_prompt

    return full_prompt(profile.text_game.data.root, profile.text_game.data.source)


def make_tokenizer(profile: Profile, train: Iterable[TextTransition]) -> PreTrainedTokenizerFast:
    """Our BPE trained on pages and answers of some training layouts, and on the names of all of them."""
    items = list(train)
    few = [item for item in items if item.layout_seed < 3 * TOKENIZER_LAYOUTS]
    rng = Random(f"tokenizer/{profile.seed}")
    texts = (text for page in _pages_of(few, rng, answered=0.3) for text, _ in page)
    names = (name for name in _names(profile, items) for _ in range(NAME_WEIGHT))
    return train_tokenizer(
        (text.replace(END, "\n") for text in chain(texts, names)), profile.text_game.tokenizer.vocabulary
    )


def _names(profile: Profile, train: Sequence[TextTransition]) -> list[str]:
    """Names of all objects, once per layout they begin in (embedded games), or once per record."""
    if profile.text_game.data.source == "bytesized32":
        return [record["name"] for item in train[::10] for record in item.current[:-1]]
    worlds = (
        start(GAMES[name], layout_seed("train", number))
        for name in TRAINING_GAMES
        for number in range(profile.text_game.pretrain.layouts)
    )
    return [record["name"] for world in worlds for record in world.described("", "")["objects"]]


def _pages_of(transitions: Sequence[TextTransition], rng: Random, answered: float) -> Iterator[Parts]:
    for group in task.situations(transitions):
        for page in task.pages(group, rng, TRIES, CHANGED_SHARE, is_changed):
            yield task.answered_parts(page[:3], END) if rng.random() < answered else task.play_parts(page, END)


def base_pages(profile: Profile, split: str, layouts: int) -> Iterator[Parts]:
    """The base model's corpus, layout by layout (embedded games), or from the training pool (public data)."""
    rng = Random(f"pages/{split}/{profile.seed}")
    if profile.text_game.data.source == "bytesized32":
        train = public_splits(profile)["train"]
        held = [item for index, item in enumerate(train) if (index // 500) % 20 == 19]
        kept = [item for index, item in enumerate(train) if (index // 500) % 20 != 19]
        yield from _pages_of(kept if split == "train" else held, rng, ANSWERED_SHARE)
        return
    for name in TRAINING_GAMES:
        for number in range(layouts):
            records = crawl_split(split, range(number, number + 1), (name,))
            yield from _pages_of([TextTransition.from_record(record) for record in records], rng, ANSWERED_SHARE)


def validation_pages(profile: Profile) -> list[Parts]:
    """At most 160 pages of layouts that training never sees, in random order."""
    found = list(base_pages(profile, "validation", 2))
    Random(profile.seed).shuffle(found)
    return found[:160]
