"""GroupedGRPOTrainer against the unmodified trl.GRPOTrainer, resuming, metrics, health checks, faults."""

import json
import random
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOTrainer

from rlvr_lib.artifacts import UserError
from rlvr_lib.training.checkpoints import last_whole_checkpoint, train_from_last
from rlvr_lib.training.generation import sample
from rlvr_lib.training.grpo import GroupedGRPOTrainer, MetricsCallback
from rlvr_lib.training.grpo_settings import grpo_config

V, EOS, PAD, G = 40, 39, 38, 3
SETTINGS = dict(
    steps=4,
    prompts_per_step=4,
    prompts_per_update=4,
    group_size=G,
    learning_rate=1e-2,
    betas=(0.9, 0.999),
    weight_decay=0.01,
    grad_clip=1.0,
    kl_coefficient=0.05,
    clip=0.2,
    entropy_coefficient=0.001,
    temperature=1.0,
    top_p=1.0,
    max_response=10,
    save_every=2,
    sequences_per_micro_batch=12,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {str(i): i for i in range(PAD)} | {"<pad>": PAD, "<eos>": EOS}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", padding_side="left", model_max_length=64
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=V,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        tie_word_embeddings=True,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    Qwen2ForCausalLM(config).save_pretrained(path)
    return str(path)


def prompts(equal: bool, text: bool = False, count: int = 8) -> Dataset:
    generator = random.Random(0)
    lengths = [9 if equal else generator.randint(1, 14) for _ in range(count)]
    rows = [[generator.randrange(PAD) for _ in range(length)] for length in lengths]
    return Dataset.from_dict({"prompt": [" ".join(map(str, row)) for row in rows] if text else rows})


def even_share(completion_ids, **_):
    """Share of even tokens: varied within a group, and something that a few updates can raise."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


class StockTrainer(GRPOTrainer):
    """The unmodified trainer with the same sampler and seeds injected; nothing else."""

    fixed_length = False

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        updates = self.args.steps_per_generation // self.args.gradient_accumulation_steps
        seed = (self.args.seed * 1_000_003 + self.state.global_step // updates) * 4096
        generator = torch.Generator().manual_seed(seed)
        ends = None if self.fixed_length else EOS
        length = self.max_completion_length
        result = sample(self.model, prompt_ids[::G], G, length, ends, PAD, generator=generator)
        return result.completions, None


class OurTrainer(GroupedGRPOTrainer):
    fixed_length = False

    def sample_responses(self, model, prompts, group_size, generator):
        ends = None if self.fixed_length else EOS
        return sample(model, prompts, group_size, self.max_completion_length, ends, PAD, generator=generator)


def run(trainer_class, folder, tokenizer, out, dataset=None, reward=even_share, resume=None, config=None, **changes):
    settings = SimpleNamespace(**{**SETTINGS, **changes})
    options = config or {}
    args = grpo_config(settings, out, seed=5, **{k: v for k, v in options.items() if k in ("max_steps", "beta")})
    known = ("callbacks", "shared_prompt", "max_prompt", "peft_config", "skip_equal")
    extra = {k: v for k, v in options.items() if k in known}
    trainer = trainer_class(
        model=options.get("model", folder),
        reward_funcs=reward,
        args=args,
        train_dataset=dataset or prompts(equal=False, text=True),
        processing_class=tokenizer,
        **extra,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def rows(trainer):
    return [entry for entry in trainer.state.log_history if "reward" in entry]


@pytest.mark.parametrize(
    ("equal", "updates", "micro"),
    [(True, 1, 12), (False, 1, 12), (False, 2, 6), (False, 1, 3), (False, 1, 2), (True, 2, 6)],
)
def test_parity_with_the_unmodified_trainer(equal, updates, micro, folder, tokenizer, tmp_path, monkeypatch):
    """Loss, KL, reward, gradient norm and final weights, over four rollouts, from the same random numbers."""
    monkeypatch.setattr("trl.trainer.grpo_trainer.shuffle_sequence_dict", lambda batch: batch)
    monkeypatch.setattr(StockTrainer, "fixed_length", equal)
    monkeypatch.setattr(OurTrainer, "fixed_length", equal)
    changes = dict(prompts_per_update=4 // updates, sequences_per_micro_batch=micro)
    dataset = prompts(equal, text=True)
    stock = run(StockTrainer, folder, tokenizer, tmp_path / "stock", dataset, **changes)
    ours = run(OurTrainer, folder, tokenizer, tmp_path / "ours", dataset, **changes)
    assert ours.fallback_reason is None and ours.shared_prompt
    assert len(rows(ours)) == SETTINGS["steps"] and ours.state.global_step == SETTINGS["steps"] * updates
    for mine, theirs in zip(rows(ours), rows(stock), strict=True):
        for name in ("loss", "kl", "reward", "reward_std", "grad_norm", "entropy", "completions/mean_length"):
            assert mine[name] == pytest.approx(theirs[name], rel=2e-4, abs=2e-6), name
    for mine, theirs in zip(ours.model.parameters(), stock.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-3 * SETTINGS["learning_rate"] * 100)


def test_off_switch_is_trl_bit_for_bit(folder, tokenizer, tmp_path):
    stock = run(StockTrainer, folder, tokenizer, tmp_path / "stock", steps=2)
    ours = run(OurTrainer, folder, tokenizer, tmp_path / "ours", steps=2, config={"shared_prompt": False})
    names = ("loss", "kl", "grad_norm", "reward")
    # With one micro-batch TRL's shuffle only permutes the rows of a sum.
    for mine, theirs in zip(rows(ours), rows(stock), strict=True):
        assert [mine[n] for n in names] == pytest.approx([theirs[n] for n in names], rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(("updates", "micro"), [(1, 12), (2, 6), (1, 3), (2, 2), (4, 3)])
def test_responses_that_teach_nothing_can_be_left_out(updates, micro, folder, tokenizer, tmp_path):
    """Without KL and entropy terms the same updates, up to round-off, from fewer log-probabilities."""
    changes = dict(
        prompts_per_update=4 // updates, sequences_per_micro_batch=micro, kl_coefficient=0.0, entropy_coefficient=0.0
    )

    def short(completion_ids, **_):
        return [float(len(ids) < 10 and ids[0] % 2 == 0) for ids in completion_ids]

    passed = {}
    for skip in (False, True):
        trainer = run(
            OurTrainer, folder, tokenizer, tmp_path / str(skip), reward=short, config={"skip_equal": skip}, **changes
        )
        passed[skip] = trainer
    whole, less = rows(passed[False]), rows(passed[True])
    assert any(0 < row["frac_reward_zero_std"] < 1 for row in whole)  # else nothing is tested
    for one, other in zip(whole, less, strict=True):
        for name in ("loss", "reward", "grad_norm", "frac_reward_zero_std"):
            assert one[name] == pytest.approx(other[name], rel=1e-3, abs=2e-6), name
    for mine, theirs in zip(passed[True].model.parameters(), passed[False].model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-3 * SETTINGS["learning_rate"] * 100)
    taught = passed[True].counts["responses that teach"]  # of the last rollout: all of every group with a spread
    assert taught == round(12 * (1 - whole[-1]["frac_reward_zero_std"]))


def test_leaving_out_needs_a_reference_of_its_own(folder, tokenizer, tmp_path):
    with pytest.raises(UserError, match="reference model of its own"):
        options = {"skip_equal": True, "peft_config": LoraConfig(r=2, target_modules="all-linear")}
        run(OurTrainer, folder, tokenizer, tmp_path, config=options)


@pytest.mark.parametrize(("updates", "count"), [(1, 8), (2, 8), (1, 12), (2, 4)])
def test_resumed_run_is_the_unbroken_one(updates, count, folder, tokenizer, tmp_path):
    """Resumed at an epoch's end, within an epoch, and after several."""
    changes = dict(prompts_per_update=4 // updates)
    log = tmp_path / "metrics.jsonl"
    raw = prompts(equal=False, count=count)
    whole = run(OurTrainer, folder, tokenizer, tmp_path / "whole", raw, **changes)
    unbroken = MetricsCallback(log)
    run(OurTrainer, folder, tokenizer, tmp_path / "part", raw, config={"callbacks": [unbroken]}, **changes)
    first = [json.loads(line) for line in log.read_text().splitlines()]
    checkpoint = tmp_path / "part" / f"checkpoint-{2 * updates}"
    assert last_whole_checkpoint(tmp_path / "part") == tmp_path / "part" / f"checkpoint-{4 * updates}"
    (tmp_path / "part" / f"checkpoint-{4 * updates}" / "trainer_state.json").write_text('{"cut')
    assert last_whole_checkpoint(tmp_path / "part") == checkpoint
    resumed = run(
        OurTrainer,
        folder,
        tokenizer,
        tmp_path / "part",
        raw,
        resume=str(checkpoint),
        config={"callbacks": [MetricsCallback(log)]},
        **changes,
    )
    for mine, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    second = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["step"] for row in second] == [1, 2, 3, 4]
    names = ("loss", "reward", "kl", "grad_norm", "entropy", "length", "ended", "zero_spread")
    assert [[row[n] for n in names] for row in first] == [[row[n] for n in names] for row in second]


def test_metrics_and_health(folder, tokenizer, tmp_path, capsys):
    def reward(completion_ids, log_metric, **_):
        log_metric("parsed", 0.25)
        return even_share(completion_ids)

    log = tmp_path / "metrics.jsonl"
    trainer = run(
        OurTrainer,
        folder,
        tokenizer,
        tmp_path / "out",
        prompts(equal=False),
        reward,
        prompts_per_update=2,
        sequences_per_micro_batch=6,
        config={"callbacks": [MetricsCallback(log)]},
    )
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert line["parsed"] == 0.25 and line["reward_reward"] == pytest.approx(line["reward"])
        assert line["learning_rate"] == SETTINGS["learning_rate"] and 1 <= line["length"] <= 10
        assert 0 <= line["ended"] <= 1 and line["zero_spread"] == 0 and line["rewards_missing"] == 0
        assert line["entropy"] > 0 and line["grad_norm"] > 0 and line["reward_spread"] > 0
        for part in ("sampling", "reward", "logprobs", "update"):
            assert line[f"seconds_{part}"] > 0
    assert trainer.largest_ratio == 1  # also before the first update of the last rollout
    printed = capsys.readouterr().out
    assert "largest ratio before the first update 1\n" in printed and "largest KL at the start 0\n" in printed
    assert "shared prompts on" in printed and "should be" not in printed
    assert printed.count("health: first response") == 1 and "4/4 steps" in printed


def test_reward_rises(folder, tokenizer, tmp_path):
    trainer = run(OurTrainer, folder, tokenizer, tmp_path / "out", prompts(equal=False), steps=25, save_every=100)
    rewards = [row["reward"] for row in rows(trainer)]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:3]) / 3 + 0.2


