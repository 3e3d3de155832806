"""GRPO as in the paper (spec 0.2, 0.3) on `trl.GRPOTrainer`, with each prompt computed once per group.

The loss, the advantages and the optimisation are TRL's. Four private methods are overridden: how prompts become tokens
(raw ids are taken as they are), how responses are sampled (generation.py), how log-probabilities are computed
(shared_prompt.py), and how a rollout batch is cut into updates (groups stay whole). TRL is pinned for that reason, and
tests hold this class against the unmodified trainer. Text and video use the same class.

Differs from the paper: advantages divide by std + 1e-4 (TRL; paper 1e-6), the KL term is not clamped at 10.
"""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback
from trl import GRPOTrainer
from trl.models.utils import unwrap_model_for_generation
from trl.trainer.utils import split_tensor_dict

from rlvr_lib.artifacts import UserError
from rlvr_lib.progress import say
from rlvr_lib.training.checkpoints import ResumableSampler
from rlvr_lib.training.generation import SampleResult, sample
from rlvr_lib.training.grpo_monitor import HealthCheck, MetricsCallback, updates_per_rollout
from rlvr_lib.training.shared_prompt import base_model, disagreement, enable, shared_logprobs

_CPU_PASS_TOKENS = 2048

__all__ = ["GroupedGRPOTrainer", "HealthCheck", "MetricsCallback"]


