"""Teachers and rejection sampling: the engine, a lying local endpoint, the keep rule, the public file format."""

import json
from pathlib import Path
from random import Random

import pytest
from chat_server import KEY_NAME, SECRET, chat_server, reply

from rlvr_lib.artifacts import UserError
from rlvr_lib.profile_schema import TextGameTeacher
from rlvr_lib.tokens.text_game_task import compact_prompt
from rlvr_lib.training.endpoint import ChatClient
from rlvr_lib.training.teacher import (
    SftSample,
    ask_teacher,
    endpoint_teacher,
    engine_teacher,
    read_sft_samples,
    rejection_sample,
    write_sft_samples,
)
from rlvr_lib.worlds.text_crawl import crawl
from rlvr_lib.worlds.text_game_rewards import is_changed_for_training, score_answer
from rlvr_lib.worlds.text_games import GAMES
from rlvr_lib.worlds.transitions import TextTransition


@pytest.fixture(scope="module")
def transitions() -> list[TextTransition]:
    """One layout of three games."""
    return [TextTransition.from_record(record) for game in list(GAMES.values())[:3] for record in crawl(game, 0)]


def changed(transition: TextTransition) -> bool:
    return is_changed_for_training(transition.current, transition.target)


def one_object_changed() -> TextTransition:
    """A lamp goes on beside a cup; nothing else."""
    lamp = {
        "name": "lamp (ID: 2)",
        "uuid": 2,
        "type": "Lamp",
        "properties": {"isOn": False, "watt": 3},
        "contains": [],
    }
    cup = {"name": "cup (ID: 3)", "uuid": 3, "type": "Thing", "properties": {"full": True}, "contains": []}
    score = {"score": 0, "gameOver": False, "gameWon": False}
    lit = {**lamp, "properties": {"isOn": True, "watt": 3}}
    return TextTransition("shed", 7, "turn on lamp", [lamp, cup, score], [lit, cup, score], 3)


def say(**answer) -> str:
    return f"Thinking. The final answer is: {json.dumps(answer)}"


# ---- the engine
def test_the_engine_is_right_and_says_why(transitions):
    for transition in transitions:
        answer = engine_teacher(transition)
        before, after = ({record["uuid"] for record in state[:-1]} for state in (transition.current, transition.target))
        assert score_answer(answer, transition.current, transition.target).binary == (not after - before)  # D.2
        assert all(note in answer for note in transition.notes)
        assert answer.index("The final answer is:") >= sum(len(note) for note in transition.notes)


def test_an_engine_that_slips_is_wrong(transitions):
    some = transitions[::5]
    for transition in some:
        answer = engine_teacher(transition, Random(0), slip=1.0)
        assert score_answer(answer, transition.current, transition.target).binary == 0
    rng = Random(1)
    half = [engine_teacher(transition, rng, slip=0.5) == engine_teacher(transition) for transition in some]
    assert 0.3 < sum(half) / len(half) < 0.7


def test_notations_score_alike(transitions):
    transition = next(item for item in transitions if changed(item))
    for notation in ("json", "python"):
        answer = engine_teacher(transition, notation=notation)
        assert score_answer(answer, transition.current, transition.target).binary == 1


# ---- the keep rule (A.10.2)
def test_which_answers_are_kept():
    transition = one_object_changed()
    lit, cup = transition.target[0], transition.target[1]
    spilt, tinted = {**cup, "properties": {"full": False}}, {"isOn": True, "watt": 3, "hue": 1}
    cases = {
        say(modified=[lit], removed=[], score={}): "kept_changed",
        say(modified=[lit, spilt], removed=[], score={}): "kept_changed",
        say(modified=[lit], removed=[]): "kept_changed",  # the rule looks at changed entries only
        say(modified=[], removed=[], score={}): "wrong_changed",
        say(modified=[{**lit, "properties": tinted}], removed=[], score={}): "wrong_changed",
        say(modified=[{**lit, "properties": None}], removed=[], score={}): "no_format wrong_changed",
        say(modified=[{"uuid": 2, "contains": []}], removed=[], score={}): "wrong_changed",
        say(modified=[lit], removed=[2], score={}): "wrong_changed",
        "I do not know.": "no_format",
        "": "no_format",
        None: "no_answer",
    }
    for answer, expected in cases.items():
        kept, told = rejection_sample([transition], [answer], Random(0))
        (reason,) = told["by_reason"]
        assert reason in expected.split(), answer
        assert len(kept) == told["kept"] == (reason == "kept_changed")


