"""The paper's training of the 9B model as a config for `timeviper train`: align, then instruct.

command:   python recipes/paper.py --language NEMOTRON --tower SIGLIP --tokenizer NEMOTRON \
               --align align.json --instruct instruct.json > run.json
           timeviper train run.json --dry-run --processes 8
           torchrun --nproc-per-node 8 -m timeviper train run.json
hardware:  8 GPUs of 80 GB for stage 2; the forecast of --dry-run says how much of them it takes.
result:    out/instruct/model, a checkpoint folder. Not run here: the data and the hours are not
           ours. The paper states neither batch size, nor steps, nor hours; ours are arguments.
           ALIGN and INSTRUCT are data configs as `docs/data.md` describes them.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from timeviper.core.config import to_dict
from timeviper.training.data.config import read_data_config
from timeviper.training.run import TrainConfig
from timeviper.training.stages import align, instruct, transfer_only
from timeviper.training.start import StartConfig


def paper(args: argparse.Namespace) -> TrainConfig:
    """Stage 1 on images with all their tokens, stage 2 with merging and both transfer sites.

    Rates, decay, warm-up and what learns are those of the stages' defaults (paper section 4.1):
    1e-5, transfer modules 5e-5, decay 0.01, warm-up 3 %, cosine.
    """
    stages = [
        align(steps=args.align_steps, data=read_data_config(args.align)),
        instruct(steps=args.instruct_steps, data=read_data_config(args.instruct)),
    ]
    if args.transfer_steps:
        data = read_data_config(args.instruct)
        stages.append(transfer_only(steps=args.transfer_steps, data=data))
    start = StartConfig(
        model=args.model,
        language=str(args.language),
        tower=str(args.tower),
        tokenizer=str(args.tokenizer or args.language),
    )
    return TrainConfig(
        folder=args.out,
        start=start,
        stages=tuple(replace(stage, accumulate=args.accumulate) for stage in stages),
        sharded=True,
        recompute=True,
    )


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano-9b-v2-transv", help="preset to put together")
    parser.add_argument("--language", type=Path, required=True, help="Nemotron Nano 9B v2 Base")
    parser.add_argument("--tower", type=Path, required=True, help="SigLIP so400m/14 at 384")
    parser.add_argument("--tokenizer", type=Path, help="that of the language model when not given")
    parser.add_argument("--align", type=Path, required=True, help="data config of stage 1")
    parser.add_argument("--instruct", type=Path, required=True, help="data config of stage 2")
    parser.add_argument("--out", default="out", help="where the run writes")
    parser.add_argument("--align-steps", type=int, default=2000)
    parser.add_argument("--instruct-steps", type=int, default=12000)
    parser.add_argument("--transfer-steps", type=int, default=0, help="of an optional third stage")
    parser.add_argument("--accumulate", type=int, default=4, help="packs of each process a step")
    return parser.parse_args(words)


def main() -> None:
    """Print the config."""
    sys.stdout.write(json.dumps(to_dict(paper(parse())), indent=2) + "\n")


if __name__ == "__main__":
    main()
