"""Controls for looking at robot video: scrub an episode, compare reconstructions, give the model another action.

Each has a static picture beside it (``video_figures``); headless runs and HTML pages show that one only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from transformers import LlamaForCausalLM

from rlvr_lib.progress import somebody_watches
from rlvr_lib.report.drawing import BLUE, LINES, new_figure
from rlvr_lib.report.video_figures import _show, contact_sheet, frame_rows
from rlvr_lib.tokens.video_layouts import Layout
from rlvr_lib.tokens.video_task import VideoTask
from rlvr_lib.training.video_pretrain import predict
from rlvr_lib.worlds.video_clips import Clip
from rlvr_lib.worlds.video_episodes import Episode

TINTS = {"frame": "#d9ecf7", "action": "#fbe8c8", "context": "#d6efe6", "special": "#f4e0ec"}


def scrub(episodes: Mapping[str, Episode], action_names: Sequence[str]) -> Any:
    """A slider over the frames of an episode with its actions under it; headless: the contact sheet."""
    if not somebody_watches():
        return contact_sheet(episodes)
    import ipywidgets as widgets

    longest = max(map(len, episodes.values())) - 1
    return widgets.interactive(
        lambda episode, frame: frame_with_actions(episodes[episode], frame, action_names),
        episode=widgets.Dropdown(options=list(episodes)),
        frame=widgets.IntSlider(min=0, max=longest, description="frame"),
    )


def frame_with_actions(episode: Episode, place: int, names: Sequence[str]) -> Figure:
    """One frame, and the whole course of the actions with a line at that frame."""
    place = min(place, len(episode) - 1)
    figure = new_figure(8.2, 2.7, shown=True)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.6))
    _show(left, episode.frames[place], f"frame {place} of {len(episode)}")
    for column, name in enumerate(names):
        right.plot(episode.actions[:, column], color=LINES[column % len(LINES)], label=name, linewidth=1.2)
    right.axvline(place, color=BLUE, linewidth=2, alpha=0.4)
    right.set(xlabel="frame", ylabel="action")
    right.legend(ncols=2)
    return figure


def compare(truth: torch.Tensor, candidates: Mapping[str, torch.Tensor]) -> Any:
    """A slider over frames [n, 3, H, W], truth beside each candidate; headless: the first eight as rows."""
    rows = {"truth": truth, **candidates}
    if not somebody_watches():
        return frame_rows({name: frames[:8] for name, frames in rows.items()})
    import ipywidgets as widgets

    slider = widgets.IntSlider(min=0, max=len(truth) - 1, description="frame")
    return widgets.interactive(
        lambda frame: frame_rows({f"frame {frame}": [frames[frame] for frames in rows.values()]}, names=list(rows)),
        frame=slider,
    )


def other_actions(
    model: LlamaForCausalLM, task: VideoTask, clip: Clip, actions: Mapping[str, np.ndarray], seed: int = 0
):
    """Predicted frames [K, 3, H, W] for one history under several actions, with the same random numbers.

    Each action (A numbers, in the data's units) replaces the clip's from the last seen frame on.
    """
    first = 1 if task.has_context else len(clip.actions) - 2
    predicted = {}
    for name, action in actions.items():
        changed = clip.actions.copy()
        changed[first:] = action
        predicted[name] = predict(model, task, [Clip(clip.frames, changed)], temperature=0.0, seed=seed)[0]
    return predicted


def drive(model: LlamaForCausalLM, task: VideoTask, clip: Clip, names: Sequence[str]) -> Any:
    """Sliders for every action number; a button samples what the model sees then. Headless: four set directions."""
    if not somebody_watches():
        return None
    import ipywidgets as widgets

    sliders = {name: widgets.FloatSlider(min=-1, max=1, step=0.1, description=name) for name in names}
    return widgets.interactive(
        lambda **values: dreamt(model, task, clip, np.array([values[name] for name in names], dtype=np.float32)),
        {"manual": True, "manual_name": "predict"},
        **sliders,
    )


def dreamt(model: LlamaForCausalLM, task: VideoTask, clip: Clip, action: np.ndarray) -> Figure:
    """The last seen frame, then what the model predicts under one held action."""
    frames = other_actions(model, task, clip, {"": action})[""]
    seen = task.last_seen([clip])
    return frame_rows({"": torch.cat([seen, frames])}, names=["now", *(f"+{step + 1}" for step in range(len(frames)))])


def sequence_strip(layout: Layout, ids: torch.Tensor) -> str:
    """One sequence [S] as HTML: frames, actions and markers in colours of their own, positions with loss in bold."""
    kinds = {"frame": layout.frame_at, "action": layout.action_at}
    for name in ("context_at", "special_at"):
        if hasattr(layout, name):
            kinds[name.removesuffix("_at")] = getattr(layout, name)
    kind_of = {int(place): kind for kind, places in kinds.items() for place in places.flatten()}
    cells = [
        f'<span style="background:{TINTS[kind_of[place]]};padding:1px 5px;margin:1px;display:inline-block;'
        f'{"font-weight:bold;border-bottom:2px solid #000" if layout.supervised[place] else ""}">{int(value)}</span>'
        for place, value in enumerate(ids)
    ]
    legend = " ".join(f'<span style="background:{TINTS[kind]};padding:1px 5px">{kind}</span>' for kind in kinds)
    return f'<div style="font:13px monospace">{"".join(cells)}<p>{legend} · bold: carries loss</p></div>'