def test_unchanged_answers_must_be_right_and_drawn(capsys):
    busy = one_object_changed()
    idle = TextTransition("shed", 8, "look", busy.current, busy.current, 3)
    right, wrong = say(modified=[], removed=[], score={}), say(modified=[], removed=[])
    kept, told = rejection_sample([idle] * 4_000, [right, wrong] * 2_000, Random(0), keep_unchanged=0.1)
    assert told["by_reason"]["wrong_unchanged"] == told["right"] == 2_000
    assert abs(told["kept"] - 200) < 5 * (2_000 * 0.1 * 0.9) ** 0.5 and len(kept) == told["kept"]
    assert "asked" in capsys.readouterr().out
    _, told = rejection_sample([idle] * 2_020, [right] * 2_020, Random(0))
    assert abs(told["kept"] - 20) < 5 * 20**0.5  # 1 in 101


def test_score_only_changes_count_as_unchanged():
    busy = one_object_changed()
    won = [*busy.current[:-1], {"score": 1, "gameOver": True, "gameWon": True}]
    transition = TextTransition("shed", 9, "look", busy.current, won, 3)
    kept, _ = rejection_sample(
        [transition], [say(modified=[], removed=[], score=won[-1])], Random(0), keep_unchanged=1.0
    )
    none, _ = rejection_sample([transition], [say(modified=[], removed=[], score={})], Random(0), keep_unchanged=1.0)
    assert len(kept) == 1 and not none


def test_one_answer_more_moves_no_other(transitions):
    answers = [engine_teacher(transition) for transition in transitions]
    all_kept, _ = rejection_sample(transitions, answers, Random(5), keep_unchanged=0.3)
    fewer, _ = rejection_sample(transitions, [None, *answers[1:]], Random(5), keep_unchanged=0.3)
    assert [sample.case_id for sample in fewer] == [
        sample.case_id for sample in all_kept if sample.case_id != transitions[0].case_id
    ]


def test_the_length_limit_counts_the_end_token():
    transition = one_object_changed()
    answer = say(modified=[transition.target[0]], removed=[], score={})
    words = len(answer.split())
    for limit, kept in ((words + 1, 1), (words, 0)):
        samples, told = rejection_sample(
            [transition], [answer], Random(0), max_tokens=limit, count_tokens=lambda text: len(text.split())
        )
        assert len(samples) == kept and told["right"] == 1
    assert told["by_reason"] == {"too_long": 1}


# ---- a lying endpoint
def test_from_endpoint_to_file(transitions, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_NAME, SECRET)
    busy = [item for item in transitions if changed(item)][:12]
    prompts = [compact_prompt(item) for item in busy]
    truth = dict(zip(prompts, busy, strict=True))

    def liar(server, body, number):
        """Right, wrong, cut or senseless, by the question, not by the order of asking."""
        prompt = body["messages"][-1]["content"]
        assert body["messages"][0]["role"] == "system"
        kind, item = prompts.index(prompt) % 4, truth[prompt]
        if kind == 0:
            return reply(engine_teacher(item), reasoning="First I look. ")
        if kind == 1:
            return reply(engine_teacher(item, Random(0), slip=1.0))
        return reply(engine_teacher(item), finish_reason="length") if kind == 2 else reply('{"modified": 3}')

    with chat_server(liar) as server:
        client = ChatClient(server.url, "liar", concurrency=3)
        answers = endpoint_teacher(busy, prompts, client, tmp_path / "cache.jsonl")
        assert answers == endpoint_teacher(busy, prompts, client, tmp_path / "cache.jsonl")
        assert len(server.bodies) == len(set(prompts))
    kept, told = rejection_sample(busy, answers, Random(0))
    assert [sample.case_id for sample in kept] == [item.case_id for item in busy[::4]]
    assert kept[0].response.startswith("First I look. ")
    assert told["answered"] == 9 and told["by_reason"]["no_answer"] == 3
    path = write_sft_samples(tmp_path / "sft.jsonl", kept)
    assert read_sft_samples(path) == kept


