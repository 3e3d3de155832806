"""The agent's roles without a network (C.1): cloned policy, our world models, rules for the words, a learnt value."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch

from rlvr_lib.tokens.web_page_task import WebPageTask
from rlvr_lib.training.generation import sample
from rlvr_lib.training.web_behaviour import ClonedPolicy, train_policy
from rlvr_lib.training.web_ranker import Ranker
from rlvr_lib.training.web_value import LearntValue, key_changes, next_state, train_value
from rlvr_lib.worlds.agent_texts import Observation, Sections
from rlvr_lib.worlds.web_transitions import WebTransition

PARTS = ("element", "text", "value")


class LocalWorldModel:
    """A trained world model asked with the prompt it was trained on; random numbers belong to step and candidate."""

    def __init__(self, model: Any, task: WebPageTask, max_response: int, temperature: float, top_p: float, seed: int):
        self.model, self.task, self.max_response = model, task, max_response
        self.temperature, self.top_p, self.seed = temperature, top_p, seed

    def predict(self, seen: Sequence[Observation], actions: Sequence[str]) -> list[str]:
        """One sampled answer for each action."""
        questions = [one.question(action) for one, action in zip(seen, actions, strict=True)]
        draws = [self._uniforms(one, action) for one, action in zip(seen, actions, strict=True)]
        tokenizer = self.task.tokenizer
        result = sample(
            self.model,
            self.task.prompt_ids(questions),
            group_size=1,
            max_new_tokens=self.max_response,
            eos_id=tokenizer.eos_token_id,
            pad_id=tokenizer.pad_token_id,
            temperature=self.temperature,
            top_p=self.top_p,
            uniforms=torch.stack(draws)[:, None],
        )
        return [self.task.text(ids) for ids in result.completions]

    def _uniforms(self, seen: Observation, action: str) -> torch.Tensor:
        number = Random(f"world model/{self.seed}/{seen.key}/{action}").getrandbits(40)
        return torch.rand(self.max_response, generator=torch.Generator().manual_seed(number))


class RuleExtractor:
    """The first ten changes, sections taking turns."""

    def extract(self, seen: Sequence[Observation], sections: Sequence[Sections]) -> list[str]:
        return [key_changes(one) for one in sections]


class RuleSummariser:
    """The key changes under a heading."""

    def summarise(self, seen: Sequence[Observation], actions: Sequence[str], changes: Sequence[str]) -> list[str]:
        return [next_state(action, text) for action, text in zip(actions, changes, strict=True)]


def train_local_roles(folder: Path, settings: Any, seed: int, steps: Sequence[WebTransition]) -> dict[str, Any]:
    """Train policy and value on recorded training steps into ``folder`` (safetensors); facts for the record.

    ``settings`` is the profile's ``web_page.agent``. Every step must be a training one: ValueError otherwise.
    """
    from safetensors.torch import save_file

    if any(step.split != "train" for step in steps):
        raise ValueError("policy and value of the agent learn from training episodes only")
    rankers, facts = train_policy(steps, settings.cloning_steps, settings.cloning_epochs, seed)
    rankers["value"], more = train_value(steps, settings.value_steps, settings.value_epochs, seed)
    for name in PARTS:
        save_file(rankers[name].state_dict(), folder / f"{name}.safetensors")
    return {**facts, **more}


def load_local_roles(folder: Path, temperature: float, seed: int) -> tuple[ClonedPolicy, LearntValue]:
    """Policy and value that :func:`train_local_roles` wrote."""
    from safetensors.torch import load_file

    rankers = {}
    for name in PARTS:
        rankers[name] = Ranker()
        rankers[name].load_state_dict(load_file(folder / f"{name}.safetensors"))
        rankers[name].eval()
    policy = ClonedPolicy(rankers["element"], rankers["text"], temperature, seed)
    return policy, LearntValue(rankers["value"], seed)


__all__ = ["LocalWorldModel", "RuleExtractor", "RuleSummariser", "load_local_roles", "train_local_roles"]
