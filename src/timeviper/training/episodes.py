"""Training material as a function of the step: drawn worlds, their prompts, many questions each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from timeviper.core.seeding import stream
from timeviper.processing.clip_tokens import PromptTokens
from timeviper.processing.messages import VideoPart
from timeviper.processing.processor import Processor
from timeviper.synth.questions import Asking, Question, Task, ask
from timeviper.synth.world import Worlds, sample_worlds
from timeviper.training.objective import QuestionRows

# Stands where a user's file would stand; never opened.
_DRAWN = VideoPart(source="drawn")
# Last second that the clock can start at: minutes up to 199 are known to the tokenizer.
LATEST_START = 9000


@dataclass(frozen=True, kw_only=True)
class Mix:
    """One kind of step.

    Args:
        num_frames: seconds of each video.
        videos: videos a step.
        questions: questions about each.
        plan: name of the transfer plan that these steps train.
        weight: how often this kind is drawn among its phase's kinds.
    """

    num_frames: int
    videos: int
    questions: int
    plan: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Kinds of steps that are mixed until a share of the run is over."""

    until: float
    mixes: tuple[Mix, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Episodes:
    """Material of one step.

    Args:
        worlds: what the videos show.
        video: prefix, marks and vision places of all videos, packed.
        video_lengths: tokens of each video.
        questions: rows about these videos.
        mix: what kind of step this is.
        step: its number.
    """

    worlds: Worlds
    video: PromptTokens
    video_lengths: tuple[int, ...]
    questions: QuestionRows
    mix: Mix
    step: int


class EpisodeMaker:
    """Makes the material of any step from (seed, step) alone.

    Args:
        processor: of the model that learns.
        phases: in order; the last one's `until` is 1.
        steps: length of the run.
        seed: of the training worlds; evaluation uses others.
    """

    def __init__(
        self, processor: Processor, phases: tuple[Phase, ...], *, steps: int, seed: int
    ) -> None:
        self.processor = processor
        self.phases = phases
        self.steps = steps
        self.seed = seed
        plan = processor.plan_question("?", video=_DRAWN)
        self._prefix = plan.prefix
        self._writer = plan.writer

    def __call__(self, step: int) -> Episodes:
        """The material of a step."""
        rng = stream(self.seed, "episodes", step)
        mix = self.mix(step, rng)
        worlds = sample_worlds(rng, mix.videos, mix.num_frames)
        # Half the clocks start at 0, as files do; the others teach the digits of long videos.
        late = rng.random(mix.videos) < 0.5
        offsets = np.where(late, rng.integers(0, LATEST_START, mix.videos), 0)
        seconds = np.arange(mix.num_frames, dtype=np.float64)
        videos = [
            PromptTokens.join([self._prefix, self._writer.write(seconds + offset)])
            for offset in offsets
        ]
        return Episodes(
            worlds=worlds,
            video=PromptTokens.join(videos),
            video_lengths=tuple(len(v) for v in videos),
            questions=self._questions(worlds, offsets.tolist(), mix.questions, rng),
            mix=mix,
            step=step,
        )

    def mix(self, step: int, rng: np.random.Generator) -> Mix:
        """The kind of a step."""
        share = step / self.steps
        phase = next((p for p in self.phases if share < p.until), self.phases[-1])
        weights = np.array([m.weight for m in phase.mixes])
        return phase.mixes[int(rng.choice(len(weights), p=weights / weights.sum()))]

    def _questions(
        self, worlds: Worlds, offsets: list[int], count: int, rng: np.random.Generator
    ) -> QuestionRows:
        rows: list[PromptTokens] = []
        videos: list[int] = []
        tasks: list[str] = []
        for number, offset in enumerate(offsets):
            world = worlds.world(number)
            how = Asking(offset=offset)
            order: list[str] = []
            asked = 0
            while asked < count:
                # A world may not carry every task: each round tries all of them once.
                order = order or rng.permutation([*Task]).tolist()
                question = ask(world, Task(order.pop()), rng, how)
                if question is None:
                    continue
                rows.append(self._row(question))
                videos.append(number)
                tasks.append(question.task.value)
                asked += 1
        tokens = PromptTokens.join(rows)
        return QuestionRows(tokens, tuple(len(r) for r in rows), tuple(videos), tuple(tasks))

    def _row(self, question: Question) -> PromptTokens:
        plan = self.processor.plan_question(question.question, video=_DRAWN)
        return PromptTokens.join([plan.suffix(), self.processor.answer_tokens(question.answer)])
