"""Fixed-length sampling over static buffers against the ordinary sampler; on a GPU also its graphs and kernels."""

import copy
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from test_generation import PAD, given_ids, tiny

from rlvr_lib.training import graph_sampling
from rlvr_lib.training.choosing import Chooser
from rlvr_lib.training.decode_attention import LayerBuffers, attend_plain, fused_fault
from rlvr_lib.training.generation import sample
from rlvr_lib.training.graph_sampling import fitting_groups
from rlvr_lib.training.rollout_copy import forget_copies, rollout_model
from rlvr_lib.training.shared_prompt import ATTENTION
from rlvr_lib.training.static_batch import Options, Plan, StaticBatch, say_once

KINDS = ["qwen2", "llama", "llama, own keys"]


@pytest.fixture(autouse=True)
def no_faults_left():
    graph_sampling._faults.clear()
    say_once.cache_clear()
    yield
    graph_sampling._faults.clear()
    forget_copies()


def rows_of_one_length(count=5, length=9, seed=0):
    return torch.randint(1, 59, (count, length), generator=torch.Generator().manual_seed(seed)).tolist()


def both(model, prompts, group, length, **options):
    """The ordinary sampler's result and the static one's, with the same random numbers."""
    made = torch.Generator().manual_seed(7)
    numbers = (
        None if options.get("greedy") or "race" in options else torch.rand(len(prompts), group, length, generator=made)
    )
    usual = sample(model, prompts, group, length, None, PAD, uniforms=numbers, graphs=False, **options)
    static = sample(model, prompts, group, length, None, PAD, uniforms=numbers, graphs=True, **options)
    assert "capture" in static.seconds and "capture" not in usual.seconds
    return usual, static


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"greedy": True}, {"temperature": 1.3}, {"top_k": 5}, {"max_rows": 6}])
@pytest.mark.parametrize("group", [1, 3])
def test_ids_are_those_of_the_ordinary_sampler(kind, options, group):
    usual, static = both(tiny(kind), rows_of_one_length(), group, 20, **options)
    assert static.completions == usual.completions and static.ended == usual.ended
    assert (static.prefill_tokens, static.decode_steps) == (usual.prefill_tokens, usual.decode_steps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [[3], [4, 5, 6, 11, 12], [1, 2, 18, 19], list(range(1, 20))])
def test_given_ids_go_in_as_in_the_ordinary_sampler(kind, columns):
    prompts = rows_of_one_length()
    given = given_ids(len(prompts), 20, columns)
    for options in ({"greedy": True, "max_rows": 8}, {"temperature": 0.8}):
        usual, static = both(tiny(kind), prompts, 2, 20, given=given, **options)
        assert static.completions == usual.completions


def test_several_buckets_and_a_layout_of_frames_and_actions():
    """150 ids (three graphs' worth), in frames of 20 followed by 5 given ids, as in multi-step prediction."""
    prompts = rows_of_one_length(3)
    columns = [column for column in range(150) if column % 25 >= 20]
    given = given_ids(len(prompts), 150, columns)
    usual, static = both(tiny(), prompts, 2, 150, given=given)
    assert static.completions == usual.completions and static.decode_steps == usual.decode_steps
    usual, static = both(tiny(), prompts, 2, 150)
    assert static.completions == usual.completions


def test_noise_that_all_rows_share_and_a_single_id():
    race = torch.empty(12, 61).exponential_(generator=torch.Generator().manual_seed(0))
    usual, static = both(tiny(), rows_of_one_length(), 2, 12, race=race)
    assert static.completions == usual.completions
    usual, static = both(tiny(), rows_of_one_length(), 2, 1)
    assert static.completions == usual.completions and static.decode_steps == 0


def test_the_prompts_may_be_read_in_several_passes():
    usual, static = both(tiny(), rows_of_one_length(), 2, 6, prefill_tokens=20)
    assert static.completions == usual.completions


def test_what_lies_beyond_the_step_is_not_seen():
    source = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(4, heads, 2, 8, generator=source) for heads in (4, 2, 2))
    results = []
    for beyond in (0.0, 1e4):
        layer = LayerBuffers(torch.ones(2, 2, 5, 8), torch.ones(2, 2, 5, 8), torch.ones(8, 16, 8), torch.ones(8, 16, 8))
        layer.suffix_key[:, 5:], layer.suffix_value[:, 5:] = beyond, beyond
        results.append(attend_plain(layer, query, key, value, 1.0, torch.tensor([3]), 16))
    assert torch.equal(*results)


def test_a_fault_is_said_once_and_the_ordinary_sampler_takes_over(monkeypatch, capsys):
    def fail(self):
        raise RuntimeError("capture failed\nlong story")

    monkeypatch.setattr(StaticBatch, "decode", fail)
    model, prompts = tiny(), rows_of_one_length()
    expected = sample(model, prompts, 2, 6, None, PAD, greedy=True, graphs=False)
    for _ in range(2):
        assert sample(model, prompts, 2, 6, None, PAD, greedy=True, graphs=True).completions == expected.completions
    assert capsys.readouterr().out.count("RuntimeError: capture failed") == 1
    assert model.config._attn_implementation == "sdpa"


def test_without_memory_it_is_tried_with_fewer_rows(monkeypatch):
    reserves, run = [], graph_sampling.sample_fixed

    def scarce(*arguments, options):
        reserves.append(options.reserve)
        if len(reserves) == 1:
            raise torch.OutOfMemoryError("out of memory")
        return run(*arguments, options=options)

    monkeypatch.setattr(graph_sampling, "sample_fixed", scarce)
    found = sample(tiny(), rows_of_one_length(), 2, 6, None, PAD, greedy=True, graphs=True)
    assert "capture" in found.seconds and len(reserves) == 2 and reserves[0] < reserves[1]


