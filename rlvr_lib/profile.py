"""Profiles: one YAML file becomes typed, validated, immutable settings.

``paper.yaml`` states every setting; the other profiles say ``extends: paper`` and then only what they change, so that
reading one of them is reading the list of its departures from the paper. One key can be overridden by text, which is
what a papermill parameter can carry: ``"text_game.rlvr.steps=50 seed=2"``.
"""

import difflib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from rlvr_lib.files import UserError
from rlvr_lib.profile_fields import Count, Section
from rlvr_lib.profile_schema import TextGame, WebPage
from rlvr_lib.profile_schema_analysis import ModelAnalysis
from rlvr_lib.profile_schema_domains import DOMAINS, DomainData, Domains
from rlvr_lib.profile_schema_video import Video
from rlvr_lib.provenance import ROOT

PROFILES = ROOT / "profiles"


class Profile(Section):
    """All settings of a run. ``profile.text_game.rlvr.steps`` and so on; see the fields' descriptions."""

    name: str = Field(description="The file's name without its ending.")
    seed: int = Field(ge=0, lt=2**31, description="Seed of everything random. Our choice.")
    threads: Count = Field(description="Processor threads per stage. Our choice.")
    device: Literal["auto", "cpu", "cuda"] = Field(description="auto takes the GPU when there is one. Our choice.")
    runs_dir: Path = Field(description="Checkpoints and predictions; relative paths start at the project's folder.")
    reports_dir: Path = Field(description="Reports and executed notebooks; likewise.")
    text_game: TextGame = Field(description="Text-game state prediction: the paper's section 4.")
    web_page: WebPage = Field(description="Web-page state prediction: the paper's section 4.")
    video: Video = Field(description="Robot video: the paper's section 5.")
    analysis: ModelAnalysis = Field(description="Robot video looked at more closely: the paper's Figure 4.")
    domains: Domains = Field(description="PushT, rope, granular: the paper's Table 4.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.runs_dir == self.reports_dir:
            raise ValueError("runs_dir: must differ from reports_dir")
        return self

    def config_of(self, uses: Iterable[str]) -> dict[str, Any]:
        """Plain values of the named parts (``["text_game.sft", "device"]``), keyed by their names: what is hashed."""
        return {use: _look_up(self.model_dump(mode="json"), use) for use in uses}

    def torch_device(self) -> str:
        """``cuda`` or ``cpu``; UserError when cuda is asked for and absent."""
        import torch

        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device: cuda is set but torch sees no GPU; set device=auto or run rlvr doctor")
        return "cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu"

    def seed_everything(self) -> None:
        """Seed Python, numpy and torch and set torch's threads."""
        import random

        import numpy
        import torch

        random.seed(self.seed)
        numpy.random.seed(self.seed)
        torch.manual_seed(self.seed)
        torch.set_num_threads(self.threads)


def load_profile(name: str, seed: int | str | None = None, overrides: str | None = "") -> Profile:
    """Read ``profiles/<name>.yaml``, apply the seed and the overrides, validate.

    ``seed`` may be a whole number, its text, or None / "" for the profile's own. An unknown profile or key, a wrong
    type and an impossible combination are UserErrors of one line that name the key.
    """
    data = _read_profile(name)
    given = parse_overrides(overrides)
    if seed is not None and str(seed).strip():
        given = {"seed": _whole_number(seed), **given}
    for key, value in given.items():
        _assign(data, key, value, name)
    for key in ("runs_dir", "reports_dir"):
        if isinstance(data.get(key), str):
            data[key] = str(ROOT / os.path.expanduser(data[key]))
    try:
        return Profile.model_validate_json(json.dumps({**data, "name": name}))
    except ValidationError as error:
        raise UserError(f"profile {name}: {_first_problem(error)}") from None


def domain_profile(profile: Profile, domain: str) -> Profile:
    """A profile whose robot video is another domain (``pusht``, ``rope``, ``granular``).

    Its runs lie in a folder of their own, ``runs/<profile>/<domain>``, and everything that works on ``profile.video``
    (stages, trainers, evaluation) works on it unchanged. UserError for an unknown domain or a missing folder of files.
    """
    if domain not in DOMAINS:
        raise UserError(f"no domain {domain!r}; there are {', '.join(DOMAINS)}")
    shared = profile.domains
    own: DomainData = getattr(shared, domain)
    recorded = shared.source == "recorded"
    if not recorded and not own.root:
        raise UserError(
            f"domains.{domain}.root: set it to a folder made by `rlvr convert-dino-wm`, or use domains.source=recorded"
        )
    data = {
        **{key: getattr(shared, key) for key in ("height", "width", "test_every", "test_segments", "workers")},
        **{"source": domain if recorded else "dino_wm", "root": own.root, "ranges": "measured"},
        **{"episodes": own.episodes, "frame_every": own.frame_every, "jitter": False, "crop": False},
    }
    evaluation = profile.video.evaluation
    samples = evaluation.samples.model_copy(update={"single_step": shared.samples})
    parts = {
        "data": profile.video.data.model_copy(update=data),
        "frame_tokenizer": shared.frame_tokenizer,
        "single_step": shared.single_step.model_copy(update={"context": own.context}),
        "single_step_rlvr": shared.single_step_rlvr,
        "real2sim": shared.real2sim,
        "evaluation": evaluation.model_copy(update={"samples": samples}),
    }
    update = {"name": f"{profile.name}/{domain}", "video": profile.video.model_copy(update=parts)}
    return profile.model_copy(update=update)


def profile_names() -> list[str]:
    """Profiles that exist, by name."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def parse_overrides(text: str | None) -> dict[str, Any]:
    """``"a.b=1 c=x"`` -> ``{"a.b": 1, "c": "x"}``; values are YAML (lists without spaces: ``[0.9,0.95]``)."""
    if text is None:
        return {}
    if not isinstance(text, str):
        raise UserError(f'overrides: must be text such as "text_game.rlvr.steps=50", not {text!r}')
    pairs: dict[str, Any] = {}
    for word in text.split():
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UserError(f'overrides: "{word}" is not key=value (separate pairs by spaces, no spaces inside)')
        try:
            pairs[key] = yaml.load(value, _Loader)
        except yaml.YAMLError:
            raise UserError(f"overrides: the value of {key} cannot be read: {value}") from None
    return pairs


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-6 as the number it is (YAML 1.1 takes it for text) and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _read_profile(name: str) -> dict[str, Any]:
    if name not in profile_names():
        raise UserError(f"no profile {name!r}; there are {', '.join(profile_names())} (files in {PROFILES})")
    path = PROFILES / f"{name}.yaml"
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected settings, found {type(data).__name__}")
    parent = data.pop("extends", None)
    return data if parent is None else _merge(_read_profile(parent), data)


def _merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the leaves of ``change`` put over it; lists are replaced whole."""
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _assign(data: dict[str, Any], key: str, value: Any, profile: str) -> None:
    """Set one dotted key that must exist."""
    *parents, last = key.split(".")
    target: Any = data
    for depth, part in enumerate([*parents, last]):
        if not isinstance(target, dict) or part not in target:
            known = target if isinstance(target, dict) else {}
            raise UserError(f"profile {profile}: unknown key {key}{_suggest(part, known, key.split('.')[:depth])}")
        if depth < len(parents):
            target = target[part]
    target[last] = value


def _suggest(word: str, known: Iterable[str], parents: Iterable[Any]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {'.'.join([*map(str, parents), *close])}?" if close else ""


def _whole_number(seed: int | str) -> int:
    if isinstance(seed, bool) or not re.fullmatch(r"\s*\d+\s*", str(seed)):
        raise UserError(f"seed: must be a whole number, not {seed!r}")
    return int(seed)


def _first_problem(error: ValidationError) -> str:
    """The first validation error as ``key: what is wrong``."""
    problem = error.errors()[0]
    place = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        return f"unknown key {'.'.join(place)}{_suggest(place[-1], _fields_at(place[:-1]), place[:-1])}"
    if problem["type"] == "missing":
        return f"{'.'.join(place)}: is missing"
    if problem["type"] == "value_error":  # raised by a validator, whose text starts with the key
        return ".".join([*place, str(problem["ctx"]["error"])])
    return f"{'.'.join(place)}: {problem['msg'][0].lower()}{problem['msg'][1:]} (got {problem['input']!r})"


def _fields_at(place: list[str]) -> list[str]:
    model: Any = Profile
    for part in place:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field else None
    return list(getattr(model, "model_fields", {}))


def _look_up(data: dict[str, Any], use: str) -> Any:
    for part in use.split("."):
        if not isinstance(data, dict) or part not in data:
            raise UserError(f"the profile has no part called {use}")
        data = data[part]
    return data
