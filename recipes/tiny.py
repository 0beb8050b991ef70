"""Train the model that ships on drawn worlds, in two stages, resumable.

command:   python recipes/tiny.py --out OUT --tokenizer FOLDER --minutes 30
           (several GPUs: torchrun --nproc-per-node N recipes/tiny.py ...)
hardware:  1 H100, about 25 minutes; restart the same command to go on where it stopped
result:    OUT/model, a checkpoint folder; OUT/tower.jsonl and OUT/model.jsonl, the logs.
           Stage 1 teaches the tower to name what it sees; stage 2 freezes it and teaches
           projector, language model and transfer modules on questions about whole videos.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from timeviper.synth.footage import Footage, load_frames
from torch import Tensor, nn

from timeviper.core.layout import SpanKind
from timeviper.core.precision import Precision
from timeviper.core.seeding import stream, torch_stream
from timeviper.model.config import TransferPlan
from timeviper.model.decoder import with_plan
from timeviper.model.init import init_decoder, init_linear
from timeviper.model.presets import tiny_transv
from timeviper.model.tokens import Tokens, on_device
from timeviper.model.vlm import TimeViper
from timeviper.processing.image import ImageConfig, Resample
from timeviper.processing.processor import Processor, ProcessorConfig
from timeviper.processing.prompt import TimePrompt
from timeviper.processing.tokenizer import Tokenizer
from timeviper.synth.catalogue import things
from timeviper.synth.draw import Painter, atlas_tensor
from timeviper.synth.sample import Setting, sample_worlds
from timeviper.synth.world import Change, Worlds
from timeviper.training.distributed import Group, join
from timeviper.training.episodes import EpisodeMaker, Episodes, Mix, Phase
from timeviper.training.loop import LoopConfig, Outcome, Report, train
from timeviper.training.naming import Namer, Seen
from timeviper.training.objective import accuracy_by_task, answer_loss
from timeviper.training.optimizer import OptimizerConfig
from timeviper.training.pixels import seen_frames
from timeviper.training.source import Steps
from timeviper.weights.native import save_model

# Worlds of evaluation use other seeds (see recipes/evaluate_tiny.py).
SEED = 2026
# Length of the worlds of stage 1, and the moments of each that a step looks at.
TOWER_SECONDS, TOWER_MOMENTS = 24, 8


@dataclass(frozen=True, eq=False, kw_only=True)
class Run:
    """What both stages share.

    Args:
        args: the command's options.
        group: the processes that train together.
        atlas: drawings, on the device.
        footage: real clips as backgrounds, or None.
        stop_at: value of `time.monotonic()` when the time is over.
    """

    args: argparse.Namespace
    group: Group
    atlas: Tensor
    footage: Footage | None
    stop_at: float

    @property
    def clips(self) -> int:
        """Number of footage clips."""
        return 0 if self.footage is None else len(self.footage)


def phases(frames: int) -> tuple[Phase, ...]:
    """From short clips to long ones; dropping joins once the tasks are understood.

    Args:
        frames: drawn in each step, whatever the length of its videos.
    """

    def mix(num_frames: int, questions: int, plan: str, weight: float = 1.0) -> Mix:
        videos = max(1, frames // num_frames)
        return Mix(
            num_frames=num_frames, videos=videos, questions=questions, plan=plan, weight=weight
        )

    return (
        Phase(until=0.05, mixes=(mix(16, 2, "off"), mix(32, 3, "off"))),
        Phase(until=0.2, mixes=(mix(64, 5, "off"), mix(128, 8, "off"))),
        Phase(until=0.35, mixes=(mix(128, 8, "off"), mix(256, 14, "off"), mix(128, 3, "on"))),
        Phase(
            until=0.7,
            mixes=(
                mix(64, 3, "on"),
                mix(256, 6, "on"),
                mix(512, 8, "on"),
                mix(1024, 12, "on"),
                mix(128, 8, "off", 0.7),
                mix(512, 20, "off"),
                mix(1024, 32, "off"),
            ),
        ),
        Phase(
            until=1.01,
            mixes=(
                mix(64, 3, "on", 0.7),
                mix(256, 6, "on"),
                mix(1024, 12, "on", 1.5),
                mix(4096, 20, "on", 0.7),
                mix(10_240, 24, "on", 0.7),
                mix(512, 20, "off", 0.5),
                mix(4096, 64, "off", 0.5),
            ),
        ),
    )


def tower_stage(model: TimeViper, run: Run) -> bool:
    """Teach the tower what frames show; true when complete."""
    device, args, group = run.group.device, run.args, run.group
    namer = Namer(
        model.vision,
        tokens_per_frame=model.config.tokens_per_frame,
        merge_heads=model.config.projector.merge_heads,
        names=len(things()) + 1,
        changes=len(Change),
    ).to(device)
    init_linear(namer.heads, 0.02, torch_stream(SEED, "heads", device=device))
    count = max(1, args.frames // (4 * TOWER_MOMENTS))

    def make(number: int) -> tuple[int, Worlds, np.ndarray]:
        rng = stream(SEED, "tower", number)
        worlds = sample_worlds(rng, count, TOWER_SECONDS, Setting(clips=run.clips))
        return number, worlds, moments(rng, worlds)

    def step(batch: tuple[int, Worlds, np.ndarray]) -> Outcome:
        number, worlds, when = batch
        painter = Painter.of(worlds, run.atlas, run.footage)
        index = torch.arange(count, device=device).repeat_interleave(TOWER_MOMENTS)
        seconds = torch.from_numpy(when).to(device).flatten()
        seen = what_is_seen(painter, index, seconds)
        chance = torch_stream(SEED, "degrade", number, device=device)
        size = model.config.vision.image_size
        pixels = torch.cat(list(seen_frames(painter, index, seconds, size=size, generator=chance)))
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss, measures = namer(pixels, seen)
        names = ("thing", "partner", "place_error", "change")

        def report() -> Report:
            return dict(zip(names, (round(v, 4) for v in measures.tolist()), strict=True))

        return Outcome(loss=loss, report=report)

    config = LoopConfig(
        folder=args.out / "tower",
        optimizer=OptimizerConfig(steps=args.tower_steps, learning_rate=1e-3, hold=0.3),
        log_every=50,
        stop_at=run.stop_at,
    )
    source = Steps(make=make, total=args.tower_steps * group.ranks, workers=args.workers)
    return train(namer, source, step, config, tell=print, group=group) >= args.tower_steps


def moments(rng: np.random.Generator, worlds: Worlds) -> np.ndarray:
    """Seconds to look at, mostly within appearances, shape (world, TOWER_MOMENTS)."""
    shape = (len(worlds), TOWER_MOMENTS)
    anywhere = rng.uniform(0, worlds.num_frames, shape)
    events = np.maximum(1, (worlds.thing[..., 0] >= 0).sum(1))
    chosen = rng.integers(0, events[:, None], shape)
    start = np.take_along_axis(worlds.start, chosen, 1)
    end = np.take_along_axis(worlds.end, chosen, 1)
    within = start + rng.random(shape) * (end - start)
    return np.where(rng.random(shape) < 0.85, within, anywhere).astype(np.float32)


def what_is_seen(painter: Painter, index: Tensor, seconds: Tensor) -> Seen:
    """What the tower has to tell of frames."""
    truth = painter.truth(index, seconds)
    nothing = len(things())
    return Seen(
        thing=truth.thing,
        partner=truth.partner,
        geometry=truth.geometry,
        moving=(truth.thing != nothing) & (truth.partner == nothing),
        change=truth.change,
    )


def model_stage(model: TimeViper, processor: Processor, run: Run) -> bool:
    """Teach questions about whole videos; true when complete."""
    device, args, group = run.group.device, run.args, run.group
    model.vision.requires_grad_(requires_grad=False)
    learner = nn.ModuleDict({"projector": model.projector, "decoder": model.decoder})
    plans = {"off": TransferPlan(), "on": model.decoder.config.transfer}
    total = args.steps * group.ranks
    maker = EpisodeMaker(
        processor,
        phases(args.frames),
        steps=total,
        seed=SEED,
        clips=run.clips,
        together=group.ranks,
    )

    def step(batch: Episodes) -> Outcome:
        chance = torch_stream(SEED, "degrade-video", batch.step, device=device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            video = embed_videos(model, batch, run, chance)
            ids = torch.from_numpy(batch.questions.tokens.ids).to(device)
            decoder = with_plan(model.decoder, plans[batch.mix.plan])
            out = answer_loss(decoder, video, batch.questions, ids)
        tasks, right, kind = batch.questions.tasks, out.right, batch.mix

        def report() -> Report:
            found = {k: round(v, 3) for k, v in accuracy_by_task(tasks, right).items()}
            return {"frames": float(kind.num_frames), "on": float(kind.plan == "on"), **found}

        tokens = len(batch.video) + len(batch.questions.tokens)
        return Outcome(loss=out.loss, tokens=tokens, report=report)

    config = LoopConfig(
        folder=args.out / "learner",
        optimizer=OptimizerConfig(
            steps=args.steps,
            learning_rate=args.rate,
            transfer_factor=5.0,
            warmup=150,
            hold=0.5,
            muon=args.muon,
        ),
        stop_at=run.stop_at,
    )
    source = Steps(make=maker, total=total, workers=args.workers)
    return train(learner, source, step, config, tell=print, group=group) >= args.steps


def embed_videos(model: TimeViper, batch: Episodes, run: Run, chance: torch.Generator) -> Tokens:
    """Prefix, marks and the frames of all videos as the decoder reads them."""
    device = run.atlas.device
    count, length = len(batch.worlds), batch.mix.num_frames
    index = torch.arange(count, device=device).repeat_interleave(length)
    # Files are sampled at their first frame of each second.
    seconds = torch.arange(length, device=device, dtype=torch.float32).repeat(count)
    painter = Painter.of(batch.worlds, run.atlas, run.footage)
    size = model.config.vision.image_size
    merged: list[Tensor] = []
    with torch.no_grad():
        for part in seen_frames(painter, index, seconds, size=size, generator=chance):
            merged.append(model.projector.merge(model.vision(part)))
    vision = model.projector.project(torch.cat(merged))
    text = model.decoder.embed(torch.from_numpy(batch.video.ids).to(device))
    tokens = Tokens(text, batch.video.kinds, batch.video_lengths)
    places = on_device(tokens.of_kind(SpanKind.VISION), text)
    return tokens.with_hidden(text.index_copy(0, places, vision.flatten(0, 1).to(text.dtype)))


def build_processor(tokenizer: Path) -> Processor:
    """Processor of the model that ships."""
    config = tiny_transv()
    return Processor(
        Tokenizer.load(tokenizer),
        image=ImageConfig(size=config.vision.image_size, resample=Resample.BILINEAR),
        config=ProcessorConfig(
            template="tiny",
            tokens_per_frame=config.tokens_per_frame,
            time_prompt=TimePrompt.INTERLEAVED,
        ),
    )


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=1e6, help="stop and save after so long")
    parser.add_argument("--tower-steps", type=int, default=2600)
    parser.add_argument("--frames", type=int, default=16384, help="of each process in a step")
    parser.add_argument("--steps", type=int, default=3300)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--footage", type=Path, help="frames of real clips, see synth.footage")
    parser.add_argument("--workers", type=int, default=10, help="that draw worlds, a process")
    parser.add_argument("--compile", action="store_true", help="compile the tower by torch")
    parser.add_argument("--no-muon", dest="muon", action="store_false")
    parser.add_argument("--device", help="cpu or cuda; the first GPU where there is one")
    return parser.parse_args()


def main() -> None:
    """Run both stages as far as the time allows, then write the checkpoint folder."""
    began = time.monotonic()
    args = parse()
    stop_at = began + 60 * args.minutes
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.manual_seed(SEED)
    group = join(args.device)
    model = TimeViper(tiny_transv()).to(group.device)
    init_decoder(model.decoder, torch_stream(SEED, "decoder", device=group.device))
    init_linear(model.projector, 0.02, torch_stream(SEED, "projector", device=group.device))
    if args.compile:
        model.vision.compile()
    processor = build_processor(args.tokenizer)
    run = Run(
        args=args,
        group=group,
        atlas=atlas_tensor(64, group.device),
        footage=load_frames(args.footage, group.device) if args.footage else None,
        stop_at=stop_at,
    )
    done = tower_stage(model, run) and model_stage(model, processor, run)
    if group.main:
        save_model(model, args.out / "model", dtype=Precision.BFLOAT16)
        processor.save(args.out / "model")
        print(json.dumps({"complete": done, "seconds": round(time.monotonic() - began)}))
    group.leave()


if __name__ == "__main__":
    main()
