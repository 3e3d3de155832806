"""Verdicts on the video claims from made-up scores, and the pictures of video RLVR."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from rlvr_lib.evaluation.video import LONGER, REJECTION
from rlvr_lib.report.claims import INCONCLUSIVE, NOT_REPRODUCED, NOT_RUN, REPRODUCED, evaluate_claims
from rlvr_lib.report.video_claims import EVALUATION, SHARED_NOISE
from rlvr_lib.report.video_rlvr_figures import figure3, figure8, repetition_figure, rollout_gif, validations

BETTER = {"mse": -0.002, "mae": -0.01, "psnr": 0.8, "ssim": 0.02, "LPIPS-Squeeze": -0.01, "repetition": -0.4}


def scores(folder, kind, gains=BETTER, models=("base", "RLVR"), n=60, as_good=()):
    """RLVR differs from the base by ``gains`` on every segment; the greedy rows are equal; noise is shared."""
    rng = np.random.default_rng(0)
    start = {"mse": 0.01, "mae": 0.05, "psnr": 20.0, "ssim": 0.8, "LPIPS-Squeeze": 0.1, "repetition": 0.5}
    rows = []
    for segment in range(n):
        noise = {name: value * (1 + 0.3 * rng.normal()) for name, value in start.items()}
        for model in [*models, *(f"{model}, greedy" for model in models)]:
            extra = gains if model in ("RLVR", *as_good) else {}
            if model == f"base{REJECTION}":
                extra = {name: value / 2 for name, value in gains.items()}
            values = {name: value + extra.get(name, 0) for name, value in noise.items()}
            rows.append({"model": model, "segment": segment, "moving": True, **values})
    (folder / "video_evaluation").mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "video_evaluation" / f"{kind}.csv", index=False)


def verdicts(runs):
    return {one.id: one for one in evaluate_claims(runs, 0) if one.id in ("C5", "C6", "C7", "C8")}


def test_gains_in_every_metric_reproduce_the_claims(tmp_path):
    scores(tmp_path, "single_step")
    scores(tmp_path, "multi_step", models=("base", "RLVR", f"base{REJECTION}"))
    found = verdicts(tmp_path)
    assert [found[name].verdict for name in ("C5", "C6", "C7")] == [REPRODUCED] * 3
    parts = {part.name: part for part in found["C6"].parts}
    assert parts["PSNR"].interval.mean == pytest.approx(0.8) and parts["PSNR"].unit == "plain"
    assert parts["repetition"].text.startswith("-40.0") and parts["SSIM"].text.startswith("+2.000")
    assert not parts["both decoded greedily"].decides and parts["both decoded greedily"].verdict == INCONCLUSIVE
    assert next(iter(found["C7"].parts)).interval.mean == pytest.approx(-0.005)


def test_more_likelihood_is_the_control(tmp_path):
    """RLVR must beat both controls; against one that is as good as RLVR nothing is reproduced."""
    third, same_time = LONGER.values()
    scores(tmp_path, "multi_step", models=("base", "RLVR", third))
    assert verdicts(tmp_path)["C8"].verdict == REPRODUCED
    scores(tmp_path, "multi_step", models=("base", "RLVR", third, same_time), as_good=(same_time,))
    found = verdicts(tmp_path)["C8"]
    assert found.verdict == INCONCLUSIVE and [part.decides for part in found.parts] == [True, True, False]
    assert found.parts[0].interval.mean == pytest.approx(-0.01) and found.parts[2].interval.mean == pytest.approx(0)
    scores(tmp_path, "multi_step")
    assert "trained further" in verdicts(tmp_path)["C8"].why


def test_one_metric_that_gets_worse_refutes(tmp_path):
    scores(tmp_path, "single_step", gains={**BETTER, "ssim": -0.02})
    scores(tmp_path, "multi_step", gains={**BETTER, "mse": 0.0})
    found = verdicts(tmp_path)
    assert found["C5"].verdict == NOT_REPRODUCED and found["C6"].verdict == INCONCLUSIVE
    assert found["C7"].verdict == NOT_RUN and "drawn again" in found["C7"].why


def test_without_scores_nothing_is_claimed(tmp_path):
    assert all(one.verdict == NOT_RUN for one in verdicts(tmp_path).values())
    scores(tmp_path, "single_step", models=("base",))
    assert "RLVR" in verdicts(tmp_path)["C5"].why


def test_curves_are_drawn_from_logs(tmp_path):
    logs = [
        {"step": step, "reward": -0.1, "mae": 0.05, "lpips": 0.1, "validation_lpips": 0.2 / step} for step in (1, 2, 3)
    ]
    base = [{"step": step, "eval_perceptual": 0.3} for step in (100, 200)]
    figure = figure8({"single-step": logs}, "LPIPS-Squeeze", tmp_path / "eight")
    assert [ax.get_title() for ax in figure.axes][2] == "single-step: LPIPS-Squeeze"
    figure = figure3(
        {"a": base},
        {"a": logs},
        "LPIPS",
        control={"a": [{"step": 50, "eval_perceptual": 0.25}]},
        path=tmp_path / "three",
    )
    left, right = figure.axes
    assert [list(line.get_xdata()) for line in left.lines] == [[100, 200], [250]]
    assert list(right.lines[0].get_ydata()) == [0.2, 0.1, pytest.approx(0.2 / 3)]
    assert right.lines[1].get_ydata()[0] == 0.2  # the base on the segments that RLVR is validated on, not on its own
    curve = pd.DataFrame(
        [
            {"model": model, "noise": noise, "frame": frame, "n": 5, "rate": 0.2, "low": 0.1, "high": 0.4}
            for model, noise in (("truth", "none"), ("base", "independent"), ("base", "shared"))
            for frame in (1, 2)
        ]
    )
    assert len(repetition_figure(curve, tmp_path / "repeats").axes[0].lines) == 3
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".pdf"}


def test_the_first_validation_is_the_bases():
    """It is measured before the first update and logged with the first batch."""
    rows = [{"step": step, "validation_mae": value} for step, value in ((1, 0.3), (10, 0.2), (20, 0.1))]
    assert [list(part) for part in validations(rows, "mae")] == [[0, 10, 20], [0.3, 0.2, 0.1]]
    assert list(validations(rows[:1], "mae")[0]) == [1] and not len(validations([], "mae")[0])


def test_repetition_under_the_evaluators_noise_stands_beside_c6(tmp_path):
    """By hand: 40 segments of which the base repeats 20 and RLVR 8 of the same."""
    scores(tmp_path, "multi_step")
    found = verdicts(tmp_path)["C6"]
    assert SHARED_NOISE not in {part.name for part in found.parts}
    rows = [
        {"model": model, "noise": noise, "frame": frame, "segment": segment, "repeats": segment < most}
        for model, most in (("base", 20), ("RLVR", 8))
        for noise in ("independent", "shared")
        for frame in (6, 7)
        for segment in range(40)
    ]
    frame = pd.DataFrame(rows)
    frame.loc[(frame["frame"] == 6) | (frame["noise"] == "independent"), "repeats"] = False
    frame.to_csv(tmp_path / EVALUATION / "repetition.csv", index=False)
    found = verdicts(tmp_path)["C6"]
    part = next(part for part in found.parts if part.name == SHARED_NOISE)
    assert part.interval.mean == pytest.approx(-0.3) and part.verdict == REPRODUCED and not part.decides


def test_the_animation_holds_every_frame(tmp_path):
    frames = np.zeros((4, 8, 10, 3), dtype=np.uint8)
    frames[2] = 255
    path = rollout_gif({"truth": frames, "base": frames[:2]}, tmp_path / "film.gif", zoom=2)
    with Image.open(path) as film:
        assert film.n_frames == 4 and film.size == (2 * 26, 32) and film.info["loop"] == 0
        film.seek(2)
        shown = np.asarray(film.convert("RGB"))
    assert shown[20, 5].min() > 250 and shown[20, 35].max() < 5  # the truth is white there, the base black
