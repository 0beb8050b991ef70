"""Measure the model that ships on held-out drawn videos, encoded as real H.264 files.

command:   python recipes/evaluate_tiny.py --out OUT
hardware:  2 CPU cores, about 25 minutes; the same command goes on where it stopped
result:    a table of the share of right answers with Wilson 95 % intervals, for the model as it
           ships (TransV on), without dropping (off), with plain dropping (drop), and without the
           video (blind); OUT/answers-*.jsonl with every answer
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from timeviper.evaluation.heldout import BLIND, Heldout, ask_all, read_answers, summary
from timeviper.inference.engine import Engine
from timeviper.model.config import TransferPlan
from timeviper.model.vlm import under_plan

SEED = 909090
ENGINES = ("on", BLIND, "off", "drop")


def variants(engine: Engine) -> dict[str, Engine]:
    """The engine as it ships and under other transfer plans, sharing its weights."""
    plan = engine.model.decoder.config.transfer
    drop = TransferPlan(sites=tuple(replace(site, transfer=False) for site in plan.sites))
    return {"on": engine, BLIND: engine} | {
        name: Engine(under_plan(engine.model, other), engine.processor)
        for name, other in (("off", TransferPlan()), ("drop", drop))
    }


def main() -> None:
    """Ask, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--shard", type=int, nargs=2, default=(0, 1), metavar=("K", "OF"))
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    args = parser.parse_args()
    number, shards = args.shard
    asked = args.engines.split(",")
    if unknown := sorted(set(asked) - set(ENGINES)):
        parser.error(f"expected engines among {', '.join(ENGINES)}; got {', '.join(unknown)}")
    if args.videos < 1 or not 0 <= number < shards:
        parser.error(
            f"expected --videos of 1 or more and K below OF; got {args.videos}, {args.shard}"
        )
    args.out.mkdir(parents=True, exist_ok=True)
    # One thread each: several shards side by side beat threads that wait for each other.
    engines = variants(Engine.load(args.model, threads=1 if args.shard[1] > 1 else None))
    heldout = Heldout(seed=SEED, videos=args.videos, folder=args.out / "films")
    ask_all(
        {name: engines[name] for name in asked},
        heldout,
        range(number, args.videos, shards),
        answers=args.out / f"answers-{number}-{shards}.jsonl",
        tell=lambda line: print(line, flush=True) if not args.json else None,
    )
    table = summary(read_answers(sorted(args.out.glob("answers-*.jsonl"))))
    if args.json:
        print(json.dumps({e: {t: s.to_dict() for t, s in r.items()} for e, r in table.items()}))
        return
    for engine, tasks in table.items():
        for task, share in tasks.items():
            low, high = share.interval
            print(f"{engine:6} {task:8} {share.value:.3f} [{low:.3f}, {high:.3f}] n={share.total}")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
