"""Train the model that ships on drawn worlds: the tower, then two courses of questions.

command:   torchrun --nproc-per-node 2 recipes/tiny.py --out OUT --tokenizer FOLDER
               --course whole --steps 1650 --compile [--footage CLIPS.npz]
           then python recipes/tiny.py --out MORE --tokenizer FOLDER --start OUT/model
               --course finish --steps 600 --rate 1.3e-3 --hold 0.35 --warmup 40 --seed 2027
               --compile [--footage CLIPS.npz]
           `--minutes N` stops and saves; the same command again goes on where it stopped
hardware:  whole: 2 H200, about 17 minutes; finish: 1 H200, 4 minutes; one GPU or a CPU will do
result:    whole teaches the tower to name what it sees, freezes it and teaches projector,
           language model and transfer modules all tasks; finish takes a model that knows them
           through more questions a video, then longer videos. Each gives OUT/model, a
           checkpoint folder, and the logs of its stages (tower.jsonl, learner.jsonl).
           The tower that ships had 1,900 steps on one GPU, then 1,300 on two (--tower WEIGHTS
           --tower-steps 1300 --tower-rate 7e-4); measured in
           benchmarks/results/tiny_training_h200x2_2026-11-22.md
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

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
from timeviper.synth.canvas import degrade
from timeviper.synth.catalogue import things
from timeviper.synth.draw import Painter, atlas_tensor
from timeviper.synth.footage import Footage, load_frames
from timeviper.synth.sample import Setting, sample_worlds
from timeviper.synth.world import Change, Worlds
from timeviper.training.courses import COURSES
from timeviper.training.distributed import Group, join
from timeviper.training.episodes import EpisodeMaker, Episodes, Sharing
from timeviper.training.loop import LoopConfig, Outcome, Report, train
from timeviper.training.naming import Namer, Seen
from timeviper.training.objective import accuracy_by_task, answer_loss
from timeviper.training.optimizer import OptimizerConfig
from timeviper.training.pixels import seen_frames
from timeviper.training.source import Steps
from timeviper.weights.loader import load_model
from timeviper.weights.native import save_model

# Worlds of evaluation use other seeds (see timeviper.evaluation.synthreel).
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
        spoil: `degrade`, compiled or not.
        stop_at: value of `time.monotonic()` when the time is over.
    """

    args: argparse.Namespace
    group: Group
    atlas: Tensor
    footage: Footage | None
    stop_at: float
    spoil: Callable[[Tensor, Generator], Tensor] = degrade

    @property
    def clips(self) -> int:
        """Number of footage clips."""
        return 0 if self.footage is None else len(self.footage)

    def painter(self, worlds: Worlds) -> Painter:
        """Worlds ready to draw."""
        return Painter.of(worlds, self.atlas, self.footage)

    def frames(
        self, painter: Painter, index: Tensor, seconds: Tensor, *, size: int, chance: Generator
    ) -> Iterator[Tensor]:
        """Moments of worlds as the tower would see them of a file."""
        return seen_frames(painter, index, seconds, size=size, generator=chance, spoil=self.spoil)


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
        painter = run.painter(worlds)
        index = torch.arange(count, device=device).repeat_interleave(TOWER_MOMENTS)
        seconds = torch.from_numpy(when).to(device).flatten()
        seen = what_is_seen(painter, index, seconds)
        chance = torch_stream(SEED, "degrade", number, device=device)
        size = model.config.vision.image_size
        frames = run.frames(painter, index, seconds, size=size, chance=chance)
        pixels = torch.cat(list(frames))
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss, measures = namer(pixels, seen)
        names = ("thing", "partner", "place_error", "change")

        def report() -> Report:
            return dict(zip(names, (round(v, 4) for v in measures.tolist()), strict=True))

        return Outcome(loss=loss, report=report)

    config = LoopConfig(
        folder=args.out / "tower",
        optimizer=OptimizerConfig(steps=args.tower_steps, learning_rate=args.tower_rate, hold=0.3),
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
        COURSES[args.course](args.frames),
        steps=total,
        seed=args.seed,
        clips=run.clips,
        sharing=Sharing(together=group.ranks, rounds=args.rounds),
    )

    looker = Looker(model, run)

    def step(batch: Episodes) -> Outcome:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            video = embed_videos(model, batch, looker(batch))
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
            warmup=args.warmup,
            hold=args.hold,
            muon=args.muon,
        ),
        stop_at=run.stop_at,
    )
    source = Steps(make=maker, total=total, workers=args.workers)
    return train(learner, source, step, config, tell=print, group=group) >= args.steps


