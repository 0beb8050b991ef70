"""Will it fit: bytes by part and at the peak, for a video and a question, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import lru_cache

from timeviper.core.precision import Precision
from timeviper.inference.chunks import Chunks
from timeviper.inference.planning.footprint import tower_bytes, weight_bytes
from timeviper.inference.planning.rehearsal import Course, Held, Rehearsed, rehearse
from timeviper.model.config import TimeViperConfig

# What matrix libraries take once and keep, from the same allocator.
_LIBRARIES = {"cuda": 160 * 2**20, "cpu": 0}
# Indices and lengths, too small to follow one by one: a part of what an operation takes.
_SMALL = 0.02
# A context, loaded kernels: on the device, and never counted by the allocator.
CUDA_CONTEXT = 600 * 2**20
# Holes between blocks that the allocator reserves and cannot use.
_HOLES = 0.02
# Clips that are on their way: being copied, looked at, waiting for the decoder.
_AHEAD = 3


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a model is run; the defaults are those of the engine.

    Args:
        device_type: "cuda" takes memory as the fused kernels do, "cpu" as plain torch does.
        tower: whether frames are encoded beside the decoder; without it the decoder is alone.
        fp8: whether the matrices of the decoder's layers are FP8.
        looks: threads that each encode frames at the same time.
        batch_frames: frames that the tower takes at once; None for what suits the device.
        text_per_frame: tokens of time marks, a frame.
        prefix: tokens before the video.
        question: tokens of a question.
        spare: slots of keys set aside for question and answer; None for a decoder that is run by
            chunks with nothing reserved, so that its caches grow by copies.
        keys_in_host: whether long keys and values lie in host memory.
        idle: bytes of weights that are loaded and not used: modules of sites switched off.
    """

    device_type: str = "cuda"
    tower: bool = True
    fp8: bool = False
    looks: int = 1
    batch_frames: int | None = None
    text_per_frame: Fraction = Fraction(0)
    prefix: int = 64
    question: int = 64
    spare: int | None = 1024
    keys_in_host: bool = False
    idle: int = 0


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Bytes, as the allocator of torch counts them (`torch.cuda.max_memory_allocated`).

    Args:
        frames: of each video.
        chunk: tokens of one call of the decoder.
        batch: videos that are held and asked together.
        prefill: bytes by part at the highest moment while a video is read.
        question: bytes by part at the highest moment while a question is answered.
        held: bytes of the encoded videos, which are among both.
        device_type: where.
    """

    frames: int
    chunk: int
    batch: int
    prefill: dict[str, int]
    question: dict[str, int]
    held: Held
    device_type: str

    @property
    def prefill_peak(self) -> int:
        """Most that is allocated while a video is read."""
        return sum(self.prefill.values())

    @property
    def question_peak(self) -> int:
        """Most that is allocated while a question is answered."""
        return sum(self.question.values())

    @property
    def peak(self) -> int:
        """Most that is allocated at any time."""
        return max(self.prefill_peak, self.question_peak)

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by part at the highest moment of all."""
        return self.prefill if self.prefill_peak >= self.question_peak else self.question

    @property
    def reserved(self) -> int:
        """What the allocator takes from the device for it: holes between blocks included."""
        return self.peak if self.device_type == "cpu" else int(self.peak * (1 + _HOLES))

    @property
    def device_bytes(self) -> int:
        """What the device has to offer: reserved memory and the CUDA context."""
        return self.reserved + (CUDA_CONTEXT if self.device_type == "cuda" else 0)

    @property
    def host_bytes(self) -> int:
        """What the host has to offer for keys and values that lie there."""
        return self.held.in_host


def forecast(
    config: TimeViperConfig,
    *,
    frames: int,
    chunk: int = 1024,
    precision: Precision = Precision.BFLOAT16,
    batch: int = 1,
    setting: Setting | None = None,
) -> Forecast:
    """Tell what a video and a question will take.

    Args:
        config: the model, with its transfer sites.
        frames: sampled frames of a video.
        chunk: tokens that go through the decoder in one call.
        precision: number format of weights, keys, values and hidden states.
        batch: videos of this length that are held and asked together.
        setting: how the model is run; None is a GPU with everything on it.

    Returns:
        Bytes by part.

    Law: within 10 % of the measured peak, and never below.
    """
    setting = setting or Setting()
    if precision is Precision.FP8:
        precision, setting = Precision.BFLOAT16, replace(setting, fp8=True)
    done = _rehearsed(config, frames, chunk, precision, batch, setting)
    held = {
        "weights": setting.idle
        + weight_bytes(config, precision, tower=setting.tower, fp8=setting.fp8),
        **{_NAMES[name]: count for name, count in asdict(done.held).items() if name in _NAMES},
    }
    libraries = {"matrix libraries": _LIBRARIES[setting.device_type]}
    eyes = _eyes(config, frames, precision, setting)
    stays = frames >= 2 * _batch(config, frames, setting)
    work = _prefill_work(_work(done.prefill_peak, done), eyes, setting, stays=stays)
    moving = _moving(config, frames, chunk, precision, setting)
    return Forecast(
        frames=frames,
        chunk=chunk,
        batch=batch,
        prefill=held | work | ({"frames on their way": moving} if moving else {}) | libraries,
        question=held | {"question's work": _work(done.question_peak, done)} | libraries,
        held=done.held,
        device_type=setting.device_type,
    )


