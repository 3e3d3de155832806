"""Data, tokenizer, SFT, RLVR with F1 and Table 2 of the web pages at smoke size; and the public set's splits."""

import json
import pickle

import pandas as pd
import pytest

from rlvr_lib.evaluation.web_pages import evaluate, references, score_cases, usual_answer, usual_changes
from rlvr_lib.profile import load_profile
from rlvr_lib.progress import MetricsLog
from rlvr_lib.tokens.text_tokenizer import PAGE_PIECES, train_tokenizer
from rlvr_lib.tokens.web_page_task import WebPageTask, browse_parts, perfect_answer, trained_answer
from rlvr_lib.training.language_rlvr import evenly
from rlvr_lib.training.web_page_data import RECORDED, load_splits, make_data
from rlvr_lib.training.web_pages import F1Reward, make_base, make_rlvr, make_sft, make_task, rollout_order
from rlvr_lib.worlds.web_public import NEEDED
from rlvr_lib.worlds.web_transitions import assert_disjoint, load_web_set, read_web_file

SPLITS = ("train", "rlvr", "validation", "test", "held_out")
ITEMS = load_web_set(RECORDED, ("validation",))["validation"]
MODEL_ROWS = {"base", "sft", "rlvr", "sft_greedy", "rlvr_greedy", "sft_t05"}


@pytest.fixture(scope="module")
def profile():
    found = load_profile("smoke")
    found.seed_everything()
    return found


@pytest.fixture(scope="module")
def run(profile, tmp_path_factory):
    """Every stage once: name -> folder."""
    top = tmp_path_factory.mktemp("web")
    folders = {name: top / name for name in ("data", "base", "sft", "rlvr", "evaluation")}
    for folder in folders.values():
        folder.mkdir()
    data, base, sft = (folders[name] for name in ("data", "base", "sft"))
    make_data(data, profile)
    make_base(base, profile, data)
    make_sft(sft, profile, data, base)
    make_rlvr(folders["rlvr"], profile, data, sft)
    task, cases = make_task(profile, sft / "model"), {name: read_web_file(data / f"{name}.jsonl") for name in SPLITS}
    splits = {"in_distribution": cases["test"], "held_out": cases["held_out"]}
    models = {name: folders[name] / "model" for name in ("base", "sft", "rlvr")}
    evaluate(folders["evaluation"], profile, task, splits, models, cases["train"])
    return folders


# ---- data
def test_splits_are_disjoint_and_short(profile, run):
    cases = {name: read_web_file(run["data"] / f"{name}.jsonl") for name in SPLITS}
    assert_disjoint(cases)
    settings, task = profile.web_page.data, make_task(profile, run["data"] / "tokenizer")
    sites = {name: {(case.site, case.task.split(".")[0]) for case in found} for name, found in cases.items()}
    assert sites["held_out"].isdisjoint(sites["train"] | sites["rlvr"])
    for found in cases.values():
        assert found and all(task.tokens(case) <= settings.max_tokens for case in found)
    assert len(cases["train"]) + len(cases["rlvr"]) == settings.train_transitions


def test_the_public_set_becomes_disjoint_splits(tmp_path):
    """A training row that asks a test question is left out."""
    rows = []
    for task in range(300):
        question = f"URL: u\nOBJECTIVE: o\nCURRENT OBSERVATION:\n[1] button {task % 150}\nCURRENT ACTION: click [1]\n"
        row = dict.fromkeys(NEEDED, "None") | {"task_id": task, "step_idx": 0, "question": f"Explained\n{question}"}
        rows.append(json.dumps(row | {"answer": "thoughts\nNew items:\nNone"}))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    words = f"web_page.data.source=webarena web_page.data.root={tmp_path} web_page.data.validation_transitions=30"
    splits = load_splits(load_profile("smoke", overrides=words))
    assert_disjoint(splits)
    assert splits["train"] and splits["validation"] and not splits["held_out"]
    assert len(splits["train"]) < 300 - len(splits["validation"]) - len(splits["test"])


