"""Sampling with one prefill per prompt against HF generate and plain forward passes."""

import random

import pytest
import torch
from scipy.stats import chisquare
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from rlvr_lib.training.generation import sample

V, EOS, PAD = 61, 60, 0


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(kind="qwen2", eos_weight=0.0, dtype=torch.float32):
    """Wide initial weights give peaked, varied logits; `eos_weight` makes the end token likelier."""
    torch.manual_seed(0)
    llama = (LlamaConfig, LlamaForCausalLM)
    config, model = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": llama, "llama, own keys": llama}[kind]
    built = model(
        config(
            vocab_size=V,
            hidden_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4 if "own" in kind else 2,
            intermediate_size=96,
            tie_word_embeddings=True,
            initializer_range=0.15,
        )
    )
    with torch.no_grad():
        built.get_input_embeddings().weight[EOS] *= 1 + eos_weight
    return built.to(dtype).eval()


def prompts(count=7, longest=20, seed=0):
    generator = random.Random(seed)
    return [[generator.randrange(1, EOS) for _ in range(generator.randint(1, longest))] for _ in range(count)]


def generate(model, rows, length, eos=EOS):
    """HF generate, greedy, left-padded; end token included, padding removed."""
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    out = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=length, do_sample=False, eos_token_id=eos, pad_token_id=PAD
    )[:, width:].tolist()
    return [row[: row.index(eos) + 1] if eos in row else row for row in out]


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("length", [1, 9, 80])
def test_greedy_is_generate_token_for_token(kind, length):
    model, rows = tiny(kind), prompts()
    for eos in (EOS, 17, 5):  # whichever tokens the random model likes: some responses end, others do not
        expected = generate(model, rows, length, eos)
        for group, max_rows in ((1, 512), (3, 512), (3, 7)):
            found = sample(model, rows, group, length, eos, PAD, greedy=True, max_rows=max_rows)
            assert found.completions == [row for row in expected for _ in range(group)]
            assert found.ended == [row[-1] == eos for row in found.completions]


