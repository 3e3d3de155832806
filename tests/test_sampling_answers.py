"""Sampling with somebody who answers in between, and with a repetition penalty, against the plain way to do it."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from rlvr_lib.training.choosing import occurring, penalised
from rlvr_lib.training.generation import sample

VOCABULARY, COLUMNS = 24, 8
GIVEN = [2, 3, 6, 7]  # the last two are appended although nothing follows them


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, initializer_range=0.3, **sizes)
    return LlamaForCausalLM(config).eval()


def prompts(count: int, length: int = 5) -> list[list[int]]:
    return torch.randint(VOCABULARY, (count, length), generator=torch.Generator().manual_seed(1)).tolist()


def answer(row: int, ids: list[int]) -> list[int]:
    """Depends on the row and on everything so far."""
    return [(sum(ids) + row) % VOCABULARY, (3 * ids[-1] + row) % VOCABULARY]


def marks(count: int) -> torch.Tensor:
    columns = torch.full((count, COLUMNS), -1)
    columns[:, GIVEN] = 0
    return columns


def fill(rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return torch.tensor([answer(int(row), text.tolist()) for row, text in zip(rows, ids, strict=True)])


@torch.no_grad()
def plainly(model, prompt: list[int], row: int, penalty: float) -> list[int]:
    """Greedy, one whole pass per id, with transformers' own penalty."""
    text, response = list(prompt), []
    processor = RepetitionPenaltyLogitsProcessor(penalty) if penalty != 1 else None
    while len(response) < COLUMNS:
        if len(response) in (2, 6):
            new = answer(row, response)
        else:
            logits = model(torch.tensor([text])).logits[:, -1]
            logits = processor(torch.tensor([text]), logits) if processor else logits
            new = [int(logits.argmax())]
        text, response = text + new, response + new
    return response


@pytest.mark.parametrize("penalty", [1.0, 1.2, 3.0])
@pytest.mark.parametrize("max_rows", [None, 2])
def test_answers_and_penalty_agree_with_one_pass_per_id(model, penalty, max_rows):
    texts = prompts(5)
    options = {"greedy": True, "given": marks(5), "fill": fill, "penalty": penalty, "max_rows": max_rows}
    found = sample(model, texts, 1, COLUMNS, None, 0, **options).completions
    assert found == [plainly(model, text, row, penalty) for row, text in enumerate(texts)]


def test_groups_and_prompts_of_unequal_length(model):
    """Rows are numbered prompt by prompt in the order given, whatever order they are sampled in."""
    texts = [[1, 2, 3, 4, 5, 6], [7, 8], [9, 10, 11, 12]]
    options = {"greedy": True, "given": marks(3), "fill": fill, "penalty": 1.2}
    found = sample(model, texts, 2, COLUMNS, None, 0, **options).completions
    assert found == [plainly(model, texts[row // 2], row, 1.2) for row in range(6)]


def test_the_penalty_changes_what_is_sampled_and_one_does_not(model):
    texts = prompts(4)
    ways = [{}, {"penalty": 1.0}, {"penalty": 5.0}]
    found = [sample(model, texts, 1, 12, None, 0, greedy=True, **way).completions for way in ways]
    assert found[0] == found[1] != found[2]


def test_a_penalty_makes_both_signs_less_likely():
    logits, seen = torch.tensor([[2.0, -2.0, 1.0]]), torch.tensor([[True, True, False]])
    assert torch.allclose(penalised(logits, seen, 1.25), torch.tensor([[1.6, -2.5, 1.0]]))
    assert (
        occurring([[0, 2, 2], [1]], 2, torch.zeros(4, 3)).tolist()
        == [[True, False, True]] * 2 + [[False, True, False]] * 2
    )
