"""What a GRPO run says about itself: health checks and a line of metrics per rollout step.

Our own choice; the paper's framework logs to an account-bound service.
"""

import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from rlvr_lib.progress import MetricsLog, clock, say

if TYPE_CHECKING:
    from rlvr_lib.training.grpo import GroupedGRPOTrainer

_SAY_EVERY_SECONDS = 10.0
_RENAMED = {
    "clip_ratio": "clip_ratio/region_mean",
    "length": "completions/mean_length",
    "zero_spread": "frac_reward_zero_std",
}
_KEPT = ("loss", "reward", "reward_std", "reward_spread", "kl", "entropy", "grad_norm", "learning_rate")
_HIDDEN = ("completions/", "clip_ratio/", "rewards/", "sampling/", "seconds_", "total_flos", "train_")
_HIDDEN_NAMES = {"epoch", "num_tokens", "step_time", "policy_loss", "entropy_coef", "frac_reward_zero_std", "step"}


def updates_per_rollout(args: Any) -> int:
    """Optimiser updates that one rollout batch feeds."""
    return max(1, args.steps_per_generation // args.gradient_accumulation_steps) * args.num_iterations


def peak_memory_bytes() -> int:
    """Largest memory so far: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class HealthCheck(TrainerCallback):
    """Times the steps of a `GroupedGRPOTrainer` and prints one block of checks after the first rollout step.

    `seconds_update` is what remains of a step after sampling, rewards and the passes without gradient: forward and
    backward of the updates, and the optimiser.
    """

    def __init__(self, trainer: "GroupedGRPOTrainer"):
        self.trainer, self.printed, self.began = trainer, False, 0.0

    def on_step_begin(self, args, state, control, **_):
        self.began = time.perf_counter()
        if state.global_step % updates_per_rollout(args) == 0:
            self.trainer.seconds.clear()
            self.trainer.counts.clear()
        self.before = sum(self.trainer.seconds.values())

    def on_step_end(self, args, state, control, **_):
        others = sum(self.trainer.seconds.values()) - self.before
        self.trainer.seconds["update"] += time.perf_counter() - self.began - others

    def on_log(self, args, state, control, logs=None, **_):
        if not self.printed and logs and "reward" in logs and state.is_world_process_zero:
            self.printed = True
            for line in health_lines(self.trainer, logs, resumed=state.global_step > updates_per_rollout(args)):
                say(line)


def health_lines(trainer: "GroupedGRPOTrainer", logs: dict[str, Any], resumed: bool = False) -> list[str]:
    """The health checks of the first rollout step, one fact a line, a warning where a check fails."""
    ids, ended = trainer.first_response or ([], False)
    text = trainer._tokenizer.decode(ids, skip_special_tokens=False)
    seconds = ", ".join(f"{part} {trainer.seconds[part]:.2f}" for part in ("sampling", "reward", "logprobs", "update"))
    passes = ", ".join(f"{count} {name}" for name, count in sorted(trainer.counts.items()))
    sharing = trainer.fallback_reason or ("on" if trainer.shared_prompt else "off")
    lines = [
        f"first response ({len(ids)} tokens, {'ended' if ended else 'cut off'}): ...{text[-200:]!r}",
        f"responses that end: {1 - (logs.get('completions/clipped_ratio') or 0):.0%}",
        f"reward {_number(logs.get('reward'))}, spread within groups {_number(logs.get('reward_spread'))}, "
        f"groups without spread {_number(logs.get('frac_reward_zero_std'))}, "
        f"responses without reward {logs.get('rewards_missing') or 0:.0f}",
        f"largest ratio before the first update {trainer.largest_ratio:.8g}"
        + ("" if trainer.largest_ratio == 1 else "  <- should be exactly 1"),
    ]
    if trainer.beta:
        bad = trainer.largest_kl != 0 and not resumed
        lines.append(f"largest KL at the start {trainer.largest_kl:.3g}" + ("  <- should be exactly 0" if bad else ""))
    return [
        *(f"health: {line}" for line in lines),
        f"health: this step: {passes}; seconds: {seconds}",
        f"health: shared prompts {sharing}; peak memory {peak_memory_bytes() / 2**30:.2f} GiB",
    ]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


class Validation(TrainerCallback):
    """Measures something before training, every ``settings.evaluate_every`` rollout steps and after the last one.

    A subclass says what in ``_measure(step)``; its values enter the log of that step, so they land in metrics.jsonl.
    """

    def __init__(self, settings: Any):
        self.settings = settings
        self.fresh: dict[str, float] = {}

    def _measure(self, step: int) -> dict[str, float]:
        raise NotImplementedError

    def on_train_begin(self, args, state, control, **_):
        if state.global_step == 0:
            self.fresh = self._measure(0)

    def on_step_end(self, args, state, control, **_):
        step, rest = divmod(state.global_step, updates_per_rollout(args))
        if rest == 0 and (step % self.settings.evaluate_every == 0 or step == self.settings.steps):
            self.fresh = self._measure(step)

    def on_log(self, args, state, control, logs=None, **_):
        if logs is not None and "reward" in logs:
            logs.update(self.fresh)
            self.fresh = {}


class MetricsCallback(TrainerCallback):
    """Appends a JSON line per rollout step to `path`, and says a short line at most every ten seconds.

    Keys: step (rollout), seconds, loss, reward, reward_std, reward_spread, kl, entropy, clip_ratio, grad_norm,
    learning_rate, length (tokens), ended (share), zero_spread (share), seconds_* by part, reward_<function>, and all
    that reward functions put there through `log_metric`. A resumed run first drops the lines past its checkpoint.
    """

    def __init__(self, path: str | Path, label: str = "grpo"):
        self.path, self.label = Path(path), label
        self.file: MetricsLog | None = None
        self.said = 0.0

    def on_train_begin(self, args, state, control, **_):
        self.started, self.first = time.monotonic(), state.global_step // updates_per_rollout(args)
        if state.is_world_process_zero:
            self.file = MetricsLog(self.path, resume_step=self.first)

    def on_log(self, args, state, control, logs=None, **_):
        if self.file is None or not logs or "reward" not in logs:
            return
        updates = updates_per_rollout(args)
        step, steps = state.global_step // updates, state.max_steps // updates
        row = self.file.log(step, **metrics_row(logs))
        now = time.monotonic()
        if now - self.said >= _SAY_EVERY_SECONDS or step == steps:
            self.said = now
            pace = (now - self.started) / max(1, step - self.first)
            say(
                f"{self.label}: {step}/{steps} steps, reward {_number(row['reward'])}, kl {_number(row['kl'])}, "
                f"{pace:.3g} s a step, {clock((steps - step) * pace)} left"
            )


def metrics_row(logs: dict[str, Any]) -> dict[str, Any]:
    """TRL's log entry under the names of the metrics file (see `MetricsCallback`)."""
    row = {name: logs.get(name) for name in _KEPT}
    row |= {name: logs.get(source) for name, source in _RENAMED.items()}
    clipped = logs.get("completions/clipped_ratio")
    row["ended"] = None if clipped is None else 1 - clipped
    row |= {name: value for name, value in logs.items() if name.startswith("seconds_")}
    for name, value in logs.items():
        if name.startswith("rewards/") and name.endswith("/mean"):
            row["reward_" + name.split("/")[1]] = value
        elif name not in row and name not in _HIDDEN_NAMES and not name.startswith(_HIDDEN):
            row[name] = value
    return row