# ---- tokens
@pytest.fixture(scope="module")
def tokenizer():
    texts = [text for item in ITEMS[:80] for text, _ in browse_parts(item, "\n")]
    return train_tokenizer([*texts, *[f"[{number}]" for number in range(1, 200)] * 20], 2048, PAGE_PIECES)


def test_values_stay_whole_and_texts_come_back(tokenizer):
    task = WebPageTask(tokenizer)
    for item in ITEMS[::20]:
        for text in (task.prompt(item), trained_answer(item)):
            assert task.text(tokenizer(text)["input_ids"]) == text
    pieces = [tokenizer.decode([token]) for token in tokenizer("\t[12] link 'Basket (0)' focused: True\n")["input_ids"]]
    assert "[12]" in pieces and "True" in pieces
    inside = [piece for piece in pieces if any(sign.isdigit() for sign in piece) and "[" in piece]
    assert inside == ["[12]"]  # no merge crosses the border of a value
    assert {"12"}.isdisjoint(pieces)


def test_an_action_names_its_element_with_the_same_token(tokenizer):
    ids = tokenizer("\t[7] link 'Basket'\nAction: click [7] where it is link 'Basket'\n")["input_ids"]
    assert ids.count(tokenizer.convert_tokens_to_ids("[7]")) == 2


# ---- reward
def test_the_reward_is_f1_and_can_be_pickled():
    reward, logged = pickle.loads(pickle.dumps(F1Reward())), {}
    truth = [perfect_answer(item) for item in ITEMS[:3]]
    answers = [truth[0] + "<|end|>", "", truth[2] + "\n[999] link 'x'"]
    found = reward(["?"] * 3, answers, truth=truth, log_metric=logged.__setitem__)
    assert found[:2] == [1.0, 0.0] and 0.6 < found[2] < 1
    assert logged["f1"] == pytest.approx(sum(found) / 3) and logged["recall"] == pytest.approx(2 / 3)
    assert F1Reward("paper")([""], [""], truth=[""]) == [1.0] and F1Reward()([""], [""], truth=[""]) == [0.0]


def test_the_trainer_pays_the_reward(run, profile):
    rows = MetricsLog(run["rlvr"] / "metrics.jsonl").read()
    assert [row["step"] for row in rows] == [1, 2] == list(range(1, profile.web_page.rlvr.steps + 1))
    assert all(row["reward"] == pytest.approx(row["f1"]) and 0 <= row["validation_f1"] <= 1 for row in rows)


def test_rollouts_ask_every_question_before_one_twice():
    order = rollout_order(ITEMS[:10], 25, seed=1)
    assert len(order) == 25 and len({item.case_id for item in order[:10]}) == 10
    assert order == rollout_order(ITEMS[:10], 25, seed=1) != rollout_order(ITEMS[:10], 25, seed=2)


# ---- evaluation
def test_the_table_has_all_rows(run):
    found = {path.stem: pd.read_csv(path) for path in run["evaluation"].glob("*.csv")}
    assert set(found) == MODEL_ROWS | {"empty", "no_change", "usual_change", "oracle"}
    assert (found["oracle"][["precision", "recall", "f1", "exact"]] == 1).all().all()
    assert (found["empty"]["f1"] == 0).all() and 0 < found["no_change"]["f1"].mean() < 1
    cases = [list(frame["case_id"]) for frame in found.values()]
    assert all(names == cases[0] for names in cases)
    assert set(found["sft"]["split"]) == {"in_distribution", "held_out"}


def test_the_usual_change_looks_at_training_only(profile):
    train, case = ITEMS[:60], ITEMS[70]
    answer = usual_answer(usual_changes(train), case)
    assert answer == references(train)["usual_change"](case) and "[#]" not in answer and "\x00" not in answer
    assert usual_answer({}, case).count("None") == 3


def test_scores_hold_both_variants():
    from rlvr_lib.evaluation.language import Answer

    frame = score_cases(evenly(ITEMS, 5), [Answer("", 0, True)] * 5, "test", variant="paper")
    assert (frame["f1"] == frame["f1_paper"]).all() and {"precision", "recall", "f1_released"} <= set(frame)
