"""Test the paper's claims under control: equal parameters, data and steps on drawn worlds.

command:   PYTHONPATH=src:. python recipes/study.py run --model FOLDER --out OUT --bank BANK
           --seconds 220 --parallel 8; then `report --out OUT` writes tables and plots again
hardware:  1 GPU, shared by all processes; 4 minutes for about 20 small models
result:    OUT/study.json, OUT/study.md and plots; the numbers of docs/study.md
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from recipes import study_bank, study_compare, study_plan, study_report, study_speed
from recipes.study_models import TESTED, Bank, Batch, Learner, Variant, variants
from timeviper.core.device import pick_device
from timeviper.model.config import TransferPlan
from timeviper.model.decoder import with_plan
from timeviper.processing.processor import Processor
from timeviper.training.objective import AnswerLoss, answer_loss
from timeviper.training.optimizer import (
    OptimizerConfig,
    build_optimizers,
    clip_gradients,
    gradient_norm,
    rate_factor,
    set_rate,
)
from timeviper.weights.loader import resolve
from timeviper.weights.native import read_config

SEED = 77
# Steps until a variant's speed is measured, and for how long: kernels are built in the first ones.
SETTLE_STEPS, MEASURE_STEPS = 25, 40
# Seconds kept for evaluating what is trained when the time ends, and for the quiet measurement.
EVALUATE_SECONDS, QUIET_SECONDS = 16.0, 24.0


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Trains and evaluates variants, one after another.

    Args:
        args: the command's options.
        device: where to.
        processor: of the model whose tower saw the bank.
        plan: decides how many steps there are.
        stop_at: wall clock at which training ends.
    """

    args: argparse.Namespace
    device: torch.device
    processor: Processor
    plan: study_plan.Plan
    stop_at: float

    def run(self, item: study_plan.Item) -> dict[str, Any]:
        """Train and evaluate a variant; what its JSON holds."""
        variant = variants()[item.name]
        bank = Bank(self.args.bank, variant, self.processor, self.device)
        vision = read_config(resolve(self.args.model))
        sizes = (vision.vision.hidden_size, vision.projector.merge_heads)
        learner = Learner(variant, vision.decoder.vocab_size, sizes).to(self.device)
        learner.start(SEED + item.seed)
        began = time.time()
        losses = list(self._train(learner, bank, item))
        trained = time.time()
        found = list(self._evaluate(learner, bank, variant))
        steps, wanted = len(losses), self.plan.steps()
        return {
            "variant": item.name,
            "seed": item.seed,
            "parameters": learner.sizes(),
            "steps": steps,
            "of": wanted,
            "complete": wanted is not None and steps >= wanted,
            "train_seconds": round(trained - began, 1),
            "evaluate_seconds": round(time.time() - trained, 1),
            "losses": _thinned(losses),
            "alphas": [t.alpha.item() for t in learner.decoder.transfers.values()],  # type: ignore
            "evaluation": found,
        }

    def _train(self, learner: Learner, bank: Bank, item: study_plan.Item) -> Iterator[torch.Tensor]:
        """Losses of the steps, on the device."""
        # How many steps there are is decided while the first models learn; until then the rate
        # stays at its height, where the schedule would hold it anyway.
        config = OptimizerConfig(
            learning_rate=self.args.rate, transfer_factor=5.0, warmup=40, steps=10**9, hold=0.5
        )
        optimizers = build_optimizers(learner, config)
        parameters = list(learner.parameters())
        step, settled, told = 0, 0.0, False
        while time.time() < self.stop_at:
            wanted = self.plan.steps()
            if wanted is not None and step >= wanted:
                return
            set_rate(optimizers, rate_factor(step, replace(config, steps=wanted or 10**9)))
            batch = bank.train(step, self.args.frames, SEED + item.seed)
            loss = self._answers(learner, bank, batch, learner.decoder.config.transfer).loss
            torch.autograd.backward(loss)
            clip_gradients(parameters, gradient_norm(parameters), limit=config.clip)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            step += 1
            if step == SETTLE_STEPS or (not told and step == SETTLE_STEPS + MEASURE_STEPS):
                loss.item()
                if step == SETTLE_STEPS:
                    settled = time.time()
                else:
                    self.plan.tell(item, (time.time() - settled) / MEASURE_STEPS, steps=step)
                    told = True
            yield loss.detach()

    def _answers(
        self, learner: Learner, bank: Bank, batch: Batch, plan: TransferPlan
    ) -> AnswerLoss:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            video = learner.embed(batch, bank.seen(batch))
            ids = torch.from_numpy(batch.questions.tokens.ids).to(self.device)
            return answer_loss(with_plan(learner.decoder, plan), video, batch.questions, ids)

    @torch.no_grad()
    def _evaluate(self, learner: Learner, bank: Bank, variant: Variant) -> Iterator[dict[str, Any]]:
        """Right answers by plan, length and task."""
        for name, plan in {"own": variant.plan, **variant.extra_plans}.items():
            for frames in TESTED:
                right: Counter[str] = Counter()
                total: Counter[str] = Counter()
                for batch in bank.test(frames, max(4096, self.args.frames)):
                    flags = self._answers(learner, bank, batch, plan).right.tolist()
                    for task, flag in zip(batch.questions.tasks, flags, strict=True):
                        right[task] += int(flag)
                        total[task] += 1
                for task in sorted(total):
                    yield {
                        "plan": name, "frames": frames, "task": task,
                        "right": right[task], "total": total[task],
                    }  # fmt: skip


