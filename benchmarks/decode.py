"""Time decoding of 10,000 moments of one hour against `ffmpeg -f null -` in the same run.

    python -m benchmarks.decode [--json] [--rounds 3] [--frames 10000] [--seconds 3600]

Refuses to print figures when one of the frames differs from a plain decode of the whole file.
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


def seconds(work: Callable[[], None]) -> float:
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def walk(path: Path, moments: np.ndarray, size: Size) -> None:
    """Open the file and decode all moments, keeping nothing."""
    count = sum(len(c.frames) for c in iterate_clips(open_video(path), moments, size=size))
    if count != len(moments):
        raise SystemExit(f"expected {len(moments)} frames, got {count}")


def ffmpeg_null(ffmpeg: str, path: Path) -> None:
    """Decode everything and throw it away, with the threads that FFmpeg chooses."""
    command = [ffmpeg, "-v", "error", "-nostdin", "-i", str(path), "-f", "null", "-"]
    subprocess.run(command, check=True)


def measure(path: Path, frames: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of every contender, round by round, so that a busy machine is busy for all.

    Args:
        path: the video.
        frames: moments to decode.
        rounds: repetitions.

    Returns:
        Seconds of each round by name of the contender.
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
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            taken[name].append(seconds(work))
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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hour.mp4"
        making = seconds(lambda: make_hour(path, seconds=options.seconds))
        print(f"made {path.stat().st_size / 1e6:.0f} MB in {making:.1f} s", file=sys.stderr)
        check(path, options.frames)
        print("every frame equals a plain decode", file=sys.stderr)
        taken = measure(path, options.frames, options.rounds)
    best = {name: min(values) for name, values in taken.items()}
    null = best["ffmpeg -f null"]
    report = {
        "cores": available_cores(),
        "cpu": platform.processor() or platform.machine(),
        "av": av.__version__,
        "load": os.getloadavg()[0],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "seconds": taken,
        "ratio_to_ffmpeg_null": {name: value / null for name, value in best.items()},
        "goal": GOAL,
    }
    if options.json:
        print(json.dumps(report))
        return
    for name, values in taken.items():
        rounds = " ".join(f"{value:6.2f}" for value in values)
        print(f"{name:26s} best {best[name]:6.2f} s  {best[name] / null:5.2f}x   rounds {rounds}")
    print(f"peak memory {report['peak_bytes'] / 2**20:.0f} MiB, load {report['load']:.1f}")


if __name__ == "__main__":
    main()
