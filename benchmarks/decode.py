"""Time decoding of 10,000 moments of one hour against `ffmpeg -f null -` in the same run.

    python -m benchmarks.decode [--json] [--rounds 3] [--frames 10000] [--check-frames 10000]

Refuses to print figures when a frame differs from a plain decode of the whole file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np

from benchmarks.videos import make_hour
from timeviper.video.base import Size, VideoSource
from timeviper.video.clips import available_cores, iterate_clips
from timeviper.video.scaling import FrameScaler
from timeviper.video.source import open_video

SIZES: tuple[Size, ...] = ((96, 96), (384, 384))
FEW = 64
GOAL = 1.15


def plain_checksums(path: Path, moments: np.ndarray, size: Size) -> list[int]:
    """Checksum of the frame on screen at each moment, by decoding everything in one thread.

    Args:
        path: the video.
        moments: (moment,) ascending seconds.
        size: rows and columns.

    Returns:
        One number for each moment.
    """
    sums: list[int] = []
    scaler = FrameScaler(size)
    shown = None
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            while len(sums) < len(moments) and moments[len(sums)] + 1e-6 < frame.time:
                assert shown is not None
                sums.append(zlib.crc32(np.ascontiguousarray(scaler.convert(shown))))
            shown = frame
    assert shown is not None
    last = zlib.crc32(np.ascontiguousarray(scaler.convert(shown)))
    return sums + [last] * (len(moments) - len(sums))


def our_checksums(source: VideoSource, moments: np.ndarray, size: Size) -> list[int]:
    """The same checksums by the way that is timed."""
    clips = iterate_clips(source, moments, size=size)
    return [zlib.crc32(frame) for clip in clips for frame in clip.frames]


@dataclass(frozen=True)
class Cost:
    """What one call took: wall-clock seconds, and processor seconds of all threads."""

    wall: float
    cpu: float


def processor_seconds() -> float:
    """Processor time used so far by this program and the programs it has run."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def cost(work: Callable[[], None]) -> Cost:
    """Time one call. Processor seconds hardly depend on what else the machine does."""
    began, used = time.perf_counter(), processor_seconds()
    work()
    return Cost(time.perf_counter() - began, processor_seconds() - used)


def walk(path: Path, moments: np.ndarray, size: Size) -> None:
    """Open the file and decode all moments, keeping nothing."""
    count = sum(len(c.frames) for c in iterate_clips(open_video(path), moments, size=size))
    if count != len(moments):
        raise SystemExit(f"expected {len(moments)} frames, got {count}")


def ffmpeg_null(ffmpeg: str, path: Path) -> None:
    """Decode everything and throw it away, with the threads that FFmpeg chooses."""
    command = [ffmpeg, "-v", "error", "-nostdin", "-i", str(path), "-f", "null", "-"]
    subprocess.run(command, check=True)


def measure(path: Path, frames: int, rounds: int) -> dict[str, list[Cost]]:
    """Cost of every contender, round by round, so that a busy machine is busy for all.

    Args:
        path: the video.
        frames: moments to decode.
        rounds: repetitions.

    Returns:
        Cost of each round by name of the contender.
    """
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise SystemExit("expected the ffmpeg command on PATH to compare with; install ffmpeg")
    duration = open_video(path).info.duration_seconds
    many = np.arange(frames) * duration / frames
    few = np.arange(FEW) * duration / FEW
    contenders: dict[str, Callable[[], None]] = {
        "ffmpeg -f null": lambda: ffmpeg_null(ffmpeg, path)
    }
    for size in SIZES:
        name = f"{frames} frames to {size[0]}x{size[1]}"
        contenders[name] = lambda size=size: walk(path, many, size)
    contenders[f"{FEW} frames to 384x384"] = lambda: walk(path, few, SIZES[-1])
    contenders["open and measure"] = lambda: walk(path, few[:0], SIZES[0])
    taken: dict[str, list[Cost]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            taken[name].append(cost(work))
    return taken


def check(path: Path, frames: int) -> None:
    """Compare every frame with a plain decode; end the program when one differs."""
    source = open_video(path)
    moments = np.arange(frames) * source.info.duration_seconds / frames
    for size in SIZES:
        want = plain_checksums(path, moments, size)
        got = our_checksums(source, moments, size)
        wrong = sum(a != b for a, b in zip(want, got, strict=True))
        if wrong:
            raise SystemExit(f"{wrong} of {frames} frames at {size} differ: no figures")


def main() -> None:
    """Make the file, check, time, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument(
        "--check-frames", type=int, default=10_000, help="frames compared beforehand"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hour.mp4"
        making = cost(lambda: make_hour(path, seconds=options.seconds)).wall
        print(f"made {path.stat().st_size / 1e6:.0f} MB in {making:.1f} s", file=sys.stderr)
        check(path, options.check_frames)
        print(f"{options.check_frames} frames equal a plain decode", file=sys.stderr)
        taken = measure(path, options.frames, options.rounds)
    report(taken, as_json=options.json)


def report(taken: dict[str, list[Cost]], *, as_json: bool) -> None:
    """Print what was taken, and the best round of each contender against ffmpeg's best.

    Args:
        taken: costs of each round by name.
        as_json: one JSON object instead of lines.
    """
    wall = {name: min(c.wall for c in costs) for name, costs in taken.items()}
    cpu = {name: min(c.cpu for c in costs) for name, costs in taken.items()}
    null = "ffmpeg -f null"
    facts = {
        "cores": available_cores(),
        "cpu": platform.processor() or platform.machine(),
        "av": av.__version__,
        "load": os.getloadavg()[0],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "goal": GOAL,
        "rounds": {name: [asdict(c) for c in costs] for name, costs in taken.items()},
        "wall_ratio": {name: value / wall[null] for name, value in wall.items()},
        "cpu_ratio": {name: value / cpu[null] for name, value in cpu.items()},
    }
    if as_json:
        print(json.dumps(facts))
        return
    for name in taken:
        print(
            f"{name:26s} wall {wall[name]:6.2f} s {facts['wall_ratio'][name]:5.2f}x   "
            f"processor {cpu[name]:6.2f} s {facts['cpu_ratio'][name]:5.2f}x   all walls "
            + " ".join(f"{c.wall:.2f}" for c in taken[name])
        )
    print(f"peak memory {facts['peak_bytes'] / 2**20:.0f} MiB, load {facts['load']:.1f}")


if __name__ == "__main__":
    main()