def test_equal_rewards_give_no_policy_gradient(folder, tokenizer, tmp_path):
    """0.3 three times has a mean that is not 0.3 in float32; the advantage must still be 0."""
    trainer = run(
        OurTrainer,
        folder,
        tokenizer,
        tmp_path / "out",
        reward=lambda completion_ids, **_: [0.3] * len(completion_ids),
        steps=1,
        kl_coefficient=0.0,
        entropy_coefficient=0.0,
    )
    assert rows(trainer)[0]["frac_reward_zero_std"] == 1 and rows(trainer)[0]["grad_norm"] == 0
    assert torch.equal(trainer._buffered_inputs[0]["advantages"], torch.zeros(12))


def test_missing_and_broken_rewards_are_counted(folder, tokenizer, tmp_path):
    def reward(completion_ids, **_):
        values = even_share(completion_ids)
        values[0], values[1], values[2], values[4], values[7] = None, None, None, float("nan"), float("inf")
        return values

    trainer = run(OurTrainer, folder, tokenizer, tmp_path / "out", reward=reward, steps=2)
    assert [row["rewards_missing"] for row in rows(trainer)] == [5, 5]
    advantages = trainer._buffered_inputs[0]["advantages"]
    assert (
        advantages[[0, 1, 2, 4, 7]].tolist() == [0] * 5 and advantages.isfinite().all() and advantages.abs().max() > 0
    )
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_group_advantages_by_hand(folder, tokenizer, tmp_path):
    seen = []

    def reward(completion_ids, **_):
        seen[:] = even_share(completion_ids)
        return seen

    trainer = run(OurTrainer, folder, tokenizer, tmp_path / "out", prompts(equal=False), reward, steps=1)
    groups = torch.tensor(seen).view(-1, G)
    expected = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(trainer._buffered_inputs[0]["advantages"], expected.flatten(), rtol=1e-4, atol=1e-5)


