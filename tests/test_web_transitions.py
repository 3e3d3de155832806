"""Recorded and public transitions without a browser: files, splits, filters, prompts, answers, the shipped set."""

import json
import lzma
from dataclasses import replace
from random import Random

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr_lib.artifacts import ROOT, UserError
from rlvr_lib.worlds.transitions import record_lines
from rlvr_lib.worlds.web_answers import changes_between, element_of, items_of, next_page, read_changes
from rlvr_lib.worlds.web_pages import SECTIONS, Changes
from rlvr_lib.worlds.web_policy import random_action
from rlvr_lib.worlds.web_prompt import compact_prompt, full_prompt
from rlvr_lib.worlds.web_public import load_public
from rlvr_lib.worlds.web_record import WebRecording, thin, without_repeats, write_set
from rlvr_lib.worlds.web_rewards import score_changes
from rlvr_lib.worlds.web_transitions import (
    MANIFEST,
    SPLITS,
    WebTransition,
    assert_disjoint,
    load_web_set,
    read_web_file,
    short_enough,
    split_of,
)

SHIPPED = ROOT / "data" / "web_pages"
BEFORE = "Tab 0 (current): Shop\n\n[1] RootWebArea 'Shop' focused: True\n\t[2] link 'Basket (0)'\n\t[3] button 'Add'"
AFTER = "Tab 0 (current): Shop\n\n[1] RootWebArea 'Shop'\n\t[2] link 'Basket (1)'\n\t[4] StaticText 'Added'"
ITEM = WebTransition(
    *("shop", "shop.add-one", 7, 2, "Put one pan into the basket", "http://shop.test/", ("click [2]", "go_back")),
    *(BEFORE, "click [3]", AFTER, "http://shop.test/basket", ("[4] StaticText 'Added'",), ("[3] button 'Add'",)),
    ("[1] RootWebArea 'Shop'", "[2] link 'Basket (1)'"),
)


def test_a_record_comes_back():
    assert WebTransition.from_record(json.loads(json.dumps(ITEM.record()))) == ITEM
    assert "prompt" not in ITEM.record() and ITEM.case_id == "shop/shop.add-one/7/2"
    assert changes_between(BEFORE, AFTER) == ITEM.changes


def test_an_answer_rebuilds_the_page():
    assert read_changes(ITEM.changes.text) == ITEM.changes
    assert items_of(next_page(BEFORE, ITEM.changes)) == items_of(AFTER)
    assert read_changes("nothing") == Changes() and next_page(BEFORE, Changes()) == BEFORE
    odd = read_changes("New items:\nNone\n<script>\n[x] link\n[5] link 'a'\nDeleted items:\n[99] link 'none'")
    assert odd.new == ("[5] link 'a'",) and next_page(BEFORE, odd).endswith("[5] link 'a'")
    assert element_of(BEFORE, "type [3] [x] [1]") == "button 'Add'" and element_of(BEFORE, "click [9]") == ""
    assert element_of(BEFORE, "go_back") == ""


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_answer_leaves_some_page(page, answer):
    assert isinstance(next_page(page, read_changes("New items:\n" + answer)), str)


def test_prompts_hold_what_the_definition_names_in_order():
    text = full_prompt(ITEM)
    parts = [
        "OBJECTIVE:",
        "click [id]",
        "tab_focus",
        "goto [url]",
        "stop [answer]",
        *SECTIONS,
        "URL: http://shop.test/",
    ]
    parts += ["OBJECTIVE: Put one", "PREVIOUS ACTION: None\nclick [2]\ngo_back", BEFORE, "CURRENT ACTION: click [3]"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places) and AFTER not in text and "Basket (1)" not in text
    assert compact_prompt(ITEM) == f"http://shop.test/\n{BEFORE}\nAction: click [3] where it is button 'Add'\n"
    assert compact_prompt(replace(ITEM, action="go_back")).endswith("Action: go_back\n")


