"""Time SigLIP so400m/14-384 on one GPU: ours in bfloat16 and FP8 against transformers.

    python -m benchmarks.tower_gpu [--out FILE] [--toy] [--compile]

Features are held to transformers in float32 first, on the same random weights; a time of features
that are wrong is not printed. Peers are timed in the same call: all 27 layers with their pooling
head, which is what a user of that class runs, and 26 layers, which is what our features need.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SiglipVisionConfig, SiglipVisionModel

from benchmarks.gpu import distance, median_ms, peak_gib, save
from timeviper.model.config import VisionConfig
from timeviper.model.presets import nano_9b, siglip_so400m
from timeviper.model.projector import Projector
from timeviper.model.vision.fp8 import quantize_tower_
from timeviper.model.vision.tower import VisionTower
from timeviper.model.vision.towers import build_tower
from timeviper.ops import backend
from timeviper.processing.image import ImageConfig, prepare

# Frames a call; the first is what peers get, and what is timed from bytes to tokens.
BATCHES = (128, 64, 256)
CHECKED = 4
# What the features may differ by, relative to float32, before a time is refused.
MOST = {"bfloat16": 3e-2, "fp8": 2e-1}
# Other sizes of the FP8 passes: rows and warps of a program, constants of their modules.
SWEEP = (
    ("linear_triton", {"_GELU_WARPS": 4}),
    ("linear_triton", {"_GELU_WARPS": 1}),
    ("fp8_product_triton", {"_ROWS": 2}),
    ("fp8_product_triton", {"_ROWS": 8, "_WARPS": 8}),
)
_BEGAN = time.perf_counter()


def say(*words: object) -> None:
    """Print at once, with the seconds so far: a job that is cut short has told what it knows."""
    print(f"[{time.perf_counter() - _BEGAN:5.1f}]", *words, flush=True)


def flops(config: VisionConfig, layers: int) -> float:
    """Products of a frame's layers, without embeddings and head."""
    width, patches = config.hidden_size, config.patches
    weights = 4 * width**2 + 2 * width * config.intermediate_size
    return layers * (2 * patches * weights + 4 * patches**2 * width)


def peer_model(config: VisionConfig, layers: int) -> SiglipVisionModel:
    """Transformers' tower with random weights, in float32 on the CPU."""
    torch.manual_seed(0)
    sizes = SiglipVisionConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=config.num_heads,
        image_size=config.image_size,
        patch_size=config.patch_size,
        attn_implementation="sdpa",
    )
    return SiglipVisionModel(sizes).eval().requires_grad_(requires_grad=False)


def ours(config: VisionConfig, peer: nn.Module) -> VisionTower:
    """Our tower with a peer's weights."""
    tower = build_tower(config).eval().requires_grad_(requires_grad=False)
    found = {
        name.removeprefix("vision_model.").replace("encoder.layers", "layers"): value
        for name, value in peer.state_dict().items()
    }
    tower.load_state_dict({name: found[name] for name in tower.state_dict()})
    return tower