def test_disagreement_falls_back_once_and_goes_on(folder, tokenizer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rlvr_lib.training.grpo.disagreement", lambda *_: "log-probabilities differ by 7")
    trainer = run(OurTrainer, folder, tokenizer, tmp_path / "ours", steps=2)
    stock = run(StockTrainer, folder, tokenizer, tmp_path / "stock", steps=2)
    assert capsys.readouterr().out.count("every row is computed in full: log-probabilities differ by 7") == 1
    for mine, theirs in zip(rows(trainer), rows(stock), strict=True):
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)


def test_adapter_trains_against_the_base_as_reference(folder, tokenizer, tmp_path):
    adapter = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.0)
    trainer = run(OurTrainer, folder, tokenizer, tmp_path / "out", steps=3, config={"peft_config": adapter})
    assert trainer.fallback_reason is None and trainer.ref_model is None
    kl = [row["kl"] for row in rows(trainer)]
    assert kl[0] == 0 and kl[-1] > 0


def test_model_without_a_folder_is_one_clear_error(folder, tokenizer, tmp_path):
    model = Qwen2ForCausalLM(Qwen2Config.from_pretrained(folder))
    model.config._name_or_path = ""
    with pytest.raises(UserError, match="pass the folder"):
        run(OurTrainer, folder, tokenizer, tmp_path, config={"model": model})


