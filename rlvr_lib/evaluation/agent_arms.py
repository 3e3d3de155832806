"""The agent's arms as a stage (claim C4): policy alone, planning with SFT, with RLVR, with the true page as oracle.

Every arm runs the same instances. On a CPU with local roles, arms run side by side with one thread each.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from rlvr_lib.artifacts import UserError
from rlvr_lib.evaluation.agent_endpoint import (
    ChatExtractor,
    ChatPolicy,
    ChatSummariser,
    ChatValue,
    ChatWorldModel,
    chat_endpoint,
    world_model_endpoint,
)
from rlvr_lib.evaluation.agent_local import (
    LocalWorldModel,
    RuleExtractor,
    RuleSummariser,
    load_local_roles,
    train_local_roles,
)
from rlvr_lib.evaluation.agent_planner import Numbers, Planner
from rlvr_lib.evaluation.agent_run import Limits, run_arm, write_arm
from rlvr_lib.evaluation.agent_session import Case, LiveSession, OracleWorldModel, Session, instances
from rlvr_lib.evaluation.agent_webarena import NO_ORACLE, WebArenaSession, webarena_cases
from rlvr_lib.processes import alone, pool
from rlvr_lib.profile import Profile
from rlvr_lib.progress import say
from rlvr_lib.training.web_page_data import RECORDED
from rlvr_lib.training.web_pages import make_task
from rlvr_lib.worlds.browser_find import why_no_browser
from rlvr_lib.worlds.web_transitions import load_web_set
from rlvr_lib.worlds.webarena import task_list, why_no_webarena

POLICY_ARMS, ORACLE = ("policy", "policy_vote"), "oracle"
ARMS = (*POLICY_ARMS, "sft", "rlvr", ORACLE)


def train_roles(folder: Path, profile: Profile) -> dict[str, Any]:
    """The local policy and value, trained on the recorded training episodes (a stage of its own)."""
    steps = load_web_set(RECORDED, ("train",), stops=True)["train"]
    return train_local_roles(folder, profile.web_page.agent, profile.seed, steps)


def evaluate_agents(folder: Path, profile: Profile, roles: Path, models: Mapping[str, Path]) -> dict[str, Any]:
    """Write ``folder``/<arm>.csv and <arm>.jsonl for every arm; arms and episodes already there are kept.

    ``models`` maps ``sft`` and ``rlvr`` to their checkpoints, ``roles`` is the folder of :func:`train_roles`.
    UserError without a browser; for ``world: webarena`` without BrowserGym or the addresses of the hosted sites.
    """
    settings = profile.web_page.agent
    if why := why_not_run(profile):
        raise UserError(why)
    arms = arms_of(settings)
    left = [arm for arm in arms if not (folder / f"{arm}.csv").exists()]
    if len(left) < len(arms):
        say(f"agent: {len(arms) - len(left)} of {len(arms)} arms are there already")
    facts: dict[str, Any] = {}
    for arm, found in _arms(folder, profile, roles, models, left):
        facts[arm] = found
        say(f"agent: {arm} done in {found['seconds']} s")
    left_out = {} if ORACLE in arms else {ORACLE: NO_ORACLE}
    told = {"instances": settings.instances, "left_out": left_out, "substitutions": _substitutions(settings)}
    return {"arms": facts, **told}


def arms_of(settings: Any) -> tuple[str, ...]:
    """The arms of a world; ``settings`` is ``web_page.agent``. WebArena has no oracle: its sites cannot go back."""
    return ARMS if settings.world == "local" else tuple(arm for arm in ARMS if arm != ORACLE)


def why_not_run(profile: Profile) -> str:
    """Empty when the arms can run, else the reason and the remedy on one line."""
    return why_no_webarena() if profile.web_page.agent.world == "webarena" else why_no_browser()


def _substitutions(settings: Any) -> list[str]:
    found = ["web agent: local sites and MiniWoB++ pages instead of WebArena"]
    if settings.world == "webarena":
        found = ["web agent: BrowserGym ends a task at its first reward and chooses the judge, not DeepSeek-V3"]
    if "local" in (settings.policy, settings.value):
        found.append("web agent: a cloned policy, rules and a small learnt value instead of DeepSeek-V3")
    return found


def _arms(folder: Path, profile: Profile, roles: Path, models: Mapping[str, Path], left: list[str]) -> Iterator:
    work = [(folder, arm, profile, roles, dict(models)) for arm in sorted(left, key=_longest_first)]
    shared = uses_endpoint(profile) or profile.web_page.agent.world == "webarena"  # hosted sites belong to one arm
    if shared or profile.torch_device() != "cpu" or min(profile.threads, len(work)) < 2:
        yield from map(_run, work)
        return
    with pool(min(profile.threads, len(work)), alone) as processes:
        yield from processes.imap_unordered(_run, work)


def _longest_first(arm: str) -> int:
    return ("rlvr", "sft", ORACLE, *POLICY_ARMS).index(arm)


def uses_endpoint(profile: Profile) -> bool:
    """Whether some role is asked over the network."""
    agent = profile.web_page.agent
    return "endpoint" in (agent.policy, agent.world_model, agent.extractor, agent.summariser, agent.value)


def _run(work: tuple) -> tuple[str, dict[str, Any]]:
    folder, arm, profile, roles, models = work
    settings, began = profile.web_page.agent, time.perf_counter()
    planner = make_planner(arm, profile, roles, models, folder / "cache")
    limits = Limits(settings.max_steps, settings.unreadable, settings.repeated)
    cases, make = _world(settings)
    watched = settings.watched if arm not in POLICY_ARMS else 0
    try:
        records = run_arm(folder, arm, planner, cases, make, limits, settings.parallel, watched)
    finally:
        if isinstance(planner.world_model, OracleWorldModel):
            planner.world_model.close()
    write_arm(folder, arm, records)
    facts = {"seconds": round(time.perf_counter() - began, 1), "faults": sum(bool(one["fault"]) for one in records)}
    endpoint = getattr(planner.policy, "endpoint", None)
    return arm, facts | ({"endpoint": endpoint.facts()} if endpoint else {})


def _world(settings: Any) -> tuple[list[Case], Callable[[], LiveSession]]:
    """Which cases an arm runs, and what makes their sessions."""
    if settings.world == "webarena":
        return webarena_cases(settings.instances, task_list()), partial(WebArenaSession, pause_s=settings.pause_s)
    return instances(settings.instances), partial(Session, pause_s=settings.pause_s)


def make_planner(arm: str, profile: Profile, roles: Path, models: Mapping[str, Path], cache: Path) -> Planner:
    """The roles of an arm as the profile says. ``policy`` asks once and does it; ``policy_vote`` takes the most
    frequent of as many proposals as planning gets."""
    settings = profile.web_page.agent
    chat: Any = chat_endpoint(settings, cache / "chat.jsonl") if _asks_chat(settings) else None
    local = (
        load_local_roles(roles, settings.temperature, profile.seed) if (roles / "value.safetensors").exists() else ()
    )
    policy = ChatPolicy(chat) if settings.policy == "endpoint" else _local(local)[0]
    numbers = Numbers(
        settings.candidates, settings.kept, settings.values, settings.stop_rule, settings.unparsable_scores
    )
    if arm in POLICY_ARMS:
        alone = replace(numbers, candidates=1, kept=1) if arm == "policy" else numbers
        return Planner(policy, alone)
    return Planner(
        policy,
        numbers,
        _world_model(arm, profile, models, cache),
        ChatExtractor(chat) if settings.extractor == "endpoint" else RuleExtractor(),
        ChatSummariser(chat) if settings.summariser == "endpoint" else RuleSummariser(),
        ChatValue(chat) if settings.value == "endpoint" else _local(local)[1],
    )


def _asks_chat(settings: Any) -> bool:
    return "endpoint" in (settings.policy, settings.extractor, settings.summariser, settings.value)


def _local(roles: tuple) -> tuple:
    if not roles:
        raise UserError("the agent's local roles are not trained; run notebook 23 (rlvr reproduce --only 23)")
    return roles


def _world_model(arm: str, profile: Profile, models: Mapping[str, Path], cache: Path) -> Any:
    settings = profile.web_page.agent
    if arm == ORACLE:
        return OracleWorldModel()
    if settings.world_model == "endpoint":
        return ChatWorldModel(world_model_endpoint(settings, arm, cache / f"{arm}.jsonl"))
    device = profile.torch_device()
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(models[arm], dtype=dtype).to(device)
    task = make_task(profile, models[arm])
    return LocalWorldModel(model, task, settings.max_response, settings.temperature, settings.top_p, profile.seed)


__all__ = [
    "ARMS",
    "ORACLE",
    "POLICY_ARMS",
    "arms_of",
    "evaluate_agents",
    "make_planner",
    "train_roles",
    "uses_endpoint",
    "why_not_run",
]
