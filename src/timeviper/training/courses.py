"""The courses of the model that ships: which videos and questions its steps show, and when."""

from __future__ import annotations

from collections.abc import Callable

from timeviper.training.episodes import Mix, Phase


def _mixer(frames: int) -> Callable[..., Mix]:
    """Kinds of steps that draw `frames` in all, whatever the length of their videos."""

    def mix(num_frames: int, questions: int, plan: str, weight: float = 1.0) -> Mix:
        videos = max(1, frames // num_frames)
        return Mix(
            num_frames=num_frames, videos=videos, questions=questions, plan=plan, weight=weight
        )

    return mix


def whole(frames: int) -> tuple[Phase, ...]:
    """From short clips to long ones; dropping joins once the tasks are understood.

    Args:
        frames: drawn in each step, whatever the length of its videos.
    """
    mix = _mixer(frames)
    return (
        Phase(until=0.04, mixes=(mix(16, 2, "off"), mix(32, 3, "off"))),
        Phase(until=0.15, mixes=(mix(64, 5, "off"), mix(128, 8, "off"))),
        Phase(
            until=0.4,
            mixes=(mix(128, 8, "off"), mix(256, 14, "off"), mix(512, 20, "off"), mix(128, 3, "on")),
        ),
        Phase(
            until=0.8,
            mixes=(
                mix(64, 4, "off", 0.5),
                mix(256, 14, "off"),
                mix(1024, 32, "off"),
                mix(4096, 64, "off", 0.5),
                mix(64, 3, "on", 0.5),
                mix(256, 5, "on", 0.6),
                mix(1024, 10, "on", 0.6),
            ),
        ),
        Phase(
            until=1.01,
            mixes=(
                mix(64, 3, "on", 0.6),
                mix(256, 5, "on"),
                mix(1024, 10, "on"),
                mix(4096, 20, "on", 0.7),
                mix(10_240, 24, "on", 0.7),
                mix(1024, 32, "off", 0.5),
                mix(10_240, 64, "off", 0.3),
            ),
        ),
    )


def finish(frames: int) -> tuple[Phase, ...]:
    """A further course for a model that knows the tasks: many questions, then long videos.

    Args:
        frames: as in `whole`.
    """
    mix = _mixer(frames)
    return (
        Phase(
            until=0.55,
            mixes=(
                mix(64, 8, "off"),
                mix(128, 14, "off"),
                mix(256, 22, "off"),
                mix(512, 32, "off", 0.5),
                mix(128, 4, "on", 0.5),
            ),
        ),
        Phase(
            until=1.01,
            mixes=(
                mix(64, 4, "on"),
                mix(256, 7, "on", 1.5),
                mix(1024, 12, "on"),
                mix(4096, 20, "on", 0.4),
                mix(10_240, 24, "on", 0.4),
                mix(128, 14, "off"),
                mix(1024, 32, "off", 0.5),
            ),
        ),
    )


COURSES = {"whole": whole, "finish": finish}