def test_too_long_prompt_is_one_clear_error(folder, tokenizer, tmp_path):
    with pytest.raises(UserError, match="max_prompt is 3"):
        run(OurTrainer, folder, tokenizer, tmp_path, config={"max_prompt": 3})


def test_config_is_the_papers():
    settings = SimpleNamespace(
        **{**SETTINGS, "steps": 350, "prompts_per_step": 128, "prompts_per_update": 64, "group_size": 5}
        | {"sequences_per_micro_batch": 2, "kl_coefficient": 0.001, "learning_rate": 1e-6, "save_every": 20}
    )
    args = grpo_config(settings, "out", seed=0)
    assert args.max_steps == 700 and args.save_steps == 40 and args.logging_steps == 2
    assert args.per_device_train_batch_size == 2 and args.gradient_accumulation_steps == 160
    assert args.generation_batch_size == 640 and args.num_generations == 5
    assert (args.loss_type, args.beta, args.use_bias_correction_kl) == ("bnpo", 0.001, False)
    assert (args.epsilon, args.delta, args.entropy_coef, args.scale_rewards) == (0.2, None, 0.001, "group")
    assert args.lr_scheduler_type == "constant" and args.warmup_steps == 0 and args.weight_decay == 0.01
    assert (args.temperature, args.top_p, args.max_grad_norm) == (1.0, 1.0, 1.0)
    settings.sequences_per_micro_batch = 7
    with pytest.raises(UserError, match="sequences_per_micro_batch"):
        grpo_config(settings, "out", seed=0)


def test_a_full_gpu_names_the_setting_to_lower(tmp_path):
    class Full:
        args = SimpleNamespace(output_dir=tmp_path)

        def train(self, **_):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 80 GiB")

    with pytest.raises(UserError, match=r"memory is full \(CUDA out of memory\): lower video.single_step_rlvr.x, then"):
        train_from_last(Full(), "video.single_step_rlvr.x")
