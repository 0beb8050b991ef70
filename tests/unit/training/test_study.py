"""The study: equal sizes, a bank that is a function of its seed, shared work, honest tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from recipes import study_bank, study_compare, study_plan, study_report
from recipes.study_models import STACKS, TESTED, TRAINED, WARM_FRAMES, Bank, Learner, variants
from recipes.study_report import Report
from timeviper.evaluation.metrics import Share
from timeviper.model.config import DropPolicy
from timeviper.processing.processor import Processor
from timeviper.processing.prompt import TimePrompt
from timeviper.training.objective import answer_loss
from timeviper.weights.loader import resolve

WORDS, VISION = 3072, (192, 6)
PART = study_bank.Part(split="train", frames=64, worlds=3)


@pytest.fixture(scope="module")
def processor() -> Processor:
    return Processor.load(resolve("tiny"))


@pytest.fixture(scope="module")
def folder(processor: Processor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank whose features are noise: nothing is drawn."""
    path = tmp_path_factory.mktemp("bank")
    found = {("train", n) for n in (WARM_FRAMES, *TRAINED)} | {("test", n) for n in TESTED}
    for split, frames in sorted(found):
        part = study_bank.Part(split=split, frames=frames, worlds=2)
        worlds = study_bank.draw_worlds(part, 0, 5)
        for prompt in TimePrompt:
            own = study_bank.processor_for(processor, prompt)
            rows = study_bank.draw_rows(worlds, own, part, chunk=0, seed=5)
            rows.save(path / f"{part.name}-{prompt.value}.npz")
        for keep in study_bank.TOKENS:
            features = torch.randn(2, frames, keep, VISION[0]).bfloat16()
            save_file({"features": features}, path / f"{part.name}-{keep}.safetensors")
    return path


def learner_of(name: str) -> Learner:
    learner = Learner(variants()[name], WORDS, VISION)
    learner.start(0)
    return learner


def test_variants_have_as_many_parameters_within_three_per_cent() -> None:
    sizes = {name: learner_of(name).sizes() for name in ("hybrid", "attention", "mamba")}
    layers = [s["layers"] for s in sizes.values()]
    assert max(layers) / min(layers) < 1.03
    assert {len(pattern) for pattern, _, _ in STACKS.values()} == {8}
    # Only what is transferred by weights adds any, and that is told apart.
    assert {v.stack for v in variants().values()} == set(STACKS)
    carried = learner_of("transv-0.9").sizes()
    assert carried["layers"] == sizes["hybrid"]["layers"]
    assert carried["total"] - carried["transfers"] == sizes["hybrid"]["total"]


def test_sites_stand_where_the_report_says() -> None:
    every = variants()
    assert list(every)[:3] == ["hybrid", "attention", "mamba"]
    for _, names in study_report.CLAIMS.values():
        assert set(names) <= set(every)
    for name, variant in every.items():
        for site in variant.plan.sites:
            assert site.transfer == name.startswith("transv")
            ranked = "attention-0.9" in name
            assert (site.policy is DropPolicy.ATTENTION) == ranked
            assert name.endswith(f"-{site.drop_rate}")
    assert all(not s.transfer for p in every["hybrid"].extra_plans.values() for s in p.sites)


