"""RT-1 from Open X-Embodiment: RLDS episodes in TFRecord files, read without tensorflow (A.1).

A record is one episode, a ``tf.train.Example`` with a flat list per step field (``steps/observation/image`` holds one
JPEG per step, ``steps/action/world_vector`` three floats per step, and so on). Action parts are joined in the
alphabetical order of their names, which gives the thirteen numbers of A.2.
"""

import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.video_episodes import Episode

ACTION_PARTS = {
    "base_displacement_vector": 2,
    "base_displacement_vertical_rotation": 1,
    "gripper_closedness_action": 1,
    "rotation_delta": 3,
    "terminate_episode": 3,
    "world_vector": 3,
}
IMAGE, INSTRUCTION = "steps/observation/image", "steps/observation/natural_language_instruction"
Value = list[bytes] | NDArray[np.float32] | NDArray[np.int64]


def rlds_files(folder: Path) -> list[Path]:
    """TFRecord shards in the order of their names; UserError when there are none."""
    files = sorted(path for path in folder.rglob("*.tfrecord*") if path.is_file() and not path.name.endswith(".json"))
    if not files:
        raise UserError(
            f"{folder} holds no .tfrecord files: give the folder of the RLDS version, e.g. fractal.../0.1.0"
        )
    return files


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a TFRecord file. A torn end or a wrong length checksum is a UserError that names the place."""
    with path.open("rb") as file:
        number = 0
        while header := file.read(12):
            if len(header) < 12 or struct.unpack("<I", header[8:])[0] != _masked_crc(header[:8]):
                raise UserError(f"{path}: record {number} has a damaged header; fetch the file again")
            length = struct.unpack("<Q", header[:8])[0]
            data = file.read(length)
            if len(data) < length or len(file.read(4)) < 4:
                raise UserError(f"{path}: ends within record {number}; fetch the file again")
            yield data
            number += 1


def _masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and shifted as TFRecord wants it. Only lengths are checked: a picture would take seconds."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_rlds_episode(record: bytes, place: str) -> Episode:
    """One record as an episode; ``place`` names it in errors."""
    features = parse_example(record)
    pictures = features.get(IMAGE)
    if not isinstance(pictures, list) or not pictures:
        raise UserError(f"{place}: no {IMAGE}; it holds {', '.join(sorted(features))[:200]}")
    frames = np.stack([_picture(data, place) for data in pictures])
    parts = [_action_part(features, name, width, len(frames), place) for name, width in sorted(ACTION_PARTS.items())]
    told = features.get(INSTRUCTION)
    instruction = told[0].decode("utf-8", "replace") if isinstance(told, list) and told else ""
    return Episode(frames, np.concatenate(parts, axis=1), {"source": "rlds", "instruction": instruction})


def _picture(data: bytes, place: str) -> NDArray[np.uint8]:
    try:
        return np.asarray(Image.open(BytesIO(data)).convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{place}: a picture cannot be read ({type(error).__name__})") from None


def _action_part(features: dict[str, Value], name: str, width: int, steps: int, place: str) -> NDArray[np.float32]:
    values = features.get(f"steps/action/{name}")
    if values is None or len(values) != steps * width:
        found = "nothing" if values is None else f"{len(values)} numbers"
        raise UserError(f"{place}: steps/action/{name} should hold {steps} x {width} numbers, it holds {found}")
    return np.asarray(values, dtype=np.float32).reshape(steps, width)


def parse_example(record: bytes) -> dict[str, Value]:
    """A serialised ``tf.train.Example`` as name -> bytes, floats or integers. UserError when it is none."""
    found: dict[str, Value] = {}
    try:
        for _, features in _fields(memoryview(record)):
            for _, entry in _fields(features):
                parts = dict(_fields(entry))
                found[bytes(parts[1]).decode()] = _value(parts.get(2, memoryview(b"")))
    except (IndexError, KeyError, ValueError, TypeError, struct.error) as error:
        raise UserError(f"a record is no tf.train.Example ({type(error).__name__}: {error})") from None
    return found


def _value(feature: memoryview) -> Value:
    """One feature: field 1 a list of bytes, 2 of floats, 3 of integers; numbers packed or one by one."""
    for kind, content in _fields(feature):
        items = [item for _, item in _fields(content)]
        if kind == 1:
            return [bytes(item) for item in items]
        if kind == 2:
            return np.frombuffer(b"".join(bytes(item) for item in items), dtype="<f4").astype(np.float32)
        whole = [number for item in items for number in ([item] if isinstance(item, int) else _varints(item))]
        return np.array(whole, dtype=np.uint64).astype(np.int64)
    return []


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """(number, content) of the fields of a protocol-buffer message; a varint comes as an int, the rest as bytes."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            content, place = _varint(data, place)
            yield number, content
            continue
        if kind == 2:
            length, place = _varint(data, place)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if place + length > len(data):
            raise ValueError("a field reaches beyond its message")
        yield number, data[place : place + length]
        place += length


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
        if shift > 63:
            raise ValueError("a varint is too long")


def _varints(data: memoryview) -> Iterator[int]:
    place = 0
    while place < len(data):
        value, place = _varint(data, place)
        yield value