def _line(result: dict[str, Any]) -> str:
    """One line about a variant, while the others go on."""
    own = [row for row in result["evaluation"] if row["plan"] == "own"]
    shares = []
    for frames in TESTED:
        rows = [row for row in own if row["frames"] == frames]
        right, total = (sum(row[name] for row in rows) for name in ("right", "total"))
        shares.append(f"{frames}: {right / max(1, total):.3f}")
    times = f"{result['train_seconds']} + {result['evaluate_seconds']} s"
    return f"{result['variant']} {result['steps']}/{result['of']} {times} {' '.join(shares)}"


def _thinned(losses: list[torch.Tensor]) -> list[float]:
    """Means of ten steps each."""
    parts = torch.stack(losses).split(10) if losses else ()
    return [round(part.mean().item(), 4) for part in parts]


def work(args: argparse.Namespace) -> None:
    """One process: take variants from the list until none is left or the time is over."""
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = True
    plan = study_plan.Plan(args.out)
    trainer = Trainer(
        args=args,
        device=pick_device(args.device),
        processor=Processor.load(resolve(args.model)),
        plan=plan,
        stop_at=args.stop_at,
    )
    for item in plan.claims():
        if time.time() > args.stop_at:
            return
        try:
            result = trainer.run(item)
            plan.write(item, result)
            print(_line(result), flush=True)
        except RuntimeError as error:
            # One variant that does not fit must not take the others with it; it is told instead.
            traceback.print_exc()
            plan.fail(item, error)
        if trainer.device.type == "cuda":
            torch.cuda.empty_cache()


def run(args: argparse.Namespace) -> None:
    """Bank, all variants in parallel, the quiet measurement, the report."""
    began = time.time()
    end = began + args.seconds
    # In a process of its own, so that the GPU's memory is free again.
    _start(args, "bank").wait()
    print(f"bank ready after {time.time() - began:.1f} s", flush=True)
    args.stop_at = end - QUIET_SECONDS - EVALUATE_SECONDS
    plan = study_plan.Plan(args.out)
    names = args.variants.split(",") if args.variants else list(variants())
    items = [study_plan.Item(name=n, seed=s) for s in range(args.seeds) for n in names]
    plan.begin(items, args.steps)
    workers = [_start(args, "work") for _ in range(min(args.parallel, len(items)))]
    costs = {
        name: study_plan.Cost(step=variant.cost, plans=1 + len(variant.extra_plans))
        for name, variant in variants().items()
    }
    while plan.steps() is None and any(w.poll() is None for w in workers):
        time.sleep(0.5)
        left = args.stop_at + EVALUATE_SECONDS / 3 - time.time()
        plan.decide(costs, parallel=len(workers), seconds_left=left, least=args.least_steps)
    print(f"{plan.steps()} steps for {len(plan.items())} variants", flush=True)
    for worker in workers:
        try:
            worker.wait(timeout=max(1.0, end - QUIET_SECONDS * 0.7 - time.time()))
        except subprocess.TimeoutExpired:
            worker.terminate()
    print(f"{len(plan.results())} results after {time.time() - began:.1f} s", flush=True)
    _start(args, "speed").wait()
    report(args)
    print(f"done after {time.time() - began:.1f} s", flush=True)


