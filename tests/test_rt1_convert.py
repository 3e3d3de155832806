"""Both public formats of RT-1, written here by other libraries, and what happens to damaged parts of them."""

import io
import json

import av
import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from PIL import Image
from tensorboard.summary.writer.record_writer import RecordWriter

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.rt1_convert import convert_rt1
from rlvr_lib.worlds.rt1_lerobot import SEVEN, thirteen
from rlvr_lib.worlds.rt1_rlds import ACTION_PARTS, parse_example
from rlvr_lib.worlds.video_episodes import EpisodeSet, load_episode

SIZE = (32, 40)


def example_class():
    """tf.train.Example, declared to the protobuf library."""
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="toy", syntax="proto3")

    def message(name, *fields):
        declared = file.message_type.add(name=name)
        for number, (field, label, type_, type_name) in enumerate(fields, start=1):
            declared.field.add(name=field, number=number, label=label, type=type_, type_name=type_name)
        return declared

    message("BytesList", ("value", kind.LABEL_REPEATED, kind.TYPE_BYTES, None))
    message("FloatList", ("value", kind.LABEL_REPEATED, kind.TYPE_FLOAT, None))
    message("Int64List", ("value", kind.LABEL_REPEATED, kind.TYPE_INT64, None))
    lists = [
        (name, kind.LABEL_OPTIONAL, kind.TYPE_MESSAGE, f".toy.{name}")
        for name in ("BytesList", "FloatList", "Int64List")
    ]
    message("Feature", *lists)
    features = message("Features", ("feature", kind.LABEL_REPEATED, kind.TYPE_MESSAGE, ".toy.Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=kind.LABEL_OPTIONAL, type=kind.TYPE_STRING)
    entry.field.add(name="value", number=2, label=kind.LABEL_OPTIONAL, type=kind.TYPE_MESSAGE, type_name=".toy.Feature")
    message("Example", ("features", kind.LABEL_OPTIONAL, kind.TYPE_MESSAGE, ".toy.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("toy.Example"))


EXAMPLE = example_class()


def actions(steps: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    parts = {name: rng.normal(size=(steps, width)).astype(np.float32) for name, width in ACTION_PARTS.items()}
    parts["terminate_episode"] = np.tile(np.array([0, 1, 0]), (steps, 1))
    return parts


def rlds_record(steps: int, seed: int) -> bytes:
    made = EXAMPLE()
    fields = made.features.feature
    for step in range(steps):
        buffer = io.BytesIO()
        Image.fromarray(np.full((*SIZE, 3), 40 * step + seed, dtype=np.uint8)).save(buffer, "JPEG", quality=95)
        fields["steps/observation/image"].BytesList.value.append(buffer.getvalue())
        fields["steps/observation/natural_language_instruction"].BytesList.value.append(b"open top drawer")
    for name, values in actions(steps, seed).items():
        if name == "terminate_episode":
            fields[f"steps/action/{name}"].Int64List.value.extend(values.ravel().tolist())
        else:
            fields[f"steps/action/{name}"].FloatList.value.extend(values.ravel().tolist())
    return made.SerializeToString()


def write_shard(path, records) -> None:
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for record in records:
            writer.write(record)


def test_rlds_episodes(tmp_path):
    source = tmp_path / "rlds"
    source.mkdir()
    write_shard(source / "fractal-train.tfrecord-00000-of-00002", [rlds_record(3, 0), rlds_record(4, 1)])
    write_shard(source / "fractal-train.tfrecord-00001-of-00002", [rlds_record(2, 2)])
    facts = convert_rt1(source, tmp_path / "out", size=SIZE)
    assert facts["episodes"] == 3 and facts["format"] == "rlds" and not facts["damaged"]
    episodes = EpisodeSet(tmp_path / "out")
    second = episodes["000001.npz"]
    assert second.frames.shape == (4, *SIZE, 3) and second.facts["instruction"] == "open top drawer"
    assert np.abs(second.frames[2].astype(int) - 81).max() <= 2
    parts = actions(4, 1)
    expected = np.concatenate([parts[name] for name in sorted(parts)], axis=1).astype(np.float32)
    assert np.array_equal(second.actions, expected) and expected.shape == (4, 13)


def test_negative_integers_and_empty_features():
    made = EXAMPLE()
    made.features.feature["whole"].Int64List.value.extend([-3, 0, 2**40])
    made.features.feature["empty"].SetInParent()
    found = parse_example(made.SerializeToString())
    assert found["whole"].tolist() == [-3, 0, 2**40] and found["empty"] == []
    with pytest.raises(UserError, match=r"no tf\.train\.Example"):
        parse_example(b"\xff\xff\xff\xff")


def test_damage_is_counted_and_the_rest_goes_on(tmp_path, capsys):
    source = tmp_path / "rlds"
    source.mkdir()
    broken = EXAMPLE.FromString(rlds_record(3, 0))
    del broken.features.feature["steps/action/world_vector"].FloatList.value[-1]
    write_shard(source / "a.tfrecord", [rlds_record(2, 0), broken.SerializeToString(), rlds_record(2, 1)])
    whole = (source / "a.tfrecord").read_bytes()
    (source / "b.tfrecord").write_bytes(whole[:-30])
    write_shard(source / "c.tfrecord", [rlds_record(2, 5)])
    facts = convert_rt1(source, tmp_path / "out", size=SIZE)
    assert facts["episodes"] == 4 and len(facts["damaged"]) == 3
    assert "world_vector should hold 3 x 3 numbers, it holds 8" in facts["damaged"]["000001.npz"]
    assert "ends within record 2" in facts["damaged"]["000005.npz"]
    assert "3 of 7 episodes could not be read" in capsys.readouterr().out
    assert EpisodeSet(tmp_path / "out").manifest["damaged"] == facts["damaged"]


def test_a_broken_run_goes_on(tmp_path):
    source = tmp_path / "rlds"
    source.mkdir()
    write_shard(source / "a.tfrecord", [rlds_record(2, seed) for seed in range(3)])
    convert_rt1(source, tmp_path / "out", most=2, size=SIZE)
    kept = (tmp_path / "out" / "000000.npz").stat().st_mtime_ns
    (tmp_path / "out" / "000001.npz").write_bytes(b"torn")
    assert convert_rt1(source, tmp_path / "out", size=SIZE)["episodes"] == 3
    assert (tmp_path / "out" / "000000.npz").stat().st_mtime_ns == kept
    assert len(load_episode(tmp_path / "out" / "000001.npz")) == 2


def test_wrong_sizes_and_empty_folders_are_named(tmp_path):
    (tmp_path / "rlds").mkdir()
    with pytest.raises(UserError, match="tfrecord"):
        convert_rt1(tmp_path / "rlds", tmp_path / "out")
    write_shard(tmp_path / "rlds" / "a.tfrecord", [rlds_record(2, 0)])
    with pytest.raises(UserError, match="32 x 40, RT-1's are 256 x 320"):
        convert_rt1(tmp_path / "rlds", tmp_path / "out")


def write_video(path, shades, fps=3) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for shade in shades:
            picture = np.full((*SIZE, 3), shade, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_table(path, episode_lengths) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [(episode, step) for episode, length in episode_lengths for step in range(length)]
    values = np.random.default_rng(0).normal(size=(len(rows), 7)).astype(np.float32)
    columns = {
        "action": values.tolist(),
        "frame_index": [step for _, step in rows],
        "episode_index": [episode for episode, _ in rows],
    }
    parquet.write_table(arrow.table(columns), path)
    return values


def write_info(folder, version, episodes, data_path, video_path) -> None:
    (folder / "meta").mkdir(parents=True)
    features = {"action": {"dtype": "float32", "shape": [7]}, "observation.images.image": {"dtype": "video"}}
    info = {"codebase_version": version, "total_episodes": episodes, "chunks_size": 1000, "fps": 3}
    info |= {"data_path": data_path, "video_path": video_path, "features": features}
    (folder / "meta" / "info.json").write_text(json.dumps(info))


def test_lerobot_version_2(tmp_path):
    source = tmp_path / "lerobot"
    write_info(
        source,
        "v2.1",
        2,
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    )
    for episode in (0, 1):
        values = write_table(source / f"data/chunk-000/episode_{episode:06d}.parquet", [(episode, 5)])
        write_video(
            source / f"videos/chunk-000/observation.images.image/episode_{episode:06d}.mp4", [30, 60, 90, 120, 150]
        )
    facts = convert_rt1(source, tmp_path / "out", size=SIZE)
    assert facts["episodes"] == 2 and facts["format"] == "lerobot"
    episode = load_episode(tmp_path / "out" / "000001.npz")
    assert np.abs(episode.frames.mean((1, 2, 3)) - [30, 60, 90, 120, 150]).max() < 4
    assert np.array_equal(episode.actions, thirteen(values)) and episode.facts["note"] == SEVEN


def test_lerobot_version_3_many_episodes_in_a_file(tmp_path):
    source, key = tmp_path / "lerobot", "videos/observation.images.image"
    write_info(
        source,
        "v3.0",
        2,
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    )
    values = write_table(source / "data/chunk-000/file-000.parquet", [(0, 3), (1, 4)])
    write_video(source / f"{key}/chunk-000/file-000.mp4", [20, 40, 60, 150, 170, 190, 210])
    rows = [
        {"episode_index": 0, "data/chunk_index": 0, "data/file_index": 0, f"{key}/chunk_index": 0}
        | {f"{key}/file_index": 0, f"{key}/from_timestamp": 0.0, f"{key}/to_timestamp": 1.0},
        {"episode_index": 1, "data/chunk_index": 0, "data/file_index": 0, f"{key}/chunk_index": 0}
        | {f"{key}/file_index": 0, f"{key}/from_timestamp": 1.0, f"{key}/to_timestamp": 7 / 3},
    ]
    (source / "meta/episodes/chunk-000").mkdir(parents=True)
    parquet.write_table(arrow.Table.from_pylist(rows), source / "meta/episodes/chunk-000/file-000.parquet")
    convert_rt1(source, tmp_path / "out", size=SIZE)
    first, second = (load_episode(tmp_path / "out" / f"00000{number}.npz") for number in (0, 1))
    assert np.abs(first.frames.mean((1, 2, 3)) - [20, 40, 60]).max() < 4
    assert np.abs(second.frames.mean((1, 2, 3)) - [150, 170, 190, 210]).max() < 4
    assert np.array_equal(second.actions, thirteen(values[3:]))


def test_seven_numbers_become_thirteen():
    rows = thirteen(np.arange(14, dtype=np.float32).reshape(2, 7))
    assert rows[0].tolist() == [0, 0, 0, 6, 3, 4, 5, 0, 1, 0, 0, 1, 2]
    assert rows[1].tolist() == [0, 0, 0, 13, 10, 11, 12, 1, 0, 0, 7, 8, 9]


def test_lerobot_faults_are_named(tmp_path):
    source = tmp_path / "lerobot"
    (source / "meta").mkdir(parents=True)
    with pytest.raises(UserError, match=r"info\.json is missing"):
        convert_rt1(source, tmp_path / "out")
    (source / "meta" / "info.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        convert_rt1(source, tmp_path / "out")