def test_worlds_and_questions_are_a_function_of_the_seed(processor: Processor) -> None:
    worlds = [study_bank.draw_worlds(PART, 0, seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(worlds[0].thing, worlds[1].thing)
    np.testing.assert_array_equal(worlds[0].start, worlds[1].start)
    assert (worlds[0].thing != worlds[2].thing).any()
    own = study_bank.processor_for(processor, TimePrompt.INTERLEAVED)
    first, again = (study_bank.draw_rows(worlds[0], own, PART, chunk=0, seed=1) for _ in range(2))
    np.testing.assert_array_equal(first.ids, again.ids)
    asked = {study_bank.NAMES[i] for i in first.tasks}
    assert {"when", "at_time", "multi_key", "first"} <= asked


def test_only_a_marked_training_clock_starts_late(processor: Processor) -> None:
    part = study_bank.Part(split="train", frames=64, worlds=20)
    worlds = study_bank.draw_worlds(part, 0, 3)
    marked, plain = (
        study_bank.draw_rows(
            worlds, study_bank.processor_for(processor, prompt), part, chunk=0, seed=3
        )
        for prompt in (TimePrompt.INTERLEAVED, TimePrompt.SENTENCE)
    )
    assert (marked.offsets > 0).any()
    assert (marked.offsets == 0).any()
    assert not plain.offsets.any()
    # The same questions about the same worlds; one tells the duration in words.
    np.testing.assert_array_equal(marked.tasks, plain.tasks)
    np.testing.assert_array_equal(marked.worlds, plain.worlds)
    assert (np.diff(plain.bounds) > np.diff(marked.bounds)).all()
    told = processor.tokenizer.decode(plain.ids[: plain.bounds[1]].tolist())
    assert "64.0 seconds" in told


def test_no_question_is_asked_twice_of_a_world(processor: Processor) -> None:
    worlds = study_bank.draw_worlds(PART, 0, 9)
    rows = study_bank.draw_rows(worlds, processor, PART, chunk=0, seed=9)
    asked = [
        (int(rows.worlds[i]), tuple(rows.ids[rows.bounds[i] : rows.bounds[i + 1]].tolist()))
        for i in range(len(rows.answers))
    ]
    assert len(asked) == len(set(asked))


def test_chunks_join_to_rows_of_one_part(processor: Processor) -> None:
    worlds = [study_bank.draw_worlds(PART, 0, seed) for seed in (1, 2)]
    single = [study_bank.draw_rows(w, processor, PART, chunk=0, seed=1) for w in worlds]
    both = study_bank.join_rows(single)
    shift = len(single[0].answers)
    assert both.worlds[shift] == single[1].worlds[0] + 3
    got = both.ids[both.bounds[shift] : both.bounds[shift + 1]]
    np.testing.assert_array_equal(got, single[1].ids[: single[1].bounds[1]])
    assert both.bounds[-1] == len(both.ids)


@pytest.mark.parametrize("name", ["attention", "transv-attention-0.9", "tokens-16", "sentence"])
def test_a_variant_learns_from_a_batch(folder: Path, processor: Processor, name: str) -> None:
    learner = learner_of(name)
    bank = Bank(folder, variants()[name], processor, torch.device("cpu"))
    batch = bank.train(0, 64, 7)
    video = learner.embed(batch, bank.seen(batch))
    ids = torch.from_numpy(batch.questions.tokens.ids)
    out = answer_loss(learner.decoder, video, batch.questions, ids)
    torch.autograd.backward(out.loss)
    assert out.loss.item() == pytest.approx(np.log(WORDS), rel=0.1)
    assert all(p.grad is not None for p in learner.projector.parameters())


def test_steps_are_the_same_for_all_variants(folder: Path, processor: Processor) -> None:
    names = ("hybrid", "marks-16", "tokens-8")
    banks = [Bank(folder, variants()[n], processor, torch.device("cpu")) for n in names]
    batches = [bank.train(200, 128, 7) for bank in banks]
    for batch in batches[1:]:
        np.testing.assert_array_equal(batch.worlds, batches[0].worlds)
        np.testing.assert_array_equal(batch.questions.tokens.ids, batches[0].questions.tokens.ids)
    sizes = [len(batch.video) for batch in batches]
    assert sizes[1] < sizes[0] < sizes[2]


def test_every_test_question_is_asked_once(folder: Path, processor: Processor) -> None:
    bank = Bank(folder, variants()["hybrid"], processor, torch.device("cpu"))
    for at_once in (64, 10_000):
        asked = [t for b in bank.test(64, at_once) for t in b.questions.tasks]
        assert len(asked) == len(bank.rows["test-64"].answers)


def test_processes_share_a_list_and_results_are_not_made_twice(tmp_path: Path) -> None:
    items = [study_plan.Item(name=n, seed=0) for n in ("a", "b", "c")]
    plan = study_plan.Plan(tmp_path)
    plan.begin(items, None)
    one, two = plan.claims(), study_plan.Plan(tmp_path).claims()
    assert [next(one).name, next(two).name, next(one).name] == ["a", "b", "c"]
    assert list(two) == []
    plan.write(items[0], {"variant": "a"})
    plan.begin(items, 9)
    assert [item.name for item in plan.claims()] == ["b", "c"]
    assert plan.steps() == 9
    assert plan.results() == [{"variant": "a"}]


def test_steps_are_chosen_to_fit_and_the_last_variants_go_first(tmp_path: Path) -> None:
    items = [study_plan.Item(name=n, seed=0) for n in "abcd"]
    costs = {n: study_plan.Cost() for n in "abcd"}
    rest = costs["a"].rest
    plan = study_plan.Plan(tmp_path)
    plan.begin(items, None)
    plan.decide(costs, parallel=2, seconds_left=100.0, least=10)
    assert plan.steps() is None
    for item in items[:2]:
        plan.tell(item, 0.1, steps=65)
    plan.decide(costs, parallel=2, seconds_left=20.0 + 2 * rest, least=10)
    # Two rounds of two, of which 65 steps of 0.1 s are done.
    assert plan.steps() == pytest.approx(132, abs=2)
    assert len(plan.items()) == 4
    plan.decide(costs, parallel=2, seconds_left=20.0 + 2 * rest, least=150)
    assert [item.name for item in plan.items()] == ["a", "b"]
    assert plan.steps() == pytest.approx((26.5 + rest) / 0.1, abs=2)


def test_nobody_is_past_the_end_when_it_is_chosen(tmp_path: Path) -> None:
    plan = study_plan.Plan(tmp_path)
    item = study_plan.Item(name="a", seed=0)
    plan.begin([item], None)
    plan.tell(item, 0.1, steps=65)
    plan.decide({"a": study_plan.Cost()}, parallel=1, seconds_left=1.0, least=10)
    assert plan.steps() in range(70, 90)


def made_up(name: str, seed: int, right: int, plans: tuple[str, ...] = ("own",)) -> dict:
    rows = [
        {"plan": plan, "frames": frames, "task": task, "right": right, "total": 20}
        for plan in plans
        for frames in (64, 1024)
        for task in ("when", "count")
    ]
    return {
        "variant": name,
        "seed": seed,
        "parameters": {"layers": 1000, "transfers": 10, "total": 2000},
        "steps": 5,
        "of": 5 + seed,
        "complete": seed == 0,
        "losses": [2.0, 1.0],
        "alphas": [0.25],
        "evaluation": rows,
    }


def test_a_report_pools_seeds_and_tells_what_was_cut(tmp_path: Path) -> None:
    results = [
        made_up("hybrid", 0, 10, ("own", "uniform 0.9 at 3")),
        made_up("hybrid", 0, 20),
        made_up("attention", 0, 16),
        made_up("mamba", 1, 20),
    ]
    guess = {"frames": 64, "task": "when", "total": 20, "constant": 0.5, "among": 0.0}
    study_report.write(tmp_path, Report(results=results, guesses=[guess]))
    text = (tmp_path / "study.md").read_text()
    # 30 of 40 for each task, 60 of 80 for both; only the guess's task has a bar to lie above.
    assert "| hybrid | 75 (60-86) | **75 (60-86)** | 75 (65-83) |" in text
    assert "| uniform 0.9 at 3 | 50 (30-70) | 50 (30-70)" in text
    assert "| *one answer always* | - | 50 | - |" in text
    assert "n 40" in text
    assert "mamba (cut: 5 of 6 steps)" in text
    assert "+0.250" in text
    # Cut variants are compared with nothing.
    assert "| attention | hybrid | 1,024 |" in text
    assert "| mamba | hybrid |" not in text
    assert {"stacks.png", "free.png", "study.json"} <= {p.name for p in tmp_path.iterdir()}
    # Nothing is shown of what was not run, and nothing is drawn that compares nothing.
    assert "sentence" not in text
    assert not (tmp_path / "times.png").exists()


def test_a_report_is_written_again_from_its_own_numbers(tmp_path: Path) -> None:
    study_report.write(tmp_path, Report(results=[made_up("hybrid", 0, 3)]))
    first = (tmp_path / "study.md").read_text()
    study_report.write(tmp_path, study_report.kept(tmp_path))
    assert (tmp_path / "study.md").read_text() == first


def test_a_claim_that_was_mostly_cut_is_not_drawn(tmp_path: Path) -> None:
    names = study_report.CLAIMS["layers"][1]
    results = [made_up(name, int(number > 1), 5) for number, name in enumerate(names)]
    study_report.write(tmp_path, Report(results=results))
    assert not (tmp_path / "layers.png").exists()
    assert "cut: 5 of 6 steps" in (tmp_path / "study.md").read_text()


def test_a_difference_has_newcombes_interval() -> None:
    # Newcombe 1998, table II, example (a): 56 of 70 against 48 of 80.
    value, low, high = study_compare.difference(
        Share(right=56, total=70), Share(right=48, total=80)
    )
    assert value == pytest.approx(0.2)
    assert (low, high) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))


def test_guesses_are_of_the_questions_that_the_bank_holds(processor: Processor) -> None:
    part = study_bank.Part(split="test", frames=64, worlds=4)
    rows = study_bank.draw_rows(
        study_bank.draw_worlds(part, 0, 3), processor, part, chunk=0, seed=3
    )
    found = list(study_compare.asked(part, 3))
    assert [q.task.value for _, q in found] == [study_bank.NAMES[i] for i in rows.tasks]
    for row, (_, question) in enumerate(found):
        ids = rows.ids[rows.bounds[row + 1] - rows.answers[row] : rows.bounds[row + 1]]
        assert question.answer in processor.tokenizer.decode(ids.tolist())


def test_a_guess_knows_what_is_shown_and_nothing_more() -> None:
    rows = {(g["frames"], g["task"]): g for g in study_compare.guesses(77)}
    assert {frames for frames, _ in rows} == set(TESTED)
    for frames in TESTED:
        assert rows[frames, "multi_key"]["among"] == 0.5
        assert rows[frames, "first"]["among"] == 0.5
        assert 0 < rows[frames, "ordering"]["among"] < 1 / 6
        assert rows[frames, "at_time"]["constant"] > rows[frames, "at_time"]["among"] > 1 / 10