def _start(args: argparse.Namespace, command: str) -> subprocess.Popen[bytes]:
    options = ("model", "out", "bank", "device", "frames", "rate", "scale", "stop_at")
    told = [
        f"--{name.replace('_', '-')}={getattr(args, name)}"
        for name in options
        if getattr(args, name) is not None
    ]
    path = os.pathsep.join(p for p in (*sys.path, os.environ.get("PYTHONPATH", "")) if p)
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), command, *told], env=environment
    )


def bank(args: argparse.Namespace) -> None:
    """Draw the worlds and let the tower see them."""
    device = pick_device(args.device)
    study_bank.build(args.bank, args.model, device=device, scale=args.scale, seed=SEED)


def speed(args: argparse.Namespace) -> None:
    """Time and memory of a few variants, alone on the device."""
    config = read_config(resolve(args.model))
    sizes = (config.vision.hidden_size, config.projector.merge_heads)
    lengths = (1024, 8192) if args.scale >= 1 else (64,)
    found = study_speed.measure(
        pick_device(args.device), config.decoder.vocab_size, sizes, lengths, QUIET_SECONDS * 0.4
    )
    (args.out / "speed.json").write_text(json.dumps(found, indent=1) + "\n")


def report(args: argparse.Namespace) -> None:
    """Tables, plots and one JSON of everything."""
    results, path = study_plan.Plan(args.out).results(), args.out / "speed.json"
    speeds = json.loads(path.read_text()) if path.exists() else []
    found = study_report.Report(results=results, speed=speeds)
    if not results:
        found = study_report.kept(args.out)
    if not found.guesses and args.scale >= 1:
        found = replace(found, guesses=study_compare.guesses(SEED))
    study_report.write(args.out, found)


def parse() -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = {"run": run, "bank": bank, "work": work, "train": work, "speed": speed}
    parser.add_argument("command", choices=[*commands, "report"])
    parser.add_argument("--model", default="tiny", help="whose tower sees")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bank", type=Path, help="worlds and features, several GiB; OUT/bank")
    parser.add_argument("--device", help="cpu or cuda; the first GPU where there is one")
    parser.add_argument("--seconds", type=float, default=220, help="of the whole run")
    parser.add_argument("--parallel", type=int, default=8, help="processes on the GPU")
    parser.add_argument("--variants", help="some of them, by comma; all where left out")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, help="of each; chosen to fit where left out")
    parser.add_argument("--least-steps", type=int, default=400, help="before variants are left out")
    parser.add_argument("--frames", type=int, default=1024, help="of a step")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the bank, to try things out")
    parser.add_argument("--stop-at", type=float, default=float("inf"), help="wall clock")
    args = parser.parse_args()
    args.bank = args.bank or args.out / "bank"
    args.call = {**commands, "report": report}[args.command]
    return args


def main() -> None:
    """Run a command."""
    args = parse()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.command == "train":
        plan = study_plan.Plan(args.out)
        names = (args.variants or "hybrid").split(",")
        plan.begin([study_plan.Item(name=n, seed=args.seeds - 1) for n in names], args.steps)
    args.call(args)


if __name__ == "__main__":
    main()