def test_the_task_encodes_and_decodes():
    from rlvr_lib.tokens.text_tokenizer import load_tokenizer
    from rlvr_lib.tokens.web_page_task import WebPageTask, perfect_answer, trained_answer

    task = WebPageTask(load_tokenizer(ROOT / "data" / "weights" / "text_games" / "base"))
    prompt, response = task.prompt_ids([ITEM])[0], task.response_ids([ITEM])[0]
    assert task.tokens(ITEM) == len(prompt) + len(response)
    assert score_changes(task.text(response), perfect_answer(ITEM)).f1 == 1
    changes, page = task.predicted(ITEM, task.text(response))
    assert changes == ITEM.changes and items_of(page) == items_of(AFTER)
    assert trained_answer(replace(ITEM, thoughts="It adds.")).startswith("It adds.\n\nNew items:")
    assert short_enough([ITEM], task.tokens, 10) == [] and short_enough([ITEM], task.tokens) == [ITEM]


def test_splits_go_by_task_and_seed():
    drawn = [split_of("shop", "shop", seed, False) for seed in range(3000)]
    shares = {split: drawn.count(split) / 3000 for split in SPLITS}
    assert 0.83 < shares["train"] < 0.89 and 0.03 < shares["validation"] < 0.07 and 0.07 < shares["test"] < 0.11
    assert split_of("tracker", "tracker", 3, True) == "unseen"
    assert_disjoint({"train": [ITEM], "test": [replace(ITEM, seed=8, action="go_back")]})
    for other in (replace(ITEM, action="go_back"), replace(ITEM, seed=8)):
        with pytest.raises(AssertionError, match="stands in train"):
            assert_disjoint({"train": [ITEM], "test": [other]})


def test_repeats_stay_in_the_held_out_split_and_idle_steps_are_thinned():
    idle = [replace(ITEM, seed=seed, before=f"{seed}", new=(), deleted=(), updated=()) for seed in range(40)]
    busy = [replace(ITEM, seed=seed, before=f"{seed}") for seed in range(100, 117)]
    test = replace(ITEM, split="test", before="100")
    kept = without_repeats([*busy, test])
    assert test in kept and busy[0] not in kept and len(kept) == 17
    found = thin([*idle, *busy], 0.15)
    assert sum(not item.changes for item in found) == 3 and found == thin([*idle, *busy], 0.15)


def test_a_set_is_written_whole_and_read_back_checked(tmp_path):
    plan = WebRecording(names=("shop",))
    items = [
        replace(ITEM, seed=1),
        replace(ITEM, seed=2, split="test", before="x"),
        replace(ITEM, seed=1, action="stop"),
    ]
    manifest = write_set(tmp_path, plan, [{"items": [item.record() for item in items], "browser": "1"}])
    assert manifest["counts"]["train"] | {"sites": 0} == dict(transitions=1, changed=1, stops=1, episodes=1, sites=0)
    assert manifest["command"].startswith("rlvr record-web ") and str(tmp_path) not in json.dumps(manifest)
    loaded = load_web_set(tmp_path)
    assert [len(loaded[split]) for split in SPLITS] == [1, 0, 1, 0]
    assert len(load_web_set(tmp_path, stops=True)["train"]) == 2
    (tmp_path / "train.jsonl.xz").write_bytes(lzma.compress(b"{}\n"))
    with pytest.raises(UserError, match="manifest"):
        load_web_set(tmp_path)
    with pytest.raises(UserError, match="line 1 is damaged"):
        read_web_file(tmp_path / "train.jsonl.xz")
    with pytest.raises(UserError, match="missing"):
        read_web_file(tmp_path / "none.jsonl.xz")
    (tmp_path / "cut.jsonl.xz").write_bytes((tmp_path / "test.jsonl.xz").read_bytes()[:40])
    with pytest.raises(UserError, match="damaged"):
        read_web_file(tmp_path / "cut.jsonl.xz")


