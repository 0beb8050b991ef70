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
from pathlib import Path

import numpy as np
import torch
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
from timeviper.synth.draw import Painter, atlas_tensor
from timeviper.synth.objects import load_names
from timeviper.synth.world import Worlds, sample_worlds
from timeviper.training.distributed import Group, join
from timeviper.training.episodes import EpisodeMaker, Episodes, Mix, Phase
from timeviper.training.loop import LoopConfig, Outcome, Report, train
from timeviper.training.naming import Namer
from timeviper.training.objective import accuracy_by_task, answer_loss
from timeviper.training.optimizer import OptimizerConfig
from timeviper.training.pixels import seen_frames
from timeviper.training.source import Steps
from timeviper.weights.native import save_model

# Worlds of evaluation use other seeds (see recipes/evaluate_tiny.py).
SEED = 2026
# Moments of each world that a step of stage 1 looks at.
TOWER_MOMENTS = 8


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
        Phase(until=0.08, mixes=(mix(16, 1, "off"), mix(32, 2, "off"))),
        Phase(until=0.25, mixes=(mix(64, 4, "off"), mix(128, 6, "off"))),
        Phase(until=0.5, mixes=(mix(128, 6, "off"), mix(256, 10, "off"), mix(128, 2, "on"))),
        Phase(
            until=1.01,
            mixes=(
                mix(64, 2, "on", 0.7),
                mix(128, 3, "on", 0.7),
                mix(256, 4, "on", 1.0),
                mix(512, 4, "on", 1.0),
                mix(1024, 4, "on", 0.5),
                mix(256, 10, "off", 0.5),
                mix(512, 14, "off", 0.6),
                mix(1024, 24, "off", 0.5),
            ),
        ),
    )


def tower_stage(model: TimeViper, group: Group, args: argparse.Namespace, stop_at: float) -> bool:
    """Teach the tower names; true when complete."""
    device = group.device
    namer = Namer(
        model.vision,
        tokens_per_frame=model.config.tokens_per_frame,
        merge_heads=model.config.projector.merge_heads,
        names=len(load_names()) + 1,
    ).to(device)
    init_linear(namer.classifier, 0.02, torch_stream(SEED, "classifier", device=device))
    atlas = atlas_tensor(48, device)
    count = max(1, args.frames // (4 * TOWER_MOMENTS))

    def make(step: int) -> tuple[int, Worlds, np.ndarray]:
        rng = stream(SEED, "tower", step)
        worlds = sample_worlds(rng, count, 16)
        return step, worlds, rng.uniform(0, 16, (count, TOWER_MOMENTS)).astype(np.float32)

    def step(batch: tuple[int, Worlds, np.ndarray]) -> Outcome:
        number, worlds, moments = batch
        painter = Painter.of(worlds, atlas)
        index = torch.arange(count, device=device).repeat_interleave(TOWER_MOMENTS)
        seconds = torch.from_numpy(moments).to(device).flatten()
        event, shown = painter.showing(index, seconds)
        names = painter.worlds["object_id"][index, event]
        names = torch.where(shown, names, len(load_names()))
        chance = torch_stream(SEED, "degrade", number, device=device)
        size = model.config.vision.image_size
        pixels = torch.cat(list(seen_frames(painter, index, seconds, size=size, generator=chance)))
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss, right = namer(pixels, names)
        return Outcome(loss=loss, report=lambda: {"named": round(right.item(), 4)})

    config = LoopConfig(
        folder=args.out / "tower",
        optimizer=OptimizerConfig(steps=args.tower_steps, learning_rate=1e-3, hold=0.3),
        log_every=50,
        stop_at=stop_at,
    )
    source = Steps(make=make, total=args.tower_steps * group.ranks, workers=args.workers)
    return train(namer, source, step, config, tell=print, group=group) >= args.tower_steps


def model_stage(
    model: TimeViper,
    processor: Processor,
    group: Group,
    args: argparse.Namespace,
    stop_at: float,
) -> bool:
    """Teach questions about whole videos; true when complete."""
    device = group.device
    model.vision.requires_grad_(requires_grad=False)
    learner = nn.ModuleDict({"projector": model.projector, "decoder": model.decoder})
    plans = {"off": TransferPlan(), "on": model.decoder.config.transfer}
    atlas = atlas_tensor(48, device)
    total = args.steps * group.ranks
    maker = EpisodeMaker(processor, phases(args.frames), steps=total, seed=SEED)

    def step(batch: Episodes) -> Outcome:
        chance = torch_stream(SEED, "degrade-video", batch.step, device=device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            video = embed_videos(model, batch, atlas, chance)
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
            steps=args.steps, learning_rate=args.rate, warmup=150, hold=0.45, muon=args.muon
        ),
        stop_at=stop_at,
    )
    source = Steps(make=maker, total=total, workers=args.workers)
    return train(learner, source, step, config, tell=print, group=group) >= args.steps


def embed_videos(
    model: TimeViper, batch: Episodes, atlas: Tensor, chance: torch.Generator
) -> Tokens:
    """Prefix, marks and the frames of all videos as the decoder reads them."""
    device = atlas.device
    count, length = len(batch.worlds), batch.mix.num_frames
    index = torch.arange(count, device=device).repeat_interleave(length)
    # Files are sampled at their first frame of each second.
    seconds = torch.arange(length, device=device, dtype=torch.float32).repeat(count)
    painter = Painter.of(batch.worlds, atlas)
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
    parser.add_argument("--workers", type=int, default=10)
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
    processor = build_processor(args.tokenizer)
    done = tower_stage(model, group, args, stop_at)
    done = done and model_stage(model, processor, group, args, stop_at)
    if group.main:
        save_model(model, args.out / "model", dtype=Precision.BFLOAT16)
        processor.save(args.out / "model")
        print(json.dumps({"complete": done, "seconds": round(time.monotonic() - began)}))
    group.leave()


if __name__ == "__main__":
    main()