class Looker:
    """Merged features of a step's frames; those of the last step serve again for its worlds.

    Args:
        model: its tower is frozen.
        run: drawings and footage.
    """

    def __init__(self, model: TimeViper, run: Run) -> None:
        self.model = model
        self.run = run
        self.film = -1
        self.merged = run.atlas[:0]

    @torch.no_grad()
    def __call__(self, batch: Episodes) -> Tensor:
        """Features, shape (frame, kept, hidden)."""
        if batch.film == self.film:
            return self.merged
        device, length = self.run.atlas.device, batch.mix.num_frames
        count = len(batch.worlds)
        index = torch.arange(count, device=device).repeat_interleave(length)
        # Files are sampled at their first frame of each second.
        seconds = torch.arange(length, device=device, dtype=torch.float32).repeat(count)
        painter = self.run.painter(batch.worlds)
        size = self.model.config.vision.image_size
        chance = torch_stream(SEED, "degrade-video", batch.film, device=device)
        parts = [
            self.model.projector.merge(self.model.vision(part))
            for part in self.run.frames(painter, index, seconds, size=size, chance=chance)
        ]
        self.film, self.merged = batch.film, torch.cat(parts)
        return self.merged


def embed_videos(model: TimeViper, batch: Episodes, merged: Tensor) -> Tokens:
    """Prefix, marks and the frames of all videos as the decoder reads them."""
    vision = model.projector.project(merged)
    text = model.decoder.embed(torch.from_numpy(batch.video.ids).to(merged.device))
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help="folder, see recipes/train_tokenizer.py"
    )
    parser.add_argument("--minutes", type=float, default=1e6, help="stop and save after so long")
    parser.add_argument("--tower-steps", type=int, default=2600, help="that teach the tower")
    parser.add_argument("--frames", type=int, default=16384, help="of each process in a step")
    parser.add_argument("--steps", type=int, default=3300, help="of the course")
    parser.add_argument("--warmup", type=int, default=100, help="steps until the full rate")
    parser.add_argument("--hold", type=float, default=0.5, help="share of steps at full rate")
    parser.add_argument("--rounds", type=int, default=2, help="steps that share their videos")
    parser.add_argument("--rate", type=float, default=2e-3, help="of the course")
    parser.add_argument("--footage", type=Path, help="frames of real clips, see synth.footage")
    parser.add_argument("--workers", type=int, default=10, help="that draw worlds, a process")
    parser.add_argument("--tower", type=Path, help="weights that the tower starts from")
    parser.add_argument("--start", type=Path, help="checkpoint folder to go on from")
    parser.add_argument("--seed", type=int, default=SEED, help="of the worlds of stage 2")
    parser.add_argument("--course", choices=COURSES, default="whole", help="what is taught")
    parser.add_argument("--tower-rate", type=float, default=1e-3, help="of the tower")
    parser.add_argument("--compile", action="store_true", help="compile the tower by torch")
    parser.add_argument("--no-muon", dest="muon", action="store_false", help="AdamW for all")
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
    if args.tower:
        model.vision.load_state_dict(load_file(args.tower))
    if args.start:
        model.load_state_dict(load_model(args.start, device=group.device).state_dict())
    processor = build_processor(args.tokenizer)
    run = Run(
        args=args,
        group=group,
        atlas=atlas_tensor(64, group.device),
        footage=load_frames(args.footage, group.device) if args.footage else None,
        stop_at=stop_at,
        spoil=torch.compile(degrade) if args.compile else degrade,
    )
    # A model to go on from has its tower.
    done = bool(args.start) or tower_stage(model, run)
    done = done and model_stage(model, processor, run)
    if group.main:
        save_model(model, args.out / "model", dtype=Precision.BFLOAT16)
        processor.save(args.out / "model")
        print(json.dumps({"complete": done, "seconds": round(time.monotonic() - began)}))
    group.leave()


if __name__ == "__main__":
    main()
