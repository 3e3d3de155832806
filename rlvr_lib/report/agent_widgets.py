"""Watching an episode of the agent: picture, candidates, predicted changes, values, the chosen action.

Pages and models are untrusted: every text is escaped, and pictures are drawn anew before they are shown.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from rlvr_lib.artifacts import UserError
from rlvr_lib.evaluation.agent_local import RuleExtractor, RuleSummariser, load_local_roles
from rlvr_lib.evaluation.agent_planner import Numbers, Planner
from rlvr_lib.evaluation.agent_run import screen
from rlvr_lib.evaluation.agent_session import Case
from rlvr_lib.profile import Profile
from rlvr_lib.report.widgets import BLUE, CELL, browse_by
from rlvr_lib.training.web_page_data import RECORDED
from rlvr_lib.worlds.agent_texts import Observation, mean_score, split_answer
from rlvr_lib.worlds.web_pages import Changes
from rlvr_lib.worlds.web_transitions import load_web_set

WIDE, HIGH = 420, 520  # pixels of a shown picture
SHORT = 700  # characters of a predicted change that are shown


def read_episodes(folder: Path, arm: str) -> list[dict[str, Any]]:
    """All recorded episodes of an arm. UserError when there are none or the file is damaged."""
    path = folder / f"{arm}.jsonl"
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no episodes to watch ({type(error).__name__}); run notebook 23 again") from None


def step_html(folder: Path, record: Mapping[str, Any], place: int) -> str:
    """One decision of an episode as HTML."""
    step = record["steps"][place]
    rows = "".join(_candidate(candidate, step["action"]) for candidate in step["candidates"])
    heads = "".join(f'<th style="{CELL}">{head}</th>' for head in ("proposed", "times", "predicted changes", "value"))
    done = f"<p>done: <code>{escape(step['action'][:200])}</code>{_refused(step)}</p>"
    last = place == len(record["steps"]) - 1
    result = "succeeded" if record["success"] else "did not succeed"
    end = f"<p><b>The episode {result}</b>: {escape(record['ended'][:200])} {escape(record['fault'][:200])}</p>"
    return (
        '<div style="font:13px/1.45 system-ui,sans-serif;max-width:70rem">'
        f"<p><b>{escape(record['goal'][:300])}</b> <small>{escape(record['name'])}/{record['seed']}, "
        f"step {place + 1} of {len(record['steps'])}</small><br><code>{escape(step['url'][:200])}</code></p>"
        f'<div style="display:flex;gap:1rem">{_picture(folder, record, place)}'
        f'<div><table style="border-collapse:collapse"><tr>{heads}</tr>{rows}</table>{done}'
        f"{end if last else ''}</div></div></div>"
    )


def _candidate(candidate: Mapping[str, Any], done: str) -> str:
    value = "–" if candidate["value"] is None else f"{candidate['value']:.2f}"
    colour = BLUE if candidate["text"] == done else ""
    cells = (candidate["text"][:200], str(candidate["votes"]), candidate["changes"][:SHORT] or "–", value)
    return "<tr>" + "".join(f'<td style="{CELL};{colour}">{escape(text)}</td>' for text in cells) + "</tr>"


def _refused(step: Mapping[str, Any]) -> str:
    return f" (refused: {escape(step['refused'][:200])})" if step.get("refused") else ""


def _picture(folder: Path, record: Mapping[str, Any], place: int) -> str:
    """The page before the step, its upper part, small; nothing where no picture was kept."""
    path = screen(folder, record["arm"], Case(record["name"], record["seed"]), place)
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, ValueError):
        return ""
    box = _inked(image)
    image = image.crop(box)
    image.thumbnail((WIDE, HIGH))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="page" style="border:1px solid #ccc;align-self:flex-start" src="data:image/png;base64,{data}">'


def _inked(image: Image.Image) -> tuple[int, int, int, int]:
    """The part of a picture that holds more than background."""
    blank = Image.new("RGB", image.size, image.getpixel((image.width - 1, image.height - 1)))
    box = ImageChops.difference(image, blank).getbbox() or (0, 0, image.width, image.height)
    return 0, 0, min(image.width, box[2] + 10), min(image.height, box[3] + 10, 2 * (box[2] + 10))


def watch(folder: Path, arm: str, still: int = 2, most: int = 3) -> Any:
    """A browser over the steps of the first ``most`` episodes; static where nobody watches."""
    records = [record for record in read_episodes(folder, arm)[:most] if record["steps"]]
    places = [(record, place) for record in records for place in range(len(record["steps"]))]
    names: Sequence[str] = [f"{record['name']}/{record['seed']}" for record, _ in places]
    return browse_by(names, lambda index: step_html(folder, *places[index]), "episode", still)


def recorded_decision(profile: Profile, roles: Path) -> list[dict[str, Any]]:
    """One decision about a recorded test page, the recording as the world model; it knows the taken action only."""
    settings = profile.web_page.agent
    policy, value = load_local_roles(roles, settings.temperature, profile.seed)
    steps = load_web_set(RECORDED, ("test",))["test"]
    planner = Planner(policy, Numbers(settings.candidates, settings.kept, settings.values, "action"))
    for item in steps:
        seen = Observation(item.goal, item.url, item.before, item.previous, item.task, item.seed)
        candidates = planner.decide([seen])[0].candidates
        if item.site == "miniwob" and item.changes and len(candidates) > 1 and item.action == item.expert:
            break
    texts = [candidate.text for candidate in candidates]
    answers = [item.changes.text if text == item.action else Changes().text for text in texts]
    changes = RuleExtractor().extract([seen] * len(texts), [split_answer(answer) for answer in answers])
    states = RuleSummariser().summarise([seen] * len(texts), texts, changes)
    judged = value.judge([seen] * len(texts), texts, states, settings.values)
    rows = zip(candidates, changes, judged, strict=True)
    return [
        {"proposed": one.text, "times": one.votes, "predicted changes": said, "value": mean_score(replies)}
        for one, said, replies in rows
    ]


__all__ = ["read_episodes", "recorded_decision", "step_html", "watch"]