def test_the_profile_names_the_teacher(transitions, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_NAME, SECRET)
    fields = {"model": "m", "concurrency": 2, "budget_usd": 40.0, "price_in": 0.5, "price_out": 2.0}
    fields |= {"max_tokens": 4000, "keep_unchanged_ratio": 0.1}
    some = transitions[:3]
    prompts = [compact_prompt(item) for item in some]
    with chat_server(lambda *_: reply("mine")) as server:
        teacher = TextGameTeacher(kind="endpoint", base_url=server.url, **fields)
        assert ask_teacher(some, prompts, teacher, Random(0), tmp_path / "cache.jsonl") == ["mine"] * 3
        assert server.bodies[0]["max_tokens"] == 8000
        poor = TextGameTeacher(kind="endpoint", base_url=server.url, **{**fields, "budget_usd": 0.0})
        assert ask_teacher(some, prompts, poor, Random(0), tmp_path / "other.jsonl") == [None] * 3
        assert len(server.bodies) == 3  # no budget, no question
    engine = TextGameTeacher(kind="engine", base_url="", **fields)
    assert ask_teacher(some, prompts, engine, Random(0), tmp_path / "x.jsonl") == [
        engine_teacher(item) for item in some
    ]


# ---- files (A.10.4)
SAMPLES = [
    SftSample("q “1”", "Because.\nThe final answer is: {}", "shed/1/2", "shed"),
    SftSample("q2", "a2", "shed/1/3", "shed"),
]


def test_public_columns(tmp_path):
    path = write_sft_samples(tmp_path / "sft.jsonl", SAMPLES)
    row = json.loads(path.read_text().splitlines()[0])
    assert list(row) == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
    assert row["data_source"] == "llm_simulator" and row["prompt"] == [{"role": "user", "content": "q “1”"}]
    assert row["reward_model"] == {"style": "rule", "ground_truth": SAMPLES[0].response}
    assert read_sft_samples(path) == SAMPLES


def test_parquet_and_rows_without_names(tmp_path):
    import pandas

    row = {"prompt": [{"role": "user", "content": "q"}], "reward_model": {"style": "rule", "ground_truth": "a"}}
    rows = [{**row, "extra_info": {"split": "train", "index": 4}}]
    pandas.DataFrame(rows).to_parquet(tmp_path / "cot.parquet")
    assert read_sft_samples(tmp_path / "cot.parquet") == [SftSample("q", "a", "train/4", "")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": [{"role"', "row 2"),
        ("[]", "row 2: no prompt"),
        ('{"prompt": [], "reward_model": {"ground_truth": "a"}}', "row 2: no prompt"),
        ('{"prompt": [{"role": "system", "content": "q"}], "reward_model": {"ground_truth": "a"}}', "one user message"),
        ('{"prompt": [{"role": "user", "content": 3}], "reward_model": {"ground_truth": "a"}}', "must be texts"),
    ],
)
def test_damaged_files_are_named(line, message, tmp_path):
    path = write_sft_samples(tmp_path / "sft.jsonl", SAMPLES[:1])
    path.write_text(path.read_text() + line)
    with pytest.raises(UserError, match=message) as error:
        read_sft_samples(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.jsonl is missing"):
        read_sft_samples(tmp_path / "nothing.jsonl")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"broken\.parquet"):
        read_sft_samples(tmp_path / "broken.parquet")


def test_the_documented_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(KEY_NAME, SECRET)
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).resolve().parent.parent / "docs" / "your_own_data.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0]
    lit = {"name": "lamp (ID: 2)", "uuid": 2, "type": "Lamp", "properties": {"isOn": True}, "contains": []}
    with chat_server(lambda *_: reply(say(modified=[lit], removed=[], score={}), reasoning="It is a lamp. ")) as server:
        exec(code.replace("http://localhost:8000/v1", server.url), {})
    (sample,) = read_sft_samples("sft.jsonl")
    assert sample.response.startswith("It is a lamp. Thinking.") and sample.case_id == "cabin/0"
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["kept"] == 1