def _work(peak: int, done: Rehearsed) -> int:
    return int(max(0, peak - done.held.total) * (1 + _SMALL)) + 2**10


_NAMES = {
    "keys_values": "keys and values",
    "mamba_state": "Mamba state",
    "waiting": "dropped tokens that wait",
    "parked": "parked tokens",
}


def largest(bytes_of: Callable[[int], int], limit: int, *, most: int = 2**24) -> int:
    """The largest number of frames that takes no more than a limit, to a few in a thousand.

    Args:
        bytes_of: what so many frames take; more frames never take less.
        limit: bytes that there are.
        most: where to stop looking.

    Returns:
        A number that fits; 0 where not even one frame does.
    """
    low, high, below, above = 0, most + 1, bytes_of(1), 0
    if below > limit:
        return 0
    low, guess = 1, 256
    while high - low > max(1, low // 500):
        taken = bytes_of(guess)
        if taken <= limit:
            low, below = guess, taken
        else:
            high, above = guess, taken
        if above:
            share = (limit - below) / (above - below)
            # Never at an edge: what is nearly straight would be approached from one side only.
            step = min(max(share, 0.002), 0.998) * (high - low)
            near = low // 1000 if share < 0.5 else -(low // 1000)
            guess = min(max(low + int(step) + near, low + 1), high - 1)
        else:
            guess = min(4 * low, most)
            if low == most:
                break
    return low


@lru_cache(maxsize=256)
def _rehearsed(
    config: TimeViperConfig,
    frames: int,
    chunk: int,
    precision: Precision,
    batch: int,
    setting: Setting,
) -> Rehearsed:
    vision = config.tokens_per_frame
    at_once = frames_at_once(config, chunk, setting)
    clips = [vision * at_once] * (frames // at_once)
    if rest := frames % at_once:
        clips.append(vision * rest)
    course = Course(
        clips=tuple(clips),
        text_per_vision=setting.text_per_frame / vision,
        mark=math.ceil(setting.text_per_frame),
        prefix=setting.prefix,
        question=setting.question,
        spare=setting.spare,
        videos=batch,
        keys_in_host=setting.keys_in_host,
    )
    return rehearse(
        config.decoder,
        course,
        dtype=precision.dtype,
        device_type=setting.device_type,
        fp8=setting.fp8,
    )


def frames_at_once(config: TimeViperConfig, chunk: int, setting: Setting) -> int:
    """Frames of one call of the decoder; at least one.

    Args:
        config: the model.
        chunk: tokens of a call.
        setting: tells of time marks.

    Returns:
        Whole frames.
    """
    return max(1, int(chunk / (config.tokens_per_frame + setting.text_per_frame)))


def _eyes(config: TimeViperConfig, frames: int, precision: Precision, setting: Setting) -> int:
    """Bytes of tower and projector at work."""
    if not setting.tower or not frames:
        return 0
    batch = _batch(config, frames, setting)
    peak = tower_bytes(config, batch, dtype=precision.dtype, device_type=setting.device_type)
    return setting.looks * int(peak * (1 + _SMALL))


def _batch(config: TimeViperConfig, frames: int, setting: Setting) -> int:
    sizes = Chunks.of(config, setting.device_type)
    return min(frames, setting.batch_frames or sizes.batch_frames)


def _moving(
    config: TimeViperConfig, frames: int, chunk: int, precision: Precision, setting: Setting
) -> int:
    """Frames as bytes on their way to the tower, and its results on their way to the decoder."""
    if not setting.tower or not frames:
        return 0
    row = config.tokens_per_frame * config.decoder.hidden_size * precision.bytes
    batch = _batch(config, frames, setting)
    clip = min(frames, max(Chunks.of(config, setting.device_type).clip_frames, batch))
    pixels = setting.looks * _AHEAD * clip * 3 * config.vision.image_size**2
    # One chunk waits while the next is gathered.
    chunks = 2 * min(frames, frames_at_once(config, chunk, setting))
    return pixels + (chunks + setting.looks * clip) * row


def _prefill_work(decoder: int, tower: int, setting: Setting, *, stays: bool) -> dict[str, int]:
    """What works at the highest moment; `stays`: the tower is captured, and keeps its memory."""
    if not setting.tower:
        return {"decoder's work": decoder}
    if setting.device_type == "cpu" or stays:
        return {"decoder's work": decoder, "tower's work": tower}
    # On a GPU they take turns.
    return {"decoder's work": decoder} if decoder >= tower else {"tower's work": tower}
