"""The benchmarks run from end to end at a tiny size and count what they say they count; times are not looked at."""

import json
import sys

import pytest

from rlvr_lib.artifacts import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    import grpo_step

    out = tmp_path_factory.mktemp("bench") / "grpo_step.json"
    grpo_step.main(["--tiny", "--repeats", "1", "--threads", "1", "--only", "reference,groups", "--out", str(out)])
    return json.loads(out.read_text())


def test_every_ratio_comes_from_its_medians(result):
    row = result["reference"]
    stock = [one for name, one in row["median_of"].items() if name != "ours"]
    for name, part in (("whole_step_speedup", "step"), ("logprob_update_speedup", "logprob_update")):
        assert row[name] == pytest.approx(min(one[part] for one in stock) / row["median_of"]["ours"][part], rel=0.02)
    assert result["versions"]["trl"] and result["hardware"]["cores"] >= 1 and result["threads"] == 1
    assert set(result["groups"]) == {"G = 4", "G = 8", "G = 16", "G = 32"}


def test_tokens_by_hand(result):
    """Two prompts of 12 ids with four responses of 5: 136 ids a pass when repeated, 64 when shared."""
    row = result["reference"]
    assert row["tokens_per_pass"] == {"repeated": 136, "shared": 64} and row["ideal"] == 2.12
    ours, whole = row["median_of"]["ours"], row["median_of"]["TRL, whole"]
    assert 0 < ours["ids_forwarded"] < whole["ids_forwarded"]


def test_the_paper_s_shares():
    """The cost model's table: 4.09 and 2.75 times fewer tokens at the paper's sizes."""
    import grpo_step

    assert grpo_step.Shape(128, 16, 1333, 321).tokens == (3_387_392, 828_032)
    assert grpo_step.Shape(128, 16, 1373, 651).tokens == (4_145_152, 1_508_992)


@pytest.mark.parametrize("kind,prompt,response", [("single_step", 4 * (80 + 13) + 1, 81), ("multi_step", 113, 231)])
def test_an_iteration_of_the_paper_runs_at_a_tiny_size(kind, prompt, response, tmp_path):
    """80 tokens a frame (20 compressed) at 64 x 80, 13 action numbers: lengths by hand."""
    import paper_step

    out = paper_step.main(["--tiny", "--kind", kind, "--iterations", "1", "--out", str(tmp_path / "step.json")])
    row = json.loads(out.read_text())[kind]
    assert (row["prompt"], row["response"], row["prompts"], row["group"]) == (prompt, response, 2, 2)
    assert row["seconds"] == pytest.approx(sum(row["by_part"].values()), abs=0.01) and row["by_part"]["sampling"] > 0


def test_the_paper_s_size_is_refused_without_a_gpu(capsys):
    import paper_step
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit):
        paper_step.main([])
    assert "wants a GPU" in capsys.readouterr().err
