import json
from pathlib import Path

import pytest

from t2local.engine.engine import Engine
from t2local.engine.evaluations import EvaluationPlan
from t2local.engine.job_record import Record
from t2local.errors import T2LocalError
from t2local.experts.library import MixtureFile, write_mixture
from t2local.progress import FINISHED, INTERRUPTED, drain
from t2local.svf import Mixture
from t2local.tasks.benchmarks import prompt_hash
from t2local.training.lora import LoRAMethod


@pytest.fixture
def desk(engine):
    return engine.evaluations


@pytest.fixture
def rows(tmp_path):
    """A file of eight questions with two answers."""
    path = tmp_path / "rows.jsonl"
    lines = ({"prompt": f"thing {i}?", "answer": ("red", "blue")[i % 2]} for i in range(8))
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return str(path)


def mixture_file(path, mixture, **task):
    write_mixture(MixtureFile(mixture, task=task), path)
    return f"few-shot:{path}"


def test_every_strategy_that_is_offered_can_be_measured(desk, engine, rows, tmp_path):
    loaded, svf = engine._trained_model()
    method = LoRAMethod(loaded, svf, rank=2, alpha=4, seed=0)
    method.save(method.start(), tmp_path / "applier")
    found = mixture_file(tmp_path / "m.json", Mixture({"math": 0.5, "code": 0.2}))
    names = (*desk.names(), found, f"lora:{tmp_path / 'applier'}")
    assert {"base", "math", "prompt", "classifier:hard", "oracle"} <= set(names)
    results = drain(desk.run(EvaluationPlan((rows,), names, limit=6))).results
    assert {result.strategy for result in results} == set(names)
    assert all(result.n == 6 and not result.failed for result in results)
    right = {result.strategy: result.correct for result in results}
    assert right["oracle"] >= max(right["base"], right["math"], right["code"])
    assert right[names[-1]] == right["base"], "a LoRA that was not trained changes nothing"


def test_the_oracle_alone_brings_the_experts_with_it(desk, rows):
    results = drain(desk.run(EvaluationPlan((rows,), ("oracle",), limit=3))).results
    assert [r.strategy for r in results] == ["base", "code", "math", "oracle"]


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("maths", "did you mean 'math'"),
        ("few-shot:gone.json", "cannot be read"),
        ("few-shot:gone", "no mixture 'gone'"),
        ("lora:/nowhere", "holds no LoRA adapter"),
        ("prompt:soft", "did you mean 'prompt"),
    ],
)
def test_a_strategy_that_is_not_there_is_named(desk, rows, strategy, words):
    with pytest.raises(T2LocalError, match=words):
        drain(desk.run(EvaluationPlan((rows,), (strategy,))))


def test_a_mixture_of_an_expert_that_is_gone_or_of_scored_rows_is_refused(desk, rows, tmp_path):
    gone = mixture_file(tmp_path / "gone.json", Mixture({"away": 1.0}))
    with pytest.raises(T2LocalError, match="names the expert 'away'"):
        drain(desk.run(EvaluationPlan((rows,), (gone,))))
    shots = [prompt_hash("Thing 3?")]
    known = mixture_file(tmp_path / "m.json", Mixture({"math": 1.0}), shot_prompts=shots)
    with pytest.raises(T2LocalError, match="found from 1 of the prompts of 'rows'"):
        drain(desk.run(EvaluationPlan((rows,), (known,))))


def test_a_search_leaves_its_shots_in_the_file(engine):
    from tests.engine.test_searches import CONFIG, SHOTS

    found = drain(engine.searches.search(SHOTS, "choice", CONFIG))
    file = engine.searches.file_of(found, "choice", CONFIG)
    assert set(file.task["shot_prompts"]) == {prompt_hash(shot.prompt) for shot in SHOTS}


@pytest.mark.parametrize("empty", [{"tasks": ()}, {"strategies": ("",)}])
def test_a_plan_without_tasks_or_strategies_is_refused(empty):
    with pytest.raises(T2LocalError, match="was given; choose one or more"):
        EvaluationPlan(**{"tasks": ("gsm8k",), "strategies": ("base",), **empty})


def test_an_evaluation_goes_on_alone_and_any_tab_finds_it_with_its_results(engine, rows):
    id = engine.evaluations.start(EvaluationPlan((rows,), ("base", "math", "oracle"), limit=6))
    assert engine.jobs.wait(id, 60).stage == FINISHED
    report = engine.evaluations.report(id)
    again = Engine(engine.models.choice.source).load()  # as after a restart
    later = again.evaluations.report(id)
    assert later.evaluation == report.evaluation
    assert {result.strategy for result in later.evaluation.results} == {"base", "math", "oracle"}
    assert all(len(part) == 6 for part in later.evaluation.records.values())
    assert (later.plan.strategies, later.plan.limit) == (("base", "math", "oracle"), 6)
    assert [Path(task).name for task in later.plan.tasks] == [Path(rows).name]


def test_an_evaluation_that_was_stopped_keeps_what_was_scored(engine, rows):
    id = engine.evaluations.start(EvaluationPlan((rows,), ("base", "math"), limit=6))
    engine.jobs.stop(id)
    assert engine.jobs.wait(id, 60).stage in (INTERRUPTED, FINISHED)
    if engine.jobs.status(id).stage == INTERRUPTED:
        engine.jobs.resume(id)
        assert engine.jobs.wait(id, 60).stage == FINISHED
    assert sum(r.n for r in engine.evaluations.report(id).evaluation.results) == 12


def test_damaged_results_are_one_sentence(engine, rows):
    id = engine.evaluations.start(EvaluationPlan((rows,), ("base",), limit=3))
    engine.jobs.wait(id, 60)
    (Record.of(id).folder / "results.json").write_text("")
    with pytest.raises(T2LocalError, match="cannot be read"):
        engine.evaluations.report(id)
