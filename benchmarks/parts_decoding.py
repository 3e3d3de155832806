"""What turns ids into rewards at the paper's size, part by part and in several ways; made for a GPU, random weights.

    python benchmarks/parts_decoding.py [--tiny] [--seconds 75] [--only NAME ...] [--out FILE]

Images a second and TFLOP/s of decoding, encoding and LPIPS-VGG for the plain modules under autocast and for the ways
of `rlvr_lib.tokens.frozen`; how far each is from float32; what an iteration then takes. TFLOP/s count the operations of
the plain way, also where another needs fewer. Variants come in the order of their use; after ``--seconds`` the rest is
left out. A variant that fails is reported and the next one runs.
"""

import argparse
import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from paper_step import TINY, lpips_vgg
from side_by_side import PeakMemory, surroundings
from torch import Tensor

from rlvr_lib.artifacts import atomic_write_text
from rlvr_lib.compiled import cudnn
from rlvr_lib.profile import load_profile
from rlvr_lib.tokens.frozen import freeze_for_inference
from rlvr_lib.training.video import new_tokenizer

RESULTS = Path(__file__).parent / "results"
GFLOP = {"frame encode": 272.2, "frame decode": 101.1, "context decode": 569.7, "conditional decode": 581.8}
GFLOP |= {"conditional encode": 281.7, "LPIPS": 50.1}  # of one image (cost model I.5)
ITERATION = {  # images of an iteration: 128 prompts x 16 responses, single-step one frame and multi-step seven each
    "single_step": {"frame encode": 512, "frame decode": 2048, "LPIPS": 2176},
    "multi_step": {"conditional encode": 256, "conditional decode": 14336, "LPIPS": 15232},
}


class Bench:
    """The tokenizers, their inputs, and one row per variant."""

    def __init__(self, tiny: bool, seconds: float, only: list[str] | None):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tiny, self.only, self.deadline = tiny, only, time.monotonic() + seconds
        profile = load_profile("paper", overrides=TINY if tiny else "")
        torch.manual_seed(0)
        self.frame, self.multi = (
            new_tokenizer(profile, kind).to(self.device).eval().requires_grad_(False)
            for kind in ("frame", "compressive")
        )
        for decoder in (self.frame.decoder, self.multi.context_decoder, self.multi.frame_decoder):
            decoder.last[-1].bias.data.fill_(0.5)  # random weights answer around zero: not to be clamped away
        self.rows: dict[str, dict[str, Any]] = {}
        self.pictures = torch.rand(64 if not tiny else 4, 3, *self.multi.size, device=self.device)

    def codes(self, count: int, tokens: int, which: Any) -> Tensor:
        return torch.randint(which.quantiser.size, (count, tokens), device=self.device)

    def row(self, name: str, images: int, gflop: float, run: Callable[[], Any], **facts: Any) -> None:
        """Seconds to the first result (compiling included), then images a second of the best of three."""
        if self.only and not any(part in name for part in self.only):
            return
        if time.monotonic() > self.deadline:
            print(f"{name}: left out, out of time", flush=True)
            return
        try:
            with torch.no_grad(), PeakMemory(self.device) as memory:
                first, best = self._seconds(run), min(self._seconds(run) for _ in range(1 if self.tiny else 3))
            facts = {"images_per_second": round(images / best, 1), "tflops": round(images / best * gflop / 1e3, 1),
                     "first_seconds": round(first, 1), "peak_gib": round(memory.mib / 1024, 2), **facts}  # fmt: skip
            facts |= {key: value() for key, value in facts.items() if callable(value)}
        except Exception:
            facts = {"failed": traceback.format_exc().strip().splitlines()[-6:]}
        self.rows[name] = facts
        print(name, json.dumps(facts), flush=True)
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _seconds(self, run: Callable[[], Any]) -> float:
        self._wait()
        start = time.perf_counter()
        run()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def autocast(self, how: str) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=how == "plain" and self.device == "cuda")


@torch.no_grad()
def exact(bench: Bench) -> dict[str, Tensor]:
    """Two frames in float32: codes and pictures of both tokenizers, which the variants are compared with."""
    frames = bench.pictures[:2]
    with cudnn(allow_tf32=False):
        context, codes = bench.multi.encode(frames[:1], frames[None])
        index = bench.frame.encode(frames)
        feature = bench.multi.context_feature(context).repeat_interleave(2, 0)
        pictures = bench.multi.decode_frames(feature, codes[0])
        return {
            "context": context,
            "codes": codes,
            "index": index,
            "multi": pictures,
            "frame": bench.frame.decode(index),
        }


def conditional(bench: Bench, truth: dict[str, Tensor], how: str, chunk: int, tail: int = 8) -> None:
    """Decoding predicted frames, 112 of them (one group) or one chunk if that is more."""
    total = (112 if not bench.tiny else 4) // chunk * chunk or chunk
    model = freeze_for_inference(bench.multi, bench.device, how)
    if how != "plain":
        model.frame_decoder.tail = tail
    codes = bench.codes(total, model.tokens, model)

    def feature(count: int) -> Tensor:
        return model.context_feature(truth["context"]).expand(count, -1, -1, -1)

    def run() -> None:
        with bench.autocast(how):
            for part in codes.split(chunk):
                model.decode_frames(feature(len(part)), part)

    def error() -> dict[str, float]:
        with torch.no_grad(), bench.autocast(how):
            found = model.decode_frames(feature(2), truth["codes"][0])
        return _error(found, truth["multi"])

    name = f"conditional decode, {how}, {chunk} at once" + (f", tail {tail}" if how != "plain" else "")
    bench.row(name, total, GFLOP["conditional decode"], run, error=error)


