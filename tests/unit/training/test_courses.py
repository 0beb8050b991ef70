"""The courses of the model that ships: what their steps hold, and how they end."""

from __future__ import annotations

import pytest

from timeviper.training.courses import COURSES, finish, whole
from timeviper.training.episodes import Phase


@pytest.mark.parametrize("name", COURSES)
def test_every_phase_fits_its_frames_and_the_last_one_trains_the_shipped_plan(name: str) -> None:
    phases = COURSES[name](16384)
    assert [phase.until for phase in phases] == sorted(phase.until for phase in phases)
    assert phases[-1].until > 1
    for one in (m for phase in phases for m in phase.mixes):
        assert 16384 * 0.6 < one.num_frames * one.videos <= 16384
    assert {m.plan for m in phases[-1].mixes} == {"on", "off"}
    assert max(m.num_frames for m in phases[-1].mixes if m.plan == "on") == 10_240


def test_the_whole_course_starts_short_and_without_dropping() -> None:
    first = whole(16384)[0]
    assert {m.plan for m in first.mixes} == {"off"}
    assert max(m.num_frames for m in first.mixes) == 32
    longest = [max(m.num_frames for m in phase.mixes) for phase in whole(16384)]
    assert longest == sorted(longest)


def test_finish_asks_more_of_a_video_of_a_length_that_whole_also_shows() -> None:
    def most(phases: tuple[Phase, ...], frames: int) -> int:
        return max(m.questions for p in phases for m in p.mixes if m.num_frames == frames)

    for frames in (64, 128, 256, 512):
        assert most(finish(16384), frames) > most(whole(16384), frames)


@pytest.mark.parametrize("name", COURSES)
def test_fewer_frames_a_step_mean_fewer_videos_and_at_least_one(name: str) -> None:
    for few, many in zip(COURSES[name](64), COURSES[name](16384), strict=True):
        for small, large in zip(few.mixes, many.mixes, strict=True):
            assert small.videos == max(1, large.videos // 256)
            assert (small.num_frames, small.questions) == (large.num_frames, large.questions)
