"""Reading a video: sizes to decode at, reports, notes, bounded tower calls, and stopping."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tolerances import TOL, close
from tests.toy_engine import KEPT, noise, toy_config, toy_model, toy_processor, write_video
from timeviper.core.errors import CancelledError, CapacityError
from timeviper.core.layout import SpanKind
from timeviper.inference import prefill
from timeviper.inference.chunks import Chunks
from timeviper.inference.fitting import decode_size
from timeviper.inference.media import open_media, pictures
from timeviper.inference.prefill import EncodedVideo, VideoEncoder
from timeviper.inference.request import AskOptions
from timeviper.inference.timing import Stopwatch, Timing
from timeviper.inference.watch import Progress, Stage, Watch
from timeviper.processing.clip_tokens import ClipWriter
from timeviper.processing.image import ImageConfig, Resize
from timeviper.processing.messages import ImagePart, VideoPart
from timeviper.processing.prompt import PromptPlan, TimePrompt
from timeviper.video.base import FrameReader, VideoInfo, VideoSource
from timeviper.video.sampling import Sampling
from timeviper.video.source import open_video

MODEL = toy_model(toy_config("transv"))
FOUR = Chunks(clip_frames=4, batch_frames=64, chunk_frames=4)
INFO = VideoInfo(
    path=None,
    width=320,
    height=180,
    duration_seconds=9.0,
    average_fps=1.0,
    num_frames=9,
    codec="rawvideo",
    container="array",
)


def _plan(question: str = "When?") -> PromptPlan:
    return toy_processor().plan_question(question, video=VideoPart(source="video"))


def _encoder(chunks: Chunks = FOUR) -> VideoEncoder:
    return VideoEncoder(MODEL, toy_processor(), chunks=chunks, workers=2)


def _encode(frames: np.ndarray, watch: Watch = prefill.SILENT, **more) -> EncodedVideo:
    source = open_video(frames)
    return _encoder(**more).encode(source, _plan(), Sampling(source.frame_times), watch=watch)


@pytest.mark.parametrize(
    ("resize", "want"),
    [(Resize.NAIVE, (96, 96)), (Resize.CROP, (96, 171)), (Resize.LETTERBOX, (54, 96))],
)
def test_frames_are_decoded_no_larger_than_needed(resize, want):
    assert decode_size(INFO, ImageConfig(size=96, resize=resize)) == want


def test_a_strip_keeps_at_least_one_pixel_and_no_resize_keeps_all():
    strip = replace(INFO, width=16000, height=1)
    assert decode_size(strip, ImageConfig(size=96, resize=Resize.LETTERBOX)) == (1, 96)
    assert decode_size(INFO, ImageConfig(size=96, do_resize=False)) == (180, 320)


def test_what_was_encoded_is_told():
    encoded = _encode(noise(9))
    assert encoded.frames == 9
    assert encoded.times.tolist() == list(range(9))
    assert encoded.duration_seconds == 9.0
    # A mark is five bytes here: 00:07.
    assert encoded.tokens == len(encoded.prefix) + 9 * (5 + KEPT)
    assert encoded.nbytes == encoded.state.nbytes > 0
    timing = encoded.timing
    assert min(timing.decode, timing.encode, timing.prefill) > 0
    assert timing.answer == 0


def test_every_clip_is_reported():
    heard: list[Progress] = []
    _encode(noise(9), Watch(progress=heard.append))
    assert [(p.stage, p.done, p.total) for p in heard] == [
        (Stage.VIDEO, done, 9) for done in (0, 4, 8, 9)
    ]


def test_cancelling_stops_at_the_next_clip_and_ends_all_threads():
    before = threading.active_count()
    heard: list[Progress] = []
    watch = Watch(progress=heard.append, cancel=lambda: len(heard) > 2)
    with pytest.raises(CancelledError, match="reading the video"):
        _encode(noise(40), watch)
    assert heard[-1].done == 8
    assert threading.active_count() == before


def test_threads_of_torch_are_as_before():
    torch.set_num_threads(2)
    try:
        _encode(noise(5))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_notes_of_source_and_sampling_are_kept():
    source = open_video(noise(3))
    encoded = _encoder().encode(source, _plan(), Sampling(source.frame_times, ("a cap",)))
    assert encoded.notes == ("a cap",)


def test_marks_tell_the_moment_asked_for(monkeypatch):
    # Pictures at 0, 1.5 and 3 s: at 1 s the first one is still on screen.
    source = open_video(noise(3), fps=1 / 1.5)
    written: list[list[float]] = []
    real = ClipWriter.write

    def spy(self, times, *, first_frame_index=0):
        written.append(times.tolist())
        return real(self, times, first_frame_index=first_frame_index)

    monkeypatch.setattr(ClipWriter, "write", spy)
    _encoder().encode(source, _plan(), Sampling(np.arange(4.0)))
    assert written == [[0.0, 1.0, 2.0, 3.0]]


def test_the_tower_sees_a_bounded_number_of_patches(monkeypatch):
    sizes: list[int] = []
    real = MODEL.encode_frames
    monkeypatch.setattr(MODEL, "encode_frames", lambda p: (sizes.append(len(p)), real(p))[1])
    _encode(noise(7), chunks=Chunks(clip_frames=7, batch_frames=3, chunk_frames=7))
    assert sizes == [3, 3, 1]


def test_a_question_longer_than_the_context_is_refused():
    small = VideoEncoder(toy_model(toy_config(context=40)), toy_processor())
    suffix = small.suffix(_plan("a" * 30), duration_seconds=1.0, num_frames=1)
    assert (suffix.kinds == SpanKind.INSTRUCTION.code).all()
    with pytest.raises(CapacityError, match="at most 40 tokens of text"):
        small.suffix(_plan("a" * 60), duration_seconds=1.0, num_frames=1)


def test_a_prompt_beyond_the_known_range_is_said():
    encoder = VideoEncoder(toy_model(toy_config(context=40)), toy_processor())
    assert encoder.context_notes(40) == ()
    assert "41 tokens" in encoder.context_notes(41)[0]


def test_a_clip_that_cannot_be_looked_at_fails_as_it_is(monkeypatch):
    def fail(pixels: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no memory")

    monkeypatch.setattr(MODEL, "encode_frames", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        _encode(noise(30))


def test_pictures_and_lists_of_frames_are_opened(tmp_path):
    frames = noise(3)
    paths = tuple(
        str(write_video(tmp_path / f"{n}.mp4", frames[n : n + 1])) for n in range(len(frames))
    )
    processor = toy_processor(fps=2.0)
    source, sampling = open_media(ImagePart(source=paths[0]), processor, AskOptions())
    assert sampling.times.tolist() == [0.0]
    assert source.info.num_frames == 1
    source, sampling = open_media(VideoPart(source=paths), processor, AskOptions())
    assert sampling.times.tolist() == [0.0, 0.5, 1.0]
    source, sampling = open_media(VideoPart(source=paths, max_frames=2), processor, AskOptions())
    assert len(sampling.times) == 2
    assert "max_frames" in sampling.notes[0]
    assert [p.shape for p in pictures(paths, processor.image)] == [(16, 16, 3)] * 3


def test_a_sentence_prompt_tells_duration_and_frames():
    processor = toy_processor(TimePrompt.SENTENCE)
    plan = processor.plan_question("When?", video=VideoPart(source="video"))
    encoder = VideoEncoder(MODEL, processor)
    suffix = encoder.suffix(plan, duration_seconds=9.25, num_frames=4)
    assert "lasts 9.2 seconds and 4 frames" in processor.tokenizer.decode(suffix.ids.tolist())


def test_a_stopwatch_adds_up_and_counts_failures_too():
    clock = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with pytest.raises(KeyError), clock.stage("encode"):
            raise KeyError
    assert clock.timing.encode > 0
    assert clock.timing.decode == 0
    total = Timing(decode=1.0, answer=2.0) + Timing(decode=0.5, prefill=3.0)
    assert total == Timing(decode=1.5, encode=0.0, prefill=3.0, answer=2.0)


class _Broken(VideoSource):
    """A video whose decoder fails at its seventh frame."""

    def __init__(self) -> None:
        self._real = open_video(noise(20))

    @property
    def info(self) -> VideoInfo:
        return self._real.info

    @property
    def frame_times(self) -> np.ndarray:
        return self._real.frame_times

    @property
    def entry_frames(self) -> np.ndarray:
        return self._real.entry_frames

    def open_reader(self, size, *, threads=1):
        return _BrokenReader(self._real.open_reader(size, threads=threads))


class _BrokenReader(FrameReader):
    def __init__(self, real: FrameReader) -> None:
        self._real = real

    def read(self, indices, cancelled):
        for number, pixels in self._real.read(indices, cancelled):
            if number == 7:
                raise OSError("the disk is gone")
            yield number, pixels

    def close(self) -> None:
        self._real.close()


def _threads() -> int:
    return sum(thread.name.startswith("timeviper") for thread in threading.enumerate())


@pytest.fixture(params=["small", "large"])
def way(request, monkeypatch):
    """Clips side by side, as for a small model on a CPU, or batches on a conveyor."""
    if request.param == "large":
        monkeypatch.setattr(prefill, "_SMALL_MODEL_BYTES", 0)
    return request.param


SIZES = [(4, 64, 4), (1, 1, 1), (20, 20, 20), (3, 5, 7), (7, 3, 5), (5, 2, 11)]


@pytest.mark.parametrize("sizes", SIZES)
def test_what_is_remembered_depends_on_no_size(way, sizes):
    video = noise(17)
    want = _encode(video)
    clip, batch, chunk = sizes
    got = _encode(video, chunks=Chunks(clip_frames=clip, batch_frames=batch, chunk_frames=chunk))
    assert (got.frames, got.tokens, got.pixels) == (want.frames, want.tokens, want.pixels)
    assert got.times.tolist() == want.times.tolist()
    suffix = _encoder().suffix(_plan(), duration_seconds=17.0, num_frames=17)
    scores = [_encoder().open_answer(one, suffix).logits for one in (got, want)]
    close("scores", got=scores[0], want=scores[1], tol=TOL.cuts.f64)


def test_a_decoder_that_fails_is_told_and_what_came_before_is_kept(way):
    source, plan = _Broken(), _plan()
    encoder = _encoder(Chunks(clip_frames=2, batch_frames=2, chunk_frames=2))
    sampling = Sampling(source.frame_times)
    read = []
    with pytest.raises(OSError, match="disk is gone"), closing(
        encoder.clips(source, sampling)
    ) as clips, closing(
        encoder.extend(encoder.encode_nothing(plan), plan, clips, total=20)
    ) as grown:  # fmt: skip
        read += [step.frames for step in grown]
    # Clips that were still being looked at when it failed may go with it.
    assert read == list(range(2, 2 * len(read) + 1, 2))
    assert len(read) <= 3
    assert _threads() == 0


def test_cancelling_stops_within_a_clip_or_a_batch(way):
    asked = []

    def cancel() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(CancelledError, match="reading the video"):
        _encode(
            noise(40),
            Watch(cancel=cancel),
            chunks=Chunks(clip_frames=2, batch_frames=2, chunk_frames=40),
        )
    assert len(asked) == 4
    assert _threads() == 0


@pytest.mark.parametrize(
    ("kind", "cores", "threads"),
    [("cpu", 16, 16), ("cuda", 16, 14), ("cuda", 8, 7), ("cuda", 4, 4), ("cuda", 1, 1)],
)
def test_one_core_in_eight_is_left_to_what_feeds_a_gpu(
    monkeypatch: pytest.MonkeyPatch, kind: str, cores: int, threads: int
) -> None:
    monkeypatch.setattr(prefill, "available_cores", lambda: cores)
    assert prefill.decoders(torch.device(kind)) == threads