def _error(found: Tensor, expected: Tensor) -> dict[str, float]:
    difference = (found - expected).abs()
    return {"mean": round(float(difference.mean()), 6), "max": round(float(difference.max()), 5)}


def encoding(bench: Bench, truth: dict[str, Tensor], how: str) -> None:
    """Prompts: per-frame codes, and context with one frame (an image each)."""
    frame, multi = (freeze_for_inference(part, bench.device, how) for part in (bench.frame, bench.multi))
    pictures = bench.pictures[:32]

    def run_frame() -> Tensor:
        with bench.autocast(how):
            return frame.encode(pictures)

    def run_multi() -> Any:
        with bench.autocast(how):
            return multi.encode(pictures[::2], pictures[1::2, None])

    def equal(pair: bool) -> float:
        with torch.no_grad(), bench.autocast(how):
            frames = pictures[:2]
            if not pair:
                return round(float((frame.encode(frames) == truth["index"]).float().mean()), 4)
            return round(float((multi.encode(frames[:1], frames[None])[1] == truth["codes"]).float().mean()), 4)

    bench.row(f"frame encode, {how}", len(pictures), GFLOP["frame encode"], run_frame, equal=lambda: equal(False))
    bench.row(f"conditional encode, {how}", len(pictures), 274.5, run_multi, equal=lambda: equal(True))


def decoding(bench: Bench, truth: dict[str, Tensor], how: str) -> None:
    """The per-frame decoder."""
    frame = freeze_for_inference(bench.frame, bench.device, how)
    index = bench.codes(32, frame.tokens, frame)

    def run(given: Tensor = index) -> Tensor:
        with torch.no_grad(), bench.autocast(how):
            return frame.decode(given)

    error = {"error": lambda: _error(run(truth["index"]), truth["frame"])}
    bench.row(f"frame decode, {how}", len(index), GFLOP["frame decode"], run, **error)


def lpips(bench: Bench) -> None:
    """A group of 112 predictions and its 7 truths, for rewards; the same in float32, as tables have it, 8 at a time."""
    distance = lpips_vgg(bench.device, bench.tiny)
    group = 16 if not bench.tiny else 2
    truth = torch.rand(1, 7, *bench.pictures.shape[1:], device=bench.device)
    predictions = (truth[:, None] + 0.1 * torch.rand(1, group, *truth.shape[1:], device=bench.device)).clamp(0, 1)

    def error() -> dict[str, float]:
        with torch.no_grad():
            return _error(distance.to_group(truth, predictions)[0, 0], distance(truth[0], predictions[0, 0]))

    images = 7 * (group + 1)
    bench.row("LPIPS, rewards", images, GFLOP["LPIPS"], lambda: distance.to_group(truth, predictions), error=error)
    bench.row("LPIPS, float32", 14, GFLOP["LPIPS"], lambda: distance(truth[0], predictions[0, 0]))


def iterations(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Seconds of an iteration's parts at the best measured rate of each."""
    found: dict[str, Any] = {}
    for kind, images in ITERATION.items():
        parts = {}
        for part, count in images.items():
            rates = [row.get("images_per_second", 0) for name, row in rows.items() if name.startswith(part)]
            parts[part] = round(count / max(rates), 2) if rates and max(rates) else None
        found[kind] = parts
    return found


def measure(bench: Bench) -> None:
    truth = exact(bench)
    chunk = 28 if not bench.tiny else 2
    conditional(bench, truth, "fused", chunk)
    lpips(bench)
    conditional(bench, truth, "eager", chunk)
    conditional(bench, truth, "plain", chunk if bench.tiny else 16)
    decoding(bench, truth, "fused")
    encoding(bench, truth, "fused")
    for tail in (28, 4) if not bench.tiny else (1,):
        conditional(bench, truth, "fused", chunk, tail)
    decoding(bench, truth, "plain")
    encoding(bench, truth, "plain")
    if bench.device == "cuda":  # a CPU's compiler takes minutes
        conditional(bench, truth, "whole", chunk)
    for other in (56, 16, 112) if not bench.tiny else (4,):
        conditional(bench, truth, "fused", other)


def main(arguments: list[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a size for tests; the figures mean nothing")
    parser.add_argument("--seconds", type=float, default=75.0, help="no variant begins later than this")
    parser.add_argument("--only", nargs="+", help="variants whose name contains one of these")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args(arguments)
    if not given.tiny and not torch.cuda.is_available():
        parser.error("the paper's size wants a GPU; --tiny runs the same code at a size for tests")
    load, bench = os.getloadavg()[0], Bench(given.tiny, given.seconds, given.only)
    measure(bench)
    found = {"seconds_per_iteration": iterations(bench.rows), "variants": bench.rows, **surroundings(3, load)}
    print("seconds per iteration", json.dumps(found["seconds_per_iteration"]), flush=True)
    out = given.out or RESULTS / "parts_decoding_cuda.json"
    atomic_write_text(out, json.dumps(found, indent=1) + "\n")
    return out


if __name__ == "__main__":
    main()