def pictures(frames: int, side: int, device: str) -> Tensor:
    """Frames with large shapes and noise, in bytes as a decoder gives them."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(frames, 3, 12, 12, generator=generator).to(device)
    smooth = F.interpolate(coarse, (side, side), mode="bicubic")
    noise = torch.rand(smooth.shape, device=device)
    frames = (200 * smooth + 40 * noise).clamp(0, 255).to(torch.uint8)
    return frames.permute(0, 2, 3, 1).contiguous()


class Bench:
    """The towers of one run and what was measured of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.toy: bool = options.toy
        self.device = "cpu" if self.toy else "cuda"
        toy = VisionConfig(
            tower="siglip", hidden_size=64, intermediate_size=112, num_layers=3, num_heads=4,
            image_size=32, patch_size=14,
        )  # fmt: skip
        self.config = toy if self.toy else siglip_so400m()
        self.batches = (2,) if self.toy else BATCHES
        self.peer_batch = self.batches[0]
        self.image = ImageConfig(size=self.config.image_size)
        self.record: dict[str, Any] = {"speeds": {}, "features": {}}
        with torch.device(self.device):
            self.peer = peer_model(self.config, self.config.num_layers)
            exact = ours(self.config, self.peer)
        frames = prepare(pictures(CHECKED, self.config.image_size, self.device), self.image)
        self.frames = frames
        self.want = self.peer(frames, output_hidden_states=True).hidden_states[-2]
        self.tell_features("float32, ours", exact(frames), most=1e-3)
        self.peer.bfloat16()
        self.low = exact.bfloat16()
        self.fp8 = copy.deepcopy(self.low)
        say("replaced", len(quantize_tower_(self.fp8)), "layers by FP8 ones")
        merging = nano_9b().projector
        if self.toy:
            merging = replace(merging, tokens_per_frame=2)
        projector = Projector(merging, self.config.hidden_size, 4480).to(self.device).bfloat16()
        self.projector = projector.eval().requires_grad_(requires_grad=False)

    def tell_features(self, name: str, got: Tensor, *, most: float) -> None:
        """Error and cosine of features against transformers in float32.

        Raises:
            SystemExit: they are wrong.
        """
        error = distance(got, self.want)
        cosine = F.cosine_similarity(got.double(), self.want.double(), dim=-1)
        told = {"error": error, "cosine": float(cosine.mean()), "least": float(cosine.min())}
        self.record["features"][name] = told
        say(f"features {name:24s}", *(f"{key} {value:.6f}" for key, value in told.items()))
        if not error < most:
            raise SystemExit(f"{name}: features are off by {error}, at most {most} is right")

    def time(self, name: str, run: Callable[[], object], frames: int, layers: int) -> float:
        """Frames a second of a call."""
        ms = 1.0 if self.toy else median_ms(run, rounds=6, warmup=3)
        if self.toy:
            run()
        rate = frames / ms * 1e3
        rates = rate * flops(self.config, layers) / 1e12
        self.record["speeds"][name] = {"ms": ms, "frames_s": rate, "tflop_s": rates}
        say(f"{name:44s} {ms:8.2f} ms {rate:7.0f} frames/s {rates:5.0f} TF/s")
        return rate

    def tower(self, name: str, tower: VisionTower) -> None:
        """Check a tower, then time it alone, and from bytes to the decoder's tokens."""
        self.tell_features(name, tower(self.frames), most=MOST[name])
        for batch in self.batches:
            pixels = self.pixels(batch)
            self.time(f"{name}, {batch} frames", lambda: tower(pixels), batch, self.used)  # noqa: B023
            if batch == self.peer_batch:
                raw = pictures(batch, self.config.image_size, self.device)
                self.time(f"{name}, bytes to tokens", self.whole(tower, raw), batch, self.used)
        if not self.toy:
            self.record[f"peak GiB, {name}"] = peak_gib()

    def whole(self, tower: VisionTower, raw: Tensor) -> Callable[[], Tensor]:
        """From bytes on the device to tokens in the decoder's width."""
        return lambda: self.projector(tower(prepare(raw, self.image).bfloat16()))

    def variants(self) -> None:
        """What each choice of an op gains in bfloat16."""
        pixels = self.pixels(self.peer_batch)
        for op, name in (
            ("patch_attention", "sdpa"),
            ("linear_gelu", "torch"),
            ("add_layer_norm", "torch"),
        ):
            with backend.override(op, name):
                what = f"bfloat16 with {op} {name}"
                self.time(what, lambda: self.low(pixels), self.peer_batch, self.used)

    def sweep(self) -> None:
        """Other ways to spread the passes of FP8: rows at once, walks, warps of a program."""
        pixels = self.pixels(self.peer_batch)
        for module, sizes in SWEEP:
            kernels = import_module(f"timeviper.ops.{module}")
            before = {name: getattr(kernels, name) for name in sizes}
            vars(kernels).update(sizes)
            self.time(f"fp8 with {sizes}", lambda: self.fp8(pixels), len(pixels), self.used)
            vars(kernels).update(before)

    def peers(self, *, compiled: bool) -> None:
        """Transformers on the same weights, whole and without the layer that is not needed."""
        got = self.peer(self.frames.bfloat16(), output_hidden_states=True).hidden_states[-2]
        self.tell_features("transformers bfloat16", got, most=MOST["bfloat16"])
        pixels = self.pixels(self.peer_batch).bfloat16()
        for layers in (self.config.num_layers, self.used):
            with torch.device(self.device):
                model = peer_model(self.config, layers).bfloat16()
            runs = {"eager": model, "compiled": torch.compile(model) if compiled else None}
            for how, run in runs.items():
                if run is not None:
                    self.time(
                        f"transformers {how}, {layers} layers",
                        lambda: run(pixels).last_hidden_state,  # noqa: B023
                        self.peer_batch,
                        layers,
                    )

    def profile(self) -> None:
        """The kernels that take the most time, of one call from bytes to tokens."""
        raw = pictures(self.peer_batch, self.config.image_size, self.device)
        for name, tower in (("bfloat16", self.low), ("fp8", self.fp8)):
            with torch.profiler.profile() as found:
                self.whole(tower, raw)()
            events = [e for e in found.key_averages() if e.device_type.name == "CUDA"]
            events.sort(key=lambda e: -e.self_device_time_total)
            total = sum(e.self_device_time_total for e in events)
            say(f"kernels of {name}: {total / 1e3:.1f} ms")
            rows = [(e.key[:90], e.count, e.self_device_time_total / 1e3) for e in events[:14]]
            self.record[f"kernels {name}"] = rows
            for key, count, ms in rows:
                say(f"  {ms:8.2f} ms {count:4d} x {key}")

    @property
    def used(self) -> int:
        """Layers that our features need."""
        return self.config.used_layers

    def pixels(self, batch: int) -> Tensor:
        """Normalised frames in bfloat16."""
        raw = pictures(batch, self.config.image_size, self.device)
        return prepare(raw, self.image).bfloat16()


@contextmanager
def emulated(wanted: bool) -> Iterator[None]:
    """FP8 products in plain torch, where a machine has none."""
    if not wanted:
        yield
        return
    with backend.override("fp8_product", "emulated"), backend.override("fp8_linear", "emulated"):
        yield


def main() -> None:
    """Check, time, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write one JSON object here")
    parser.add_argument("--toy", action="store_true", help="tiny sizes on the CPU, to try it out")
    parser.add_argument("--compile", action="store_true", help="the compiled peers too")
    options = parser.parse_args()
    # The oracle's convolution would take it by default.
    torch.backends.cudnn.allow_tf32 = False
    with torch.inference_mode(), emulated(options.toy):
        bench = Bench(options)
        try:
            bench.tower("bfloat16", bench.low)
            bench.peers(compiled=options.compile)
            bench.tower("fp8", bench.fp8)
            bench.variants()
        finally:
            save(bench.record, options.out)
        # What explains the figures; what cuts a job short here loses none of them.
        bench.profile()
        if not options.toy:
            bench.sweep()
        save(bench.record, options.out)


if __name__ == "__main__":
    main()