def test_random_actions_are_valid():
    from rlvr_lib.worlds.web_actions import read_action
    from rlvr_lib.worlds.web_pages import Node, Numbering, Page

    nodes = [
        Node(1, "RootWebArea", "t"),
        Node(2, "textbox", "q"),
        Node(3, "link", "a"),
        Node(4, "StaticText", "red [x]"),
    ]
    page = Page("t", "", Numbering()(nodes))
    actions = [random_action(page, 'Type "blue"', Random(seed)) for seed in range(300)]
    assert all(read_action(str(action)) == action for action in actions)
    assert {action.element for action in actions} == {None, 2, 3, 4}
    assert len({action.kind for action in actions}) >= 5
    assert random_action(Page("", "", ()), "", Random(3)).element is None


PUBLIC = {
    "task_id": 3,
    "step_idx": 1,
    "previous_actions": ["None", "click [5]"],
    "next_state_acctree": "[2] link 'b'",
    "new_items": "[2] link 'b'",
    "updated_items": "None",
    "deleted_items": "[1] link 'a'\n[3] link 'c'",
    "question": "Explained:\nURL: what it is\nCURRENT ACTION: what it is\n\nURL: http://a.b/\nOBJECTIVE: buy\n"
    "PREVIOUS ACTION: None\nCURRENT OBSERVATION:\n[1] link 'a'\n\nCURRENT ACTION: click [1]\n\nGive it.",
    "answer": "It opens b.\n\nNew items:\n[2] link 'b'\n\nDeleted items:\n[1] link 'a'\n[3] link 'c'\n\n"
    "Updated items:\nNone",
}


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.xz", "parquet"])
def test_public_rows_are_read(tmp_path, kind):
    rows = [{**PUBLIC, "task_id": task} for task in range(300)]
    path = tmp_path / f"part.{kind}"
    if kind == "parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        data = "".join(record_lines(rows)).encode()
        path.write_bytes(lzma.compress(data) if kind.endswith("xz") else data)
    items = load_public(tmp_path)
    item = items[3]
    assert (item.url, item.goal, item.before, item.action) == ("http://a.b/", "buy", "[1] link 'a'", "click [1]")
    assert item.changes == Changes(("[2] link 'b'",), ("[1] link 'a'", "[3] link 'c'")) and item.previous == (
        "click [5]",
    )
    assert full_prompt(item) == compact_prompt(item) == PUBLIC["question"] and item.thoughts == "It opens b."
    assert 0 < sum(item.split == "test" for item in items) < 15
    assert load_public(path) == items


def test_public_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match="holds no"):
        load_public(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"task_id": 1}\n')
    with pytest.raises(UserError, match="row 1 lacks step_idx"):
        load_public(tmp_path)
    (tmp_path / "a.jsonl").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_public(tmp_path)
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot be read"):
        load_public(tmp_path)


@pytest.mark.skipif(not (SHIPPED / MANIFEST).is_file(), reason="the recorded set is not there")
def test_the_shipped_set_is_what_it_says():
    splits = load_web_set(SHIPPED, stops=True)
    assert_disjoint({split: [item for item in items if not item.is_stop] for split, items in splits.items()})
    manifest = json.loads((SHIPPED / MANIFEST).read_text())
    for split, items in splits.items():
        steps = [item for item in items if not item.is_stop]
        assert len(steps) == manifest["counts"][split]["transitions"] > 100
        assert all(changes_between(item.before, item.after) == item.changes for item in steps)
        assert all("127.0.0.1" not in item.before and "localhost" not in item.url for item in items)
    assert {item.site for item in splits["unseen"]} >= {"tracker"}
    assert not any(item.site == "tracker" for split in SPLITS[:3] for item in splits[split])
    assert "/" not in manifest["command"].replace("data/web_pages", "") and not manifest["failed"]
