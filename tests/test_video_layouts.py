"""Sequences of the video world models against worked examples, and the models' parameter counts."""

import pytest
import torch

from rlvr_lib.tokens.action_bins import ActionBins
from rlvr_lib.tokens.video_layouts import IGNORED, MultiStepLayout, SingleStepLayout, layout_from
from rlvr_lib.tokens.world_model import Size, world_model

BINS = ActionBins([-1, 0, -2], [1, 1, 6])


def binned(*actions):
    return torch.from_numpy(BINS.to_bins([list(action) for action in actions]))


def test_single_step_worked_example():
    layout = SingleStepLayout(tokens=4, action_dims=3, context=2)
    frames = torch.tensor([[316, 3875, 1343, 3129], [3271, 1983, 3809, 4228], [3667, 2600, 1179, 3361]])
    ids = layout.encode(frames[None], binned((4.187, 5.334, 5.084), (5.211, 4.044, -1.226))[None])[0]
    expected = "316 3875 1343 3129 4630 4630 4601 3271 1983 3809 4228 4630 4630 4399 4631 3667 2600 1179 3361 4632"
    assert ids.tolist() == [int(word) for word in expected.split()]
    assert layout.supervised.nonzero().flatten().tolist() == [14, 15, 16, 17, 18, 19]
    assert layout.labels(ids[None])[0].tolist() == [IGNORED] * 14 + [4631, 3667, 2600, 1179, 3361, 4632]
    with_history = [IGNORED] * 7 + [3271, 1983, 3809, 4228] + [IGNORED] * 3 + [4631, 3667, 2600, 1179, 3361, 4632]
    assert layout.labels(ids[None], history=True)[0].tolist() == with_history


def test_multi_step_worked_example():
    layout = MultiStepLayout(context_tokens=6, tokens=3, action_dims=3, horizon=2)
    context = torch.tensor([[1426, 3188, 3104, 871, 2243, 475]])
    frames = torch.tensor([[[577, 776, 4151], [2785, 1027, 2454], [2052, 2646, 2407]]])
    actions = binned((-1.738, 4.662, 1.694), (3.554, 0.193, 5.797), (-1.807, 0.7537, 3.240))[None]
    expected = "5801 7563 7479 5246 6618 4850 577 776 4151 8750 9005 8868 "
    expected += "2785 1027 2454 9005 8799 8999 2052 2646 2407 8750 8942 8917"
    ids = layout.encode(context, frames, actions)
    assert ids[0].tolist() == [int(word) for word in expected.split()]
    assert layout.supervised.nonzero().flatten().tolist() == [12, 13, 14, 18, 19, 20]
    assert layout.prompt == 12
    assert torch.equal(layout.encode_prompt(context, frames[:, 0], actions[:, 0]), ids[:, :12])
    assert layout.given.tolist() == [3, 4, 5, 9, 10, 11]
    assert layout.given_ids(actions)[0].tolist() == [9005, 8799, 8999, 8750, 8942, 8917]
    assert torch.equal(layout.predicted(ids[:, 12:]), frames[:, 1:])


def test_lengths_of_the_paper():
    single, multi = SingleStepLayout(), MultiStepLayout()
    assert (single.length, single.prompt, single.response, int(single.supervised.sum())) == (1654, 1333, 321, 322)
    assert (multi.length, multi.prompt, multi.response, int(multi.supervised.sum())) == (2024, 1373, 651, 560)
    assert (single.vocabulary, multi.vocabulary) == (4633, 9008)
    assert int(multi.frame_at[4, 5]) == 1280 + 93 * 4 + 5 and int(multi.action_at[4, 2]) == 1280 + 93 * 4 + 80 + 2


@pytest.mark.parametrize("context,tokens,dims", [(1, 1, 1), (2, 20, 4), (4, 80, 4), (3, 7, 13)])
def test_encode_then_decode_is_the_identity(context, tokens, dims):
    generator = torch.Generator().manual_seed(tokens)
    single = SingleStepLayout(tokens, dims, context, codes=90)
    frames = torch.randint(90, (5, context + 1, tokens), generator=generator)
    actions = torch.randint(256, (5, context, dims), generator=generator)
    ids = single.encode(frames, actions)
    back, moved = single.decode(ids)
    assert torch.equal(back, frames) and torch.equal(moved, actions)
    assert torch.equal(single.encode_prompt(frames[:, :-1], actions), ids[:, : single.prompt])
    assert torch.equal(single.predicted(ids[:, single.prompt :])[:, 0], frames[:, -1])
    multi = MultiStepLayout(2 * tokens, tokens, dims, horizon=context, codes=90)
    first = torch.randint(90, (5, 2 * tokens), generator=generator)
    actions = torch.randint(256, (5, context + 1, dims), generator=generator)
    for left, right in zip(multi.decode(multi.encode(first, frames, actions)), (first, frames, actions), strict=True):
        assert torch.equal(left, right)
    for layout in (single, multi):
        assert layout_from(layout.describe()).describe() == layout.describe()


def test_invalid_ids_become_the_last_code():
    layout = SingleStepLayout(tokens=3, action_dims=1, context=1)
    response = torch.tensor([[4374, 4375, 4632, 4632]])
    assert layout.predicted(response).tolist() == [[[4374, 4374, 4374]]]


def test_wrong_input_is_named():
    layout = SingleStepLayout(tokens=3, action_dims=2, context=1, codes=10)
    frames, actions = torch.zeros(1, 2, 3, dtype=torch.long), torch.zeros(1, 1, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"codes must lie in 0\.\.9"):
        layout.encode(frames + 10, actions)
    with pytest.raises(ValueError, match=r"bins must lie in 0\.\.255"):
        layout.encode(frames, actions + 256)
    with pytest.raises(ValueError, match="expected tokens"):
        layout.encode(frames[:, :1], actions)
    with pytest.raises(ValueError, match="needs 1 actions of 2"):
        layout.encode(frames, actions[..., :1])


@pytest.mark.parametrize("layout,parameters", [(SingleStepLayout(), 120_381_696), (MultiStepLayout(), 127_101_696)])
def test_parameter_counts_of_the_paper(layout, parameters):
    with torch.device("meta"):
        assert world_model(layout).num_parameters() == parameters


def test_a_checkpoint_remembers_its_layout(tmp_path):
    layout = MultiStepLayout(4, 2, 3, 2, codes=16, bins=8)
    world_model(layout, Size(16, 1, 2, 32)).save_pretrained(tmp_path)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert layout_from(model.config.layout).describe() == layout.describe()
