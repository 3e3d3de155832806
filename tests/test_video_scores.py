"""Scores of frames: closed forms, folders of anybody's predictions, reference rows, Table 3's numbers by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from toy_video import Squares

from rlvr_lib.artifacts import UserError
from rlvr_lib.cli import main
from rlvr_lib.evaluation.video_scores import moving, reference_predictions, score_folders, segment_scores, summary
from rlvr_lib.report.video_tables import COPY, against_copying, copying_table, table3
from rlvr_lib.tokens.action_bins import ActionBins
from rlvr_lib.tokens.compressive_tokenizer import CompressiveTokenizer
from rlvr_lib.tokens.frame_tokenizer import FrameTokenizer
from rlvr_lib.tokens.video_task import MultiStepTask, SingleStepTask
from rlvr_lib.worlds.perceptual import Perceptual
from rlvr_lib.worlds.video_clips import Clip

SIZE = {"height": 16, "width": 16, "widths": [8, 8], "encoder_blocks": 1, "decoder_blocks": 1, "latent": 8}


SQUARES = Perceptual("squares", Squares())
BINS = ActionBins([-1.0, -1.0], [1.0, 1.0])


def clip(frames: torch.Tensor) -> Clip:
    return Clip(frames, np.zeros((len(frames), 2), dtype=np.float32))


def frames_file(path, value: int, count: int = 2) -> None:
    np.savez(path, image=np.full((count, 32, 32, 3), value, dtype=np.uint8))


def test_a_constant_error():
    """An error of 0.1 everywhere: MSE 0.01, MAE 0.1, PSNR 20 dB; predictions are clamped before."""
    truth = torch.full((2, 3, 3, 16, 16), 0.5)
    scores = segment_scores(truth, truth + 0.1, SQUARES)
    assert len(scores) == 2
    assert scores["mse"].tolist() == pytest.approx([0.01] * 2, rel=1e-4)
    assert scores["mae"].tolist() == pytest.approx([0.1] * 2, rel=1e-4)
    assert scores["psnr"].tolist() == pytest.approx([20.0] * 2, rel=1e-4)
    assert scores["squares"].tolist() == pytest.approx([0.01] * 2, rel=1e-4)
    assert segment_scores(truth, truth + 9, SQUARES)["mae"].tolist() == pytest.approx([0.5] * 2)


def test_decibels_are_averaged_per_frame():
    """Errors 0.1 and 0.01 are 20 and 40 dB, mean 30; their mean MSE would be 23 dB."""
    truth = torch.full((1, 2, 3, 16, 16), 0.5)
    error = torch.tensor([0.1, 0.01])[None, :, None, None, None]
    assert segment_scores(truth, truth + error, SQUARES)["psnr"].item() == pytest.approx(30, abs=1e-2)


def test_folders(tmp_path, capsys):
    for name in ("truth", "prediction"):
        (tmp_path / name).mkdir()
    frames_file(tmp_path / "truth" / "a.npz", 100)
    frames_file(tmp_path / "prediction" / "a.npz", 151)  # 51 / 255 = 0.2
    for name, value in (("truth", 0), ("prediction", 255)):
        (tmp_path / name / "b").mkdir()
        for place in range(3):
            Image.fromarray(np.full((32, 32, 3), value, dtype=np.uint8)).save(tmp_path / name / "b" / f"{place}.png")
    scores = score_folders(tmp_path / "truth", tmp_path / "prediction", SQUARES)
    assert scores["mae"].to_dict() == pytest.approx({"a": 0.2, "b": 1.0})
    row = summary(scores).set_index("metric").loc["mae"]
    assert row["mean"] == pytest.approx(0.6) and row["n"] == 2
    out = tmp_path / "scores.csv"
    arguments = ["score", "video", "--truth", str(tmp_path / "truth"), "--prediction", str(tmp_path / "prediction")]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--per-item", str(out)])
    assert ended.value.code == 0 and "mae" in capsys.readouterr().out
    assert pd.read_csv(out).set_index("segment")["mse"].to_dict() == pytest.approx({"a": 0.04, "b": 1.0})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: frames_file(folder / "b.npz", 3), "one folder only, the first: b"),
        (lambda folder: frames_file(folder / "a.npz", 3, 5), "the truth has"),
        (lambda folder: (folder / "a.npz").write_bytes(b"rubbish"), "cannot be read as frames"),
        (lambda folder: np.savez(folder / "a.npz", other=np.zeros(3)), "cannot be read as frames"),
        (lambda folder: np.savez(folder / "a.npz", image=np.zeros((2, 16, 16, 3))), "uint8"),
        (lambda folder: (folder / "a.npz").unlink(), "holds no segments"),
        (lambda folder: np.savez(folder / "a.npz", image=np.zeros((2, 9, 40, 3), dtype=np.uint8)), "at least 32"),
    ],
)
def test_bad_folders_are_named(tmp_path, spoil, words):
    for name in ("truth", "prediction"):
        (tmp_path / name).mkdir()
        frames_file(tmp_path / name / "a.npz", 3)
    spoil(tmp_path / "prediction")
    with pytest.raises(UserError, match=words):
        score_folders(tmp_path / "truth", tmp_path / "prediction", SQUARES)


@pytest.fixture(scope="module")
def tasks():
    torch.manual_seed(0)
    single = FrameTokenizer(**SIZE, levels=[5, 5], groups=4)
    multi = CompressiveTokenizer(**SIZE, levels=[5, 5], groups=4, patch=2, heads=2)
    return SingleStepTask(single, BINS, context=2), MultiStepTask(multi, BINS, horizon=3)


def test_reference_rows(tasks):
    """Copying predicts the last seen frame; the other rows are what the tokenizer makes of truth and copy."""
    generator = torch.Generator().manual_seed(1)
    for task in tasks:
        clips = [clip(torch.rand(3 if not task.has_context else 5, 3, 16, 16, generator=generator)) for _ in range(2)]
        rows = reference_predictions(task, clips)
        last = 1  # both: history of two frames; context frame and current frame
        for place, given in enumerate(clips):
            for frame in rows["copy last frame"][place]:
                assert torch.equal(frame, given.frames[last])
        ids = task.encode(clips)
        again = task.decode(ids[:, : task.layout.prompt], ids[:, task.layout.prompt :])
        assert torch.equal(rows["tokenizer ceiling"], again)
        still = [
            clip(torch.cat([c.frames[: last + 1], c.frames[last].expand(len(c.frames) - last - 1, 3, 16, 16)]))
            for c in clips
        ]
        assert torch.equal(rows[COPY], reference_predictions(task, still)["tokenizer ceiling"])


def test_what_moves(tasks):
    single = tasks[0]
    still, fast = torch.zeros(3, 3, 16, 16), torch.zeros(3, 3, 16, 16)
    fast[-1, :, :8] = 1
    assert moving([clip(still), clip(fast)], single).tolist() == [False, True]


def scored(model: str, values: list[float], repeated: list[float]) -> pd.DataFrame:
    facts = {"model": model, "segment": range(len(values)), "moving": [True, True, False], "repetition": repeated}
    return pd.DataFrame(
        {**facts, "mse": values, "mae": values, "psnr": [20.0] * 3, "ssim": [0.5] * 3, "squares": values}
    )


def test_table_3_by_hand():
    base = scored("base", [0.1, 0.2, 0.3], [1, 0, 0])
    copy = scored(COPY, [0.2, 0.5, 0.3], [np.nan] * 3)
    table = table3({kind: pd.concat([copy, base]) for kind in ("single_step", "multi_step")}, 0, "caption")
    row = table.data.set_index(["task", "model"]).loc[("multi_step", "base")]
    assert row["mse"] == pytest.approx(20) and row["repetition"] == pytest.approx(100 / 3, rel=1e-3)
    assert row["perceptual_moving"] == pytest.approx(15) and row["n"] == 3 and row["n_moving"] == 2
    assert row["paper_lpips"] == 14.8 and row["paper_repetition"] == 48.6
    printed = table.blocks["Multi-step prediction, seven frames"].set_index("row")
    assert printed.loc["base", "n moving"] == 2
    assert printed.loc[COPY, "repetition %"] == "–" and printed.loc[COPY, "paper: LPIPS-VGG"] == "–"
    difference = against_copying(pd.concat([copy, base]), "base", 0)
    assert difference.mean == pytest.approx(-0.2) and difference.n == 2
    assert -0.3 - 1e-9 <= difference.low <= difference.high <= -0.1 + 1e-9


def test_copying_is_compared_by_way_of_drawing_and_dashed_where_nothing_moves():
    rows = [(COPY, 0.03), ("base", 0.02), ("base, temperature 0.7", 0.01), ("base, greedy", 0.03)]
    frame = pd.DataFrame(
        {"model": name, "segment": segment, "moving": segment < 2, "repetition": 0.0, "squares": value}
        for name, value in rows
        for segment in range(3)
    )
    still = frame.assign(moving=False)
    table = copying_table({"single_step": frame, "multi_step": still}, 0)
    assert [text.split()[0] for text in table["single_step"]] == ["-1.00", "-2.00", "+0.00"]
    assert set(table["multi_step"]) == {"–"}
    with pytest.raises(UserError, match="no test segment moves"):
        against_copying(still, "base", 0)
