"""Reworded copies of recorded steps: the same word everywhere, numbers and frequent words untouched."""

import re
from random import Random

import pytest

from rlvr_lib.training.web_page_data import base_pages
from rlvr_lib.training.web_rewording import rare_words, reworded
from rlvr_lib.worlds.web_transitions import WebTransition

PAGE = "[1] RootWebArea 'Shop'\n\t[2] textbox 'Street' value: {0}\n\t[3] StaticText '{0}, {1}'\n\t[4] button 'Save'"


def step(street: str, town: str, number: int = 0) -> WebTransition:
    return WebTransition(
        site="shop",
        task="shop.move",
        seed=number,
        step=0,
        goal=f"Move to {street}",
        url="http://shop.test/",
        previous=(f"type [2] [{street}] [0]",),
        before=PAGE.format("", town),
        action=f"type [2] [{street.upper()} 77] [0]",
        after=PAGE.format(street, town),
        after_url="http://shop.test/",
        new=(f"[9] StaticText '{street}'",),
        deleted=(),
        updated=(f"[2] textbox 'Street' value: {street} 77 focused: True",),
    )


STEPS = [step(f"Road{'abcdefghij'[n]}", f"Town{'abcdefghij'[n]}", n) for n in range(10)]


def test_rare_words_are_those_of_few_steps():
    assert rare_words(STEPS, 0.1) == sorted(f"{kind}{letter}" for kind in ("road", "town") for letter in "abcdefghij")
    assert rare_words(STEPS, 0.05) == []


def test_a_word_is_replaced_everywhere_alike_and_nothing_else_changes():
    rare = [f"word{letter}" for letter in "klmnopqrstuvw"] + ["roada", "towna"]
    found = reworded(STEPS[0], rare, Random(3))
    street, town = re.search(r"Move to (\w+)", found.goal)[1], re.search(r"', (\w+)'", found.before)[1]
    assert {street.lower(), town.lower()} <= set(rare) and street[0].isupper() and street.lower() != "roada"
    assert found == step(street, town).__class__(**{**vars(step(street, town)), "after": found.after})
    assert found.after == PAGE.format(street, town)
    assert found.action == f"type [2] [{street.upper()} 77] [0]"


@pytest.mark.parametrize("copies", [0, 2])
def test_the_corpus_holds_the_steps_and_their_copies(copies):
    texts = ["".join(text for text, _ in page) for page in base_pages(STEPS * 5, 1, copies)]
    again = ["".join(text for text, _ in page) for page in base_pages(STEPS * 5, 1, copies)]
    assert texts == again and len(texts) == 50 * (1 + copies)
    assert all("http://shop.test/" in text and "[2]" in text for text in texts)