class GroupedGRPOTrainer(GRPOTrainer):
    """`trl.GRPOTrainer` that samples and scores a group with its prompt computed once.

    Args (all others are TRL's):
        shared_prompt: off computes log-probabilities row by row, as TRL does. Sampling shares the prefill either way.
        self_check: compare with plain rows at the first use of a shape; if they differ, say so and fall back.
        max_prompt: a longer prompt (in tokens) is an error, as in the paper's script.
        skip_equal: leave responses whose advantage is 0 out of all log-probability passes and updates. The policy
            term and its gradient stay what they were (the others' advantages carry the share of their tokens); KL and
            entropy are then means over the responses that are left. Needs a reference model of its own, or none.

    The dataset's `prompt` column holds text or lists of token ids. With kl_coefficient > 0 and no adapter, TRL loads
    the reference policy from the folder that `model` came from, so `model` must be a saved one.
    """

    def __init__(
        self,
        *args,
        shared_prompt: bool = True,
        self_check: bool = True,
        max_prompt: int | None = None,
        skip_equal: bool = False,
        **kw,
    ):
        self.shared_prompt, self.self_check, self.max_prompt = shared_prompt, self_check, max_prompt
        self.skip_equal, self._put_off = skip_equal, False
        self._old_due = self._old_skipped = False
        self.fallback_reason: str | None = None
        self.seconds: Counter[str] = Counter()  # of the current rollout step, by part
        self.counts: Counter[str] = Counter()  # forward passes and tokens of the current rollout step
        self.first_response: tuple[list[int], bool] | None = None
        self.largest_ratio, self.largest_kl = 0.0, 0.0
        self._checked: set[tuple] = set()
        self._opening_batch: dict[str, Any] | None = None
        try:
            super().__init__(*args, **kw)
        except OSError as error:
            raise UserError(
                "GRPO with a KL term reloads its reference policy from the model's folder, and that failed "
                f"({error}): save the model and pass the folder"
            ) from error
        if skip_equal and self.beta and self.ref_model is None:
            raise UserError("skip_equal needs a reference model of its own: merge the adapter first, or set no KL")
        self.remove_callback(PrinterCallback)
        self.add_callback(HealthCheck(self))
        if shared_prompt:
            enable(self.model)

    # --- sampling -----------------------------------------------------------------------------------------------

    def _tokenize_prompts(self, prompts: list):
        """Lists of token ids are taken as they are; text goes through TRL."""
        raw = isinstance(prompts[0], Sequence) and len(prompts[0]) > 0 and isinstance(prompts[0][0], int)
        tokenized = ([list(prompt) for prompt in prompts], None, {}) if raw else super()._tokenize_prompts(prompts)
        longest = max(map(len, tokenized[0]))
        if self.max_prompt is not None and longest > self.max_prompt:
            raise UserError(
                f"a prompt has {longest} tokens, max_prompt is {self.max_prompt}: raise it or filter the data"
            )
        return tokenized

    def sample_responses(
        self, model, prompts: list[list[int]], group_size: int, generator: torch.Generator
    ) -> SampleResult:
        """The sampler; replace it to sample in another way."""
        return sample(
            model,
            prompts,
            group_size,
            self.max_completion_length,
            self.eos_token_ids,
            self._tokenizer.pad_token_id,
            temperature=self.temperature,
            top_p=self.args.top_p,
            generator=generator,
        )

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        """One prefill per group. Seeded by (seed, rollout): a resumed run samples as an unbroken one.

        All processes share one stream of random numbers, of which each takes its own part: together they sample what
        one process would.
        """
        started = time.perf_counter()
        prompts, group = prompt_ids[::num_generations], num_generations
        if prompt_ids != [prompt for prompt in prompts for _ in range(group)]:
            prompts, group = prompt_ids, 1
        rollout = self.state.global_step // updates_per_rollout(self.args)
        generator = torch.Generator().manual_seed((self.args.seed * 1_000_003 + rollout) * 4096)
        before = self.accelerator.process_index * len(prompts)  # prompts of the processes before this one
        if before:
            torch.rand(before, group, self.max_completion_length, generator=generator)
        with (
            unwrap_model_for_generation(
                self.model_wrapped,
                self.accelerator,
                gather_deepspeed3_params=self.args.ds3_gather_for_generation,
                gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            ) as model,
            torch.no_grad(),
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
        ):
            result = self.sample_responses(model, prompts, group, generator)
        if self.first_response is None:
            self.first_response = (result.completions[0], result.ended[0])
        self.counts["prefill tokens"] += result.prefill_tokens
        self.counts["decoding passes"] += result.decode_steps
        self.seconds["sampling"] += time.perf_counter() - started
        return result.completions, None

    # --- rewards ------------------------------------------------------------------------------------------------

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        """TRL's rewards; what is not finite counts as missing (None), and missing ones are counted."""
        started = time.perf_counter()
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        rewards = rewards.masked_fill(~rewards.isfinite(), torch.nan)
        self._group_rewards = rewards
        self.seconds["reward"] += time.perf_counter() - started
        return rewards

    def _generate_and_score_completions(self, inputs):
        """TRL's rollout; a group whose rewards are all equal gets advantages of exactly 0 and is counted as such.

        (TRL compares a rounded standard deviation with 0 and then divides rounding noise by 1e-4.)
        """
        self._put_off = self.skip_equal and self.model.training
        self._old_due, self._old_skipped = self._first_update_scores_itself(), False
        try:
            batch = super()._generate_and_score_completions(inputs)
        finally:
            self._put_off = self._old_due = False
        if not self.model.training or self.multi_objective_aggregation != "sum_then_normalize":
            return batch
        missing = self._group_rewards.isnan().all(1)
        total = (self._group_rewards * self.reward_weights.to(self._group_rewards.device)).nansum(1)
        total = total.masked_fill(missing, torch.nan).view(-1, self.num_generations)
        low, high = total.nan_to_num(torch.inf).amin(1), total.nan_to_num(-torch.inf).amax(1)
        equal = high <= low  # (groups,), also where every reward is missing
        local = equal.repeat_interleave(self.num_generations).view(self.accelerator.num_processes, -1)
        batch["advantages"] = batch["advantages"].masked_fill(local[self.accelerator.process_index], 0)
        metrics = self._metrics["train"]
        metrics["frac_reward_zero_std"][-1] = float(equal.float().mean())
        metrics["rewards_missing"].append(float(missing.sum()))
        spread = (total - total.nanmean(1, keepdim=True)).square().nanmean(1).sqrt()
        metrics["reward_spread"].append(float(spread.nanmean()))
        return batch

    # --- data ---------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, dataset=None):
        """TRL's order of prompts, but kept when a run resumes after its first epoch (TRL starts over with epoch 0)."""
        sampler = super()._get_train_sampler(dataset)
        drawn = self.args.gradient_accumulation_steps * self.args.generation_batch_size  # per optimiser update
        return ResumableSampler(sampler, lambda: self.state.global_step * drawn // max(1, len(sampler)))

    # --- updates ------------------------------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch):
        """As TRL's, without its shuffle of single rows, which would scatter groups over updates and micro-batches.

        Prompts are in random order already, so nothing is shuffled in its place.
        """
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        steps = self.args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = split_tensor_dict(batch, steps)
            aligned = self.args.gradient_accumulation_steps  # the first update's ratio is 1: no old policy needed
            if self.skip_equal:
                self._buffered_inputs = [
                    self._without_equal(chunk, place < aligned) for place, chunk in enumerate(self._buffered_inputs)
                ]
            elif self._old_skipped:
                for chunk in self._buffered_inputs[:aligned]:
                    chunk.pop("old_per_token_logps")
            self._opening_batch = self._buffered_inputs[0]
        return self._buffered_inputs[self._step % steps]

    def _first_update_scores_itself(self) -> bool:
        """Whether TRL is about to score rows under the old policy that their own update scores with the same weights.

        Those of a rollout's first update, seen once: without an old log-probability TRL takes the detached new one.
        """
        args = self.args
        several = args.gradient_accumulation_steps < args.steps_per_generation and self.num_iterations == 1
        return self.model.training and several and not (self.skip_equal or self.use_vllm)

    @torch.no_grad()
    def _without_equal(self, chunk: dict[str, Any], first_update: bool) -> dict[str, Any]:
        """A micro-batch without the responses that teach nothing, and the log-probabilities that were put off."""
        kept = chunk["advantages"] != 0
        kept[0] |= not kept.any()  # an update needs something to run on
        mask = chunk["completion_mask"] * chunk.get("tool_mask", 1)
        share = mask[kept].sum() / mask.sum().clamp(min=1)
        rows = len(kept)
        chunk = {
            name: value[kept] if isinstance(value, Tensor) and value.dim() and len(value) == rows else value
            for name, value in chunk.items()
        }
        chunk["advantages"] = chunk["advantages"] * share
        self.counts["responses that teach"] += int((chunk["advantages"] != 0).sum())
        ids = torch.cat([chunk["prompt_ids"], chunk["completion_ids"]], 1)
        real = torch.cat([chunk["prompt_mask"], chunk["completion_mask"]], 1)
        chunk.pop("old_per_token_logps", None)
        wanted = {"old_per_token_logps": None if first_update else self.model}
        wanted |= {"ref_per_token_logps": self.ref_model if self.beta else None}
        for name, model in wanted.items():
            if model is not None:
                width = chunk["completion_ids"].shape[1]
                chunk[name] = self._get_per_token_logps_and_entropies(model, ids, real, width, len(ids))[0]
        return chunk

    def _get_per_token_logps_and_entropies(
        self,
        model,
        input_ids,
        attention_mask,
        logits_to_keep,
        batch_size=None,
        compute_entropy=False,
        compute_aux_loss=False,
        **multimodal,
    ):
        """Shared-prompt log-probabilities of the old, reference and updated policy; TRL's own where not possible."""
        if self._put_off:
            return torch.zeros(len(input_ids), logits_to_keep, device=input_ids.device), None, None
        plain = compute_aux_loss or any(value is not None for value in multimodal.values())
        first, self._old_due = self._old_due, False  # TRL's first pass of a rollout is the old policy's
        if first and not plain:
            self._old_skipped = True
            known = self.args.gradient_accumulation_steps * self.args.per_device_train_batch_size
            rest = (input_ids[known:], attention_mask[known:], logits_to_keep, batch_size)
            logps = self._get_per_token_logps_and_entropies(model, *rest)[0]
            return torch.cat([logps.new_zeros(known, logits_to_keep), logps]), None, None
        started, learning = time.perf_counter(), torch.is_grad_enabled()
        chunks = [slice(None)]
        if batch_size is not None:
            chunks = [slice(start, start + batch_size) for start in range(0, len(input_ids), batch_size)]
        if plain or not self._may_share(model, input_ids[chunks[0]], attention_mask[chunks[0]], logits_to_keep):
            result = super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **multimodal,
            )
        else:
            alone = self.accelerator.device.type == "cpu" and self.accelerator.num_processes == 1
            parts = []
            for rows in chunks:
                ids, mask = input_ids[rows], attention_mask[rows]
                options = {"pass_tokens": _CPU_PASS_TOKENS if alone else None, "entropy": compute_entropy}
                with self.accelerator.autocast():
                    parts.append(shared_logprobs(model, ids, mask, logits_to_keep, self.temperature, **options))
            logps, entropies = (torch.cat(part) for part in zip(*parts, strict=True))
            result = logps, entropies if compute_entropy else None, None
        self.counts["log-probability passes"] += len(chunks)
        if learning:
            self._watch_opening(result[0].detach())
        else:
            self.seconds["logprobs"] += time.perf_counter() - started
        return result

    def _may_share(self, model, input_ids: Tensor, attention_mask: Tensor, response_width: int) -> bool:
        """Whether to share prompts; checks the first use of a shape (lengths by powers of two) against plain rows."""
        if not self.shared_prompt or self.fallback_reason is not None:
            return False
        lengths = (input_ids.shape[1] - response_width, response_width)
        shape = (*(length.bit_length() for length in lengths), len(input_ids) > 1, model is self.ref_model)
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        if not self.self_check or sharded or shape in self._checked:
            return True
        self._checked.add(shape)
        with self.accelerator.autocast():
            self.fallback_reason = disagreement(base_model(model), input_ids, attention_mask, response_width)
        if self.fallback_reason is not None:
            say(f"shared prompts are off, every row is computed in full: {self.fallback_reason}")
        return self.fallback_reason is None

    def _watch_opening(self, logps: Tensor) -> None:
        """Health: before a rollout's first update the ratio must be exactly 1 (and at step 0 the KL exactly 0)."""
        batch, self._opening_batch = self._opening_batch, None
        if batch is None:
            return
        mask = batch["completion_mask"].bool()
        old = batch.get("old_per_token_logps")
        self.largest_ratio = 1.0 if old is None else float(((logps - old).exp() - 1).abs()[mask].max()) + 1
        if "ref_per_token_logps" in batch:
            difference = (batch["ref_per_token_logps"] - logps)[mask]
            self.largest_kl = float((difference.exp() - difference - 1).abs().max())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's log with the seconds of the rollout step by part."""
        if self.model.training and "loss" in logs:
            logs.update({f"seconds_{part}": round(seconds, 4) for part, seconds in self.seconds.items()})
        super().log(logs, start_time)
