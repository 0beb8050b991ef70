"""Save, load and ask the state of a long video of the 9B model on a GPU; random weights.

    python -m benchmarks.state_file_gpu [--frames 10240] [--out FILE] [--toy]

The tower is left out: its tokens are random numbers, as the weights are. Refuses to print figures
when scores on the loaded state differ from those in memory by more than the order of sums explains.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu import distance, random_model, save
from timeviper.core.layout import SpanKind
from timeviper.inference.files.compress import Compress
from timeviper.inference.prefill import EncodedVideo, VideoEncoder
from timeviper.inference.state_file import SaveOptions, load_state, save_state
from timeviper.inference.state_info import verify_file
from timeviper.processing.image import ImageConfig
from timeviper.processing.messages import VideoPart
from timeviper.processing.processor import Processor, ProcessorConfig
from timeviper.processing.prompt import PromptPlan, TimePrompt
from timeviper.weights.folders import bundled

CLIP_FRAMES = 256
# Where keys lie may change how a kernel splits its sums, and nothing more.
MOST_ERROR = 1e-2


def encoder_of(name: str, device: str) -> VideoEncoder:
    """A preset with random weights, behind the tokenizer that ships."""
    model = random_model(name, device=device, dtype=torch.bfloat16)
    for transfer in model.decoder.transfers.values():
        transfer.get_parameter("alpha").data.fill_(0.5)
    small = Processor.load(bundled()["tiny"])
    config = ProcessorConfig(
        template="tiny",
        tokens_per_frame=model.config.tokens_per_frame,
        time_prompt=TimePrompt.SENTENCE,
    )
    image = ImageConfig(size=model.config.vision.image_size)
    return VideoEncoder(model, Processor(small.tokenizer, image=image, config=config))


@torch.inference_mode()
def encode(encoder: VideoEncoder, plan: PromptPlan, frames: int) -> EncodedVideo:
    """The state behind so many frames of random vision tokens."""
    times = np.arange(frames, dtype=np.float64)
    encoded = encoder.encode_nothing(plan)
    state, tokens, draws = encoded.state, len(plan.prefix), torch.Generator(encoder.device)
    draws.manual_seed(1)
    shape = (encoder.model.config.tokens_per_frame, encoder.model.config.decoder.hidden_size)
    for start in range(0, frames, CLIP_FRAMES):
        marked = plan.clip_tokens(times[start : start + CLIP_FRAMES], first_frame_index=start)
        count = int((marked.kinds == SpanKind.VISION.code).sum()) // shape[0]
        vision = torch.randn(
            count, *shape, generator=draws, device=encoder.device, dtype=encoder.dtype
        )
        state = encoder.read(marked, vision, state)
        tokens += len(marked)
    return EncodedVideo(
        state=state,
        prefix=plan.prefix,
        times=times,
        duration_seconds=float(frames),
        tokens=tokens,
        pixels="0" * 64,
    )


def scores(encoder: VideoEncoder, encoded: EncodedVideo, plan: PromptPlan) -> torch.Tensor:
    """Scores of the first answer token."""
    suffix = encoder.suffix(
        plan, duration_seconds=encoded.duration_seconds, num_frames=encoded.frames
    )
    return encoder.open_answer(encoded, suffix).logits.float()


def seconds(work: Callable[[], object]) -> float:
    """Of one run, the device waited for."""
    _wait()
    start = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(encoder: VideoEncoder, frames: int, folder: Path) -> dict[str, object]:
    """All figures of one length."""
    shown = VideoPart(source="video")
    plan = encoder.processor.plan_question("When does the cat appear?", video=shown)
    start = time.perf_counter()
    encoded = encode(encoder, plan, frames)
    _wait()
    read = time.perf_counter() - start
    want = scores(encoder, encoded, plan)
    found: dict[str, object] = {
        "frames": frames,
        "state_bytes": encoded.nbytes,
        "prefill_alone": read,
        "question_in_memory": seconds(lambda: scores(encoder, encoded, plan)),
        "identity": seconds(lambda: encoder.identity),
    }
    print(found, flush=True)
    # What was computed in bfloat16 is the same stored as bf16.
    for way in (Compress.NONE, Compress.FP8):
        path, how = folder / f"{way}.tvstate", SaveOptions(compress=way)
        spent = {"save": seconds(lambda: save_state(encoded, path, encoder, how))}  # noqa: B023
        spent["verify"] = seconds(lambda: verify_file(path))  # noqa: B023
        spent["load"] = seconds(lambda: load_state(path, encoder, verify=False))  # noqa: B023
        loaded = load_state(path, encoder)
        got = scores(encoder, loaded, plan)
        error = distance(got, want)
        if way is not Compress.FP8 and error > MOST_ERROR:
            raise SystemExit(f"{way}: scores on the loaded state differ by {error:.2g}")
        equal = torch.equal(got, want)
        found[way.value] = {"bytes": path.stat().st_size, "equal": equal, "error": error, **spent}
        print(way.value, found[way.value], flush=True)
        path.unlink()
    return found


def main() -> None:
    """Measure one length and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=10_240)
    parser.add_argument("--model", default="nano-9b-v2-transv")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--toy", action="store_true", help="a small model on a CPU")
    options = parser.parse_args()
    name, device = ("tiny-transv", "cpu") if options.toy else (options.model, "cuda")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(encoder_of(name, device), options.frames, Path(folder))
    save({"model": name, **found}, options.out)


if __name__ == "__main__":
    main()