def test_it_keeps_out_where_it_does_not_apply():
    model, prompts = tiny(), rows_of_one_length()
    for changes in ({"eos_id": 60}, {"top_p": 0.9}, {"prompts": [*prompts[:-1], [3, 4]]}):
        usual = {"prompts": prompts, "group_size": 2, "max_new_tokens": 4, "eos_id": None, "pad_id": PAD}
        assert "capture" not in sample(model, **usual | changes, graphs=True).seconds


def test_rows_are_chosen_by_memory(monkeypatch):
    """The paper's model: 1333 x 36 864 bytes for a group's prompt, 336 x 36 864 and the logits for each suffix."""
    config = SimpleNamespace(num_hidden_layers=12, num_key_value_heads=12, num_attention_heads=12, hidden_size=768,
                             head_dim=64, vocab_size=4633)  # fmt: skip
    config.get_text_config = lambda: config
    model = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16, config=config)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    plan = Plan(128, 16, 1333, (False,) * 321)
    group = 36_864 * (1333 + 16 * 336) + 16 * 4633 * 18
    for free, fit in ((80 << 30, 128), (6 * 2**30 + 64 * group, 64), (6 * 2**30 + 65 * group - 1, 64), (1000, 1)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        assert fitting_groups(model, plan, 6 << 30) == fit


@pytest.fixture
def fresh_accelerate():
    """accelerate keeps one state per process; other tests have set it up for another precision."""
    before = AcceleratorState._shared_state.copy(), PartialState._shared_state.copy()
    AcceleratorState._reset_state(True)
    yield
    for state, values in zip((AcceleratorState, PartialState), before, strict=True):
        state._shared_state.clear()
        state._shared_state.update(values)


def test_the_copy_is_bare_follows_the_policy_and_leaves_it_alone(fresh_accelerate):
    model = tiny("llama")
    rollout_model(model, torch.float64)  # another precision first: replaced below
    wrapped = Accelerator(mixed_precision="bf16", cpu=True).prepare_model(model)
    assert "forward" in vars(wrapped)
    wrapped.model.embed_tokens.register_forward_hook(lambda *_: pytest.fail("the policy's hook ran"))
    twin = rollout_model(wrapped, torch.bfloat16)
    places = [parameter.data_ptr() for parameter in twin.parameters()]
    assert "forward" not in vars(twin) and twin.dtype == torch.bfloat16 and not twin.training
    assert twin.model.rotary_emb.inv_freq.dtype == torch.float32
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    assert rollout_model(wrapped, None) is twin
    assert places == [parameter.data_ptr() for parameter in twin.parameters()]
    for mine, its in zip(twin.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, its.bfloat16()) and its.dtype == torch.float32 and not mine.requires_grad


def test_an_unwrapped_model_of_the_wanted_precision_is_not_copied():
    model = tiny()
    assert rollout_model(model, None) is model and rollout_model(model, torch.float32) is model


@pytest.mark.parametrize("kind", KINDS)
def test_the_copy_computes_what_the_model_computes(kind):
    model = tiny(kind)
    twin = rollout_model(model, torch.float64)
    ids = torch.tensor(rows_of_one_length())
    with torch.no_grad():
        torch.testing.assert_close(twin(ids).logits, copy.deepcopy(model).double()(ids).logits, rtol=1e-3, atol=1e-4)
    found = sample(model, ids.tolist(), 2, 12, None, PAD, greedy=True, graphs=True, dtype=torch.float64)
    assert found.completions == sample(model, ids.tolist(), 2, 12, None, PAD, greedy=True).completions
    assert model.config._attn_implementation == "sdpa" and twin.config._attn_implementation in ("sdpa", ATTENTION)


def test_sampling_leaves_a_training_model_as_it_was():
    model = tiny().train()
    sample(model, rows_of_one_length(), 2, 3, None, PAD, graphs=True)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_the_race_takes_its_row_from_a_device_tensor():
    race, logits = torch.rand(3, 8) + 0.1, torch.randn(4, 8)
    choose = Chooser([], 0, 1.0, 1.0, False, torch.device("cpu"), race=race)
    assert torch.equal(choose(logits, None, 2), choose(logits, None, torch.tensor([2])))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(12, 12, 64, 16), (4, 2, 64, 5), (4, 4, 32, 1)])
def test_kernels_agree_with_plain_attention(shape):
    assert fused_fault(*shape, torch.bfloat16, torch.device("cuda")) is None


@pytest.mark.gpu
@pytest.mark.parametrize("options", [Options(), Options(unrotated=False), Options(flash=True), Options(fused=False)])
def test_graphs_replay_what_the_steps_compute(options):
    """The captured ids are those of the same steps without capture; one row may meet a near-tie of bfloat16."""
    model, prompts = tiny("llama, own keys").cuda(), rows_of_one_length()
    chooser = Chooser([], PAD, 1.0, 1.0, True, torch.device("cuda"))
    arguments = (model, prompts, chooser, (3, 100), None, None, None, 4096, torch.bfloat16)
    captured = graph_sampling.sample_fixed(*arguments, options=options)
    options.capture = False
    plain = graph_sampling.sample_fixed(*arguments, options=options)
    same = [one == other for one, other in zip(captured.completions, plain.completions, strict=True)]
    assert sum(same) >= len(same) - 1


@pytest.mark.gpu
def test_float32_on_a_gpu_gives_the_ordinary_ids():
    usual, static = both(tiny().cuda(), rows_of_one_length(), 3, 80)
    same = [one == other for one, other in zip(usual.completions, static.completions, strict=True)]
    assert sum(same) >= len(same) - 1
