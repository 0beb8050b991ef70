"""Training material as a function of the step: drawn worlds, their prompts, many questions each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from timeviper.core.seeding import stream
from timeviper.processing.clip_tokens import PromptTokens
from timeviper.processing.messages import VideoPart
from timeviper.processing.processor import Processor
from timeviper.synth.asking import Asking, Question
from timeviper.synth.choices import as_choices, choice_answer
from timeviper.synth.phrases import NO_VIDEO
from timeviper.synth.questions import ask
from timeviper.synth.sample import Setting, sample_worlds
from timeviper.synth.tasks import Task
from timeviper.synth.world import Worlds
from timeviper.training.objective import QuestionRows

# Stands where a user's file would stand; never opened.
_DRAWN = VideoPart(source="drawn")
# Last second that the clock can show: minutes up to 255 are known to the tokenizer.
LATEST_SECOND = 15_300
# Share of questions with options, and of questions asked without any video.
CHOICES, BLIND = 0.2, 0.02
# How often each task is tried in a round: more where few worlds carry it, or it is learned late.
_TRIES = dict.fromkeys(Task, 1) | {
    Task.FIRST: 2,
    Task.LAST: 2,
    Task.ORDERING: 2,
    Task.DENSE_CAPTION: 2,
    Task.AT_TIME: 3,
    Task.WHEN: 3,
    Task.COUNT: 3,
    Task.RETRIEVAL: 3,
    Task.MULTI_KEY: 3,
    Task.CHAIN: 3,
    Task.CHANGE: 3,
    Task.MULTI_VALUE: 5,
    Task.MOTION: 6,
}
_ROUND = tuple(task for task, tries in _TRIES.items() for _ in range(tries))


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
        video: prefix, marks and vision places of all videos, packed; last the prefix of no video.
        video_lengths: tokens of each, one more than there are worlds.
        questions: rows about these videos.
        mix: what kind of step this is.
        step: its number.
        film: number of these worlds; steps with the same one show the same pictures.
    """

    worlds: Worlds
    video: PromptTokens
    video_lengths: tuple[int, ...]
    questions: QuestionRows
    mix: Mix
    step: int
    film: int


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What consecutive steps have in common.

    Args:
        together: steps of one kind, because as many processes take them at once and wait for
            each other.
        rounds: steps of a process that ask about the same worlds, with other questions and
            clocks: drawing and looking cost as much as learning.
    """

    together: int = 1
    rounds: int = 1


class EpisodeMaker:
    """Makes the material of any step from (seed, step) alone.

    Args:
        processor: of the model that learns.
        phases: in order; the last one's `until` is 1.
        steps: length of the run.
        seed: of the training worlds; evaluation uses others.
        clips: footage clips to show worlds before, besides drawn backgrounds.
        sharing: which steps are of one kind or about the same worlds.
    """

    def __init__(
        self,
        processor: Processor,
        phases: tuple[Phase, ...],
        *,
        steps: int,
        seed: int,
        clips: int = 0,
        sharing: Sharing | None = None,
    ) -> None:
        self.processor = processor
        self.setting = Setting(clips=clips)
        self.sharing = sharing or Sharing()
        self.phases = phases
        self.steps = steps
        self.seed = seed
        plan = processor.plan_question("?", video=_DRAWN)
        self._prefix = plan.prefix
        self._blind = processor.plan_question("?", video=None).prefix
        self._writer = plan.writer

    def __call__(self, step: int) -> Episodes:
        """The material of a step."""
        mix, film = self.mix(step), self.film(step)
        drawn = stream(self.seed, "worlds", film)
        worlds = sample_worlds(drawn, mix.videos, mix.num_frames, self.setting)
        rng = stream(self.seed, "episodes", step)
        # Half the clocks start at 0, as files do; the others teach the digits of long videos.
        late = rng.random(mix.videos) < 0.5
        latest = max(1, LATEST_SECOND - mix.num_frames)
        offsets = np.where(late, rng.integers(0, latest, mix.videos), 0)
        seconds = np.arange(mix.num_frames, dtype=np.float64)
        videos = [
            PromptTokens.join([self._prefix, self._writer.write(seconds + offset)])
            for offset in offsets
        ]
        # The last one is no video at all.
        videos.append(self._blind)
        return Episodes(
            worlds=worlds,
            video=PromptTokens.join(videos),
            video_lengths=tuple(len(v) for v in videos),
            questions=self._questions(worlds, offsets.tolist(), mix.questions, rng),
            mix=mix,
            step=step,
            film=film,
        )

    def film(self, step: int) -> int:
        """Number of the worlds that a step asks about."""
        turn, rank = divmod(step, self.sharing.together)
        return turn // self.sharing.rounds * self.sharing.together + rank

    def mix(self, step: int) -> Mix:
        """The kind of a step."""
        wide = self.sharing.rounds * self.sharing.together
        first = step // wide * wide
        share = first / self.steps
        phase = next((p for p in self.phases if share < p.until), self.phases[-1])
        weights = np.array([m.weight for m in phase.mixes])
        chosen = stream(self.seed, "mix", first).choice(len(weights), p=weights / weights.sum())
        return phase.mixes[int(chosen)]

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
                # A world may not carry every task: each round tries all of them.
                order = order or rng.permutation(_ROUND).tolist()
                question = ask(world, Task(order.pop()), rng, how)
                if question is None:
                    continue
                blind = rng.random() < BLIND
                rows.append(self._row(question, rng, blind=blind))
                videos.append(len(worlds) if blind else number)
                tasks.append("blind" if blind else question.task.value)
                asked += 1
        tokens = PromptTokens.join(rows)
        return QuestionRows(tokens, tuple(len(r) for r in rows), tuple(videos), tuple(tasks))

    def _row(self, question: Question, rng: np.random.Generator, *, blind: bool) -> PromptTokens:
        words, answer = question.question, question.answer
        if question.options and rng.random() < CHOICES:
            rotation = int(rng.integers(len(question.options)))
            words, answer = as_choices(question, rotation), choice_answer(question, rotation)
        plan = self.processor.plan_question(words, video=None if blind else _DRAWN)
        answer = NO_VIDEO if blind else answer
        return PromptTokens.join([plan.suffix(), self.processor.answer_tokens(answer)])