def test_prompts_of_one_length_and_no_end_token():
    model, rows = tiny(), [row[:1] * 6 for row in prompts()]
    found = sample(model, rows, 2, 12, None, PAD, greedy=True)
    assert found.completions == [row for row in generate(model, rows, 12, eos=-1) for _ in range(2)]
    assert not any(found.ended) and found.decode_steps == 11 and found.prefill_tokens == 42


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_each_sampled_token_is_the_plain_models_under_the_same_random_number(top_p):
    """Float64, teacher forced: the inverse distribution function over plain full forward passes gives every token."""
    model, rows, group, length, temperature = tiny(eos_weight=0.5, dtype=torch.float64), prompts(), 4, 30, 1.3
    found = sample(
        model,
        rows,
        group,
        length,
        EOS,
        PAD,
        temperature,
        top_p,
        generator=torch.Generator().manual_seed(3),
        max_rows=12,
    )
    uniforms = torch.rand(len(rows), group, length, generator=torch.Generator().manual_seed(3))
    lengths = [len(completion) for completion in found.completions]
    assert min(lengths) < 15 < max(lengths)  # rows left the batch at different times
    for row, completion in enumerate(found.completions):
        prompt = rows[row // group]
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].detach()
        for step, token in enumerate(completion):
            p = (logits[step] / temperature).softmax(-1)
            order = p.argsort(descending=True)
            nucleus = order[: int((p[order].cumsum(0) < top_p).sum()) + 1]
            p = torch.zeros_like(p).index_copy_(0, nucleus, p[nucleus])
            before, after = p[:token].sum() / p.sum(), p[: token + 1].sum() / p.sum()
            assert before - 1e-5 <= uniforms[row // group, row % group, step] <= after + 1e-5 and p[token] > 0
        assert (completion[-1] == EOS) == found.ended[row] and EOS not in completion[:-1]
        assert found.ended[row] or len(completion) == length


def given_ids(count, length, columns, seed=5):
    """(count, length): random ids in these columns, -1 elsewhere."""
    ids = torch.full((count, length), -1)
    ids[:, columns] = torch.randint(1, EOS, (count, len(columns)), generator=torch.Generator().manual_seed(seed))
    return ids


@pytest.mark.parametrize("kind", ["qwen2", "llama", "llama, own keys"])
@pytest.mark.parametrize("columns", [[3], [4, 5, 6, 11, 12], [1, 2, 18, 19]])
def test_given_ids_are_put_in_and_the_rest_is_greedy_around_them(kind, columns):
    model, rows, length = tiny(kind, dtype=torch.float64), prompts(), 20
    given = given_ids(len(rows), length, columns)
    passes = []
    forward = model.forward
    model.forward = lambda input_ids, **rest: (passes.append(input_ids.shape[1]), forward(input_ids, **rest))[1]
    found = sample(model, rows, 2, length, None, PAD, greedy=True, given=given, max_rows=6)
    model.forward = forward
    for row, completion in enumerate(found.completions):
        prompt = rows[row // 2]
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        expected = torch.where(given[row // 2] >= 0, given[row // 2], logits.argmax(-1))
        assert completion == expected.tolist()
    batches = 3  # of three, three and one prompts; the last sampled id of each is never fed
    last = max(set(range(length)) - set(columns))
    assert found.decode_steps == batches * sum(column not in columns for column in range(last))


@pytest.mark.parametrize("top_k", [0, 5])
def test_numbers_from_outside_decide_and_top_k_cuts(top_k):
    """Float64, teacher forced, with given ids in between and rows that end."""
    model, rows, length = tiny(eos_weight=0.5, dtype=torch.float64), prompts(), 24
    given = given_ids(len(rows), length, [6, 7, 15])
    uniforms = torch.rand(len(rows), 3, length, generator=torch.Generator().manual_seed(1))
    found = sample(model, rows, 3, length, EOS, PAD, given=given, uniforms=uniforms, top_k=top_k, max_rows=9)
    assert any(found.ended) and not all(found.ended)
    for row, completion in enumerate(found.completions):
        prompt = rows[row // 3]
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].detach()
        for step, token in enumerate(completion):
            known = int(given[row // 3, step])
            if known >= 0:
                assert token == known
                continue
            p = logits[step].softmax(-1)
            if top_k:
                p[p.argsort(descending=True)[top_k:]] = 0
            before, after = p[:token].sum() / p.sum(), p[: token + 1].sum() / p.sum()
            assert p[token] > 0 and before - 1e-5 <= uniforms[row // 3, row % 3, step] <= after + 1e-5


def test_the_same_numbers_for_every_prompt_give_equal_prompts_equal_responses():
    model, prompt = tiny(), prompts()[0]
    shared = torch.rand(1, 1, 12, generator=torch.Generator().manual_seed(0)).expand(3, 2, 12)
    found = sample(model, [prompt] * 3, 2, 12, None, PAD, uniforms=shared)
    assert all(completion == found.completions[0] for completion in found.completions)


def test_a_race_is_fair_and_shared_by_all_rows():
    """Exponential races pick ids with the model's probabilities, and equal logits give equal ids."""
    model, prompt = tiny(), prompts()[0]
    with torch.no_grad():
        first = model(torch.tensor([prompt])).logits[0, -1].softmax(-1).double()
    numbers = torch.empty(3000, 1, V).exponential_(generator=torch.Generator().manual_seed(0))
    wins = torch.tensor([int((first / row[0]).argmax()) for row in numbers]).bincount(minlength=V).double()
    top = first.topk(8).indices
    expected = torch.cat([first[top], (1 - first[top].sum())[None]]) * 3000
    observed = torch.cat([wins[top], (3000 - wins[top].sum())[None]])
    assert chisquare(observed.numpy(), expected.numpy()).pvalue > 1e-3
    for row in numbers[:20]:
        found = sample(model, [prompt] * 2, 2, 1, None, PAD, race=row)
        assert found.completions == [[int((first / row[0]).argmax())]] * 4
    with pytest.raises(ValueError, match="race"):
        sample(model, [prompt], 1, 2, None, PAD, race=numbers[0])


def test_sampled_pairs_follow_the_models_distribution():
    """Chi-square over the most likely first two tokens of 6 000 samples of one prompt."""
    model, prompt = tiny(), prompts()[0]
    found = sample(model, [prompt], 6000, 2, None, PAD, generator=torch.Generator().manual_seed(0), max_rows=6000)
    with torch.no_grad():
        first = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        second = model(torch.tensor([[*prompt, token] for token in range(V)])).logits[:, -1].softmax(-1)
    joint = (first[:, None] * second).flatten().double()
    seen = torch.tensor([a * V + b for a, b in found.completions]).bincount(minlength=V * V).double()
    top = joint.topk(30).indices
    expected = torch.cat([joint[top], (1 - joint[top].sum())[None]]) * 6000
    observed = torch.cat([seen[top], (6000 - seen[top].sum())[None]])
    assert expected.min() > 5 and chisquare(observed.numpy(), expected.numpy()).pvalue > 1e-3


def test_result_depends_on_the_seed_only():
    model, rows = tiny(eos_weight=0.5), prompts()

    def draw(seed, **changes):
        return sample(
            model, rows, 4, 40, EOS, PAD, generator=torch.Generator().manual_seed(seed), **changes
        ).completions

    assert draw(1) == draw(1, max_rows=5, prefill_tokens=8) == draw(1, max_rows=16) != draw(2)


def test_rows_that_end_leave_the_batch(monkeypatch):
    model, rows = tiny(eos_weight=0.8), prompts(12)
    widths = []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda input_ids, **rest: (widths.append(len(input_ids)), forward(input_ids, **rest))[1]
    )
    found = sample(model, rows, 3, 60, EOS, PAD, generator=torch.Generator().manual_seed(0))
    decoding = widths[-found.decode_steps :]
    assert sum(decoding) < 0.8 * decoding[0] * len(decoding) and sorted(decoding, reverse=True) == decoding
    assert sum(found.ended) > 20


def test_several_end_tokens():
    model, rows = tiny(), prompts()
    ends = [EOS, 5, 17]
    found = sample(model, rows, 2, 50, ends, PAD, generator=torch.Generator().manual_seed(0))
    assert any(found.ended)
    for completion, ended in zip(found.completions, found.ended, strict=True):
        assert (completion[-1] in ends) == ended and not set(completion[:-1]) & set(ends)


def test_model_is_left_as_it_was():
    model = tiny().train()
    sample(model, prompts(), 2, 3, EOS, PAD)
    assert model.training and model.config._attn_implementation == "sdpa"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bfloat16_and_autocast_run():
    model, rows = tiny(eos_weight=0.5), prompts()
    with torch.autocast("cpu", torch.bfloat16):
        assert len(sample(model, rows, 3, 20, EOS, PAD).completions) == 21
    assert len(sample(model.to(torch.bfloat16), rows, 3, 20, EOS, PAD).completions) == 21


@pytest.mark.parametrize(
    "arguments",
    [
        dict(prompts=[]),
        dict(prompts=[[1], []]),
        dict(temperature=0.0),
        dict(top_p=0.0),
        dict(max_new_tokens=0),
        dict(group_size=0),
        dict(given=torch.tensor([[-1, -1, 3]])),
        dict(given=torch.tensor([[3, -1]])),
        dict(prompts=[[1], [2]], given=torch.tensor([[-1, 4], [-1, -1]])),
        dict(uniforms=torch.rand(1, 2, 2)),
    ],
)
def test_bad_settings_are_refused(arguments):
    usual = dict(prompts=[[1, 2]], group_size=1, max_new_tokens=2, eos_id=EOS, pad_id=PAD)
    with pytest.raises(ValueError):
        sample(tiny(), **usual | arguments)
