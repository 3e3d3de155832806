"""A rollout's first update scores its own old policy: same training as the unmodified trainer, fewer passes."""

import pytest
import torch
from peft import LoraConfig
from test_grpo import SETTINGS, G, OurTrainer, StockTrainer, prompts, rows, run
from test_grpo import folder as folder
from test_grpo import one_thread as one_thread
from test_grpo import tokenizer as tokenizer

from rlvr_lib.training.grpo import GroupedGRPOTrainer


@pytest.fixture
def scored(monkeypatch):
    """Rows that go through the log-probability function without gradients, by model."""
    counts: list[tuple[object, int]] = []
    inner = GroupedGRPOTrainer._may_share

    def counting(self, model, input_ids, *rest):
        if not torch.is_grad_enabled():
            counts.append((model, len(input_ids)))
        return inner(self, model, input_ids, *rest)

    monkeypatch.setattr(GroupedGRPOTrainer, "_may_share", counting)
    return counts


@pytest.mark.parametrize(("updates", "micro"), [(2, 6), (4, 3), (4, 1)])
def test_loss_and_weights_are_those_of_the_unmodified_trainer(
    updates, micro, folder, tokenizer, tmp_path, monkeypatch, scored
):
    monkeypatch.setattr("trl.trainer.grpo_trainer.shuffle_sequence_dict", lambda batch: batch)
    changes = dict(prompts_per_update=4 // updates, sequences_per_micro_batch=micro)
    stock = run(StockTrainer, folder, tokenizer, tmp_path / "stock", prompts(False, text=True), **changes)
    ours = run(OurTrainer, folder, tokenizer, tmp_path / "ours", prompts(False, text=True), **changes)
    # Round-off grows with the updates at this high rate: 6e-6 through three rollouts, up to 3e-4 at the fourth.
    for mine, theirs, allowed in zip(rows(ours), rows(stock), (5e-5, 5e-5, 5e-5, 1e-3), strict=True):
        for name in ("loss", "kl", "reward", "grad_norm", "entropy", "clip_ratio/region_mean"):
            assert mine[name] == pytest.approx(theirs[name], rel=allowed, abs=2e-6), name
    for mine, theirs in zip(ours.model.parameters(), stock.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-3 * SETTINGS["learning_rate"] * 100)
    assert ours.fallback_reason is None and ours.largest_ratio == 1
    chunks = [chunk.get("old_per_token_logps") for chunk in ours._buffered_inputs]
    first = ours.args.gradient_accumulation_steps
    assert all(old is None for old in chunks[:first]) and all((old != 0).any() for old in chunks[first:])
    # `_may_share` is asked once a pass, with the pass's first chunk
    assert [model is ours.ref_model for model, _ in scored] == [False, True] * SETTINGS["steps"]


def test_an_adapter_whose_reference_is_the_same_model(folder, tokenizer, tmp_path, monkeypatch):
    trained = {}
    for skipping in (True, False):
        with monkeypatch.context() as patch:
            if not skipping:
                patch.setattr(GroupedGRPOTrainer, "_first_update_scores_itself", lambda self: False)
            options = {"peft_config": LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.0)}
            changes = dict(steps=3, prompts_per_update=2, sequences_per_micro_batch=6, config=options)
            torch.manual_seed(0)
            trained[skipping] = run(OurTrainer, folder, tokenizer, tmp_path / str(skipping), **changes)
    one, other = trained[True], trained[False]
    assert "old_per_token_logps" in other._buffered_inputs[0] and "old_per_token_logps" not in one._buffered_inputs[0]
    for mine, theirs in zip(rows(one), rows(other), strict=True):
        for name in ("loss", "kl", "grad_norm"):
            assert mine[name] == pytest.approx(theirs[name], rel=1e-3, abs=2e-6), name


def test_one_update_a_rollout_scores_no_old_policy(folder, tokenizer, tmp_path, scored):
    trainer = run(OurTrainer, folder, tokenizer, tmp_path, steps=2)
    assert all(model is trainer.ref_model for model, _ in scored) and scored[0][1] == 4 * G
