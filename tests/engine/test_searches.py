import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from t2local.adapt.cem import CEMConfig
from t2local.adapt.dispatch import Dispatched
from t2local.engine.engine import Engine
from t2local.engine.job_record import SEARCH, Record
from t2local.engine.requests import ChatRequest, Controls
from t2local.engine.searches import SearchPlan
from t2local.errors import T2LocalError
from t2local.experts.library import MixtureFile
from t2local.models.decode.sampling import Sampling
from t2local.progress import FINISHED, INTERRUPTED, drain
from t2local.svf import Mixture
from t2local.tasks.rows import Example

ASK = ({"role": "user", "content": "What is 2 + 2?"},)
SHOTS = [
    Example(f"{i}?", "ab"[i % 2], {"choices": ["a", "b"], "label": i % 2}) for i in range(4)
]  # fmt: skip
CONFIG = CEMConfig(population=5, generations=2)


def decision(engine, strategy, mixture=None):
    controls = Controls(strategy, mixture=mixture or Mixture())
    events = engine.answer("s", ChatRequest(ASK, controls, Sampling(max_new_tokens=2)))
    return next(e.dispatch for e in events if isinstance(e, Dispatched))


def test_a_mixture_found_and_kept_is_a_strategy_that_answers(engine):
    desk = engine.searches
    found = drain(desk.search(SHOTS, "choice", CONFIG))
    assert set(found.mixture.alpha) == {"math", "code"}, "skills only, never the classifier"
    desk.keep("ab", desk.file_of(found, "choice", CONFIG))
    assert "few-shot:ab" in engine.strategies()
    assert decision(engine, "few-shot:ab").mixture.alpha == found.mixture.alpha


def test_strength_scales_a_kept_mixture_and_alphas_of_the_sliders_do_not_count(engine):
    engine.searches.keep("m", MixtureFile(Mixture({"math": 0.5})))
    chosen = decision(engine, "few-shot:m", Mixture({"code": 1.0}, strength=0.5)).mixture
    assert (dict(chosen.alpha), chosen.strength) == ({"math": 0.5}, 0.5)


def test_a_mixture_per_matrix_answers_too(engine):
    name = engine.matrix_names()[0]
    mixture = Mixture({"math": 0.5}, by_matrix={name: {"code": 1.0}})
    engine.searches.keep("m", MixtureFile(mixture))
    assert decision(engine, "few-shot:m").mixture == mixture
    assert decision(engine, "few-shot", mixture).mixture == mixture


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (MixtureFile(Mixture({"gone": 1.0})), "names the expert 'gone'"),
        (MixtureFile(Mixture({"math": 1.0}), "other/model"), "was made for other/model"),
    ],
)
def test_a_mixture_that_cannot_be_used_here_is_refused(engine, file, words):
    engine.searches.keep("m", file)
    with pytest.raises(T2LocalError, match=words):
        decision(engine, "few-shot:m")


def test_a_mixture_that_is_not_there_is_refused(engine):
    with pytest.raises(T2LocalError, match="no mixture 'gone'"):
        decision(engine, "few-shot:gone")


def written(tmp_path, rows=SHOTS):
    path = tmp_path / "colours.jsonl"
    lines = [{"prompt": row.prompt, "answer": row.answer, **row.columns} for row in rows]
    path.write_text("\n".join(map(json.dumps, lines)))
    return SearchPlan("ab", str(path), "choice", CONFIG)


def test_a_search_goes_on_alone_and_any_tab_finds_it_with_its_settings(engine, tmp_path):
    plan = written(tmp_path)
    id = engine.searches.start(plan)
    Path(plan.source).unlink()  # as a page's temporary files are
    assert engine.jobs.wait(id, 60).stage == FINISHED
    report = engine.searches.report(id)
    assert [seen.number for seen in report.generations] == [1, 2]
    assert set(report.found.mixture.alpha) == {"math", "code"}
    again = Engine(engine.models.choice.source).load()  # as after a restart
    assert [status.id for status in again.jobs.history(SEARCH)] == [id]
    later = again.searches.report(id)
    assert later.generations == report.generations
    assert later.found == report.found
    assert (later.plan.name, later.plan.config) == ("ab", CONFIG)
    assert later.status.stage == FINISHED


def test_a_search_that_was_stopped_or_cut_off_is_taken_up_again(engine, tmp_path):
    plan = replace(written(tmp_path), config=replace(CONFIG, generations=400))
    id = engine.searches.start(plan)
    while engine.jobs.status(id).step < 2:
        time.sleep(0.01)
    engine.jobs.stop(id)
    stopped = engine.jobs.wait(id, 60)
    assert stopped.stage == INTERRUPTED
    assert "goes on from there" in stopped.message
    again = Engine(engine.models.choice.source).load()
    assert again.jobs.status(id).stage == INTERRUPTED
    again.jobs.resume(id)
    while again.jobs.status(id).step <= stopped.step:
        time.sleep(0.01)
    seen = again.searches.report(id).generations
    assert [generation.number for generation in seen] == list(range(1, len(seen) + 1))
    again.jobs.stop(id)
    again.jobs.wait(id, 60)


def test_a_search_that_cannot_begin_is_refused_at_once_and_leaves_nothing(engine, tmp_path):
    with pytest.raises(T2LocalError, match="There are 2 usable examples"):
        engine.searches.start(written(tmp_path, SHOTS[:2]))
    assert engine.jobs.history(SEARCH) == []


def test_a_search_is_taken_up_on_its_own_model_alone_and_loses_nothing(engine, tmp_path):
    plan = written(tmp_path)
    id = engine.searches.start(plan)
    assert engine.jobs.wait(id, 60).stage == FINISHED
    record = Record.of(id)
    status, settings = record.read()
    record.write(replace(status, stage=INTERRUPTED), {**settings, "model": "another"})
    again = Engine(engine.models.choice.source).load()
    with pytest.raises(T2LocalError, match="was begun on 'another'"):
        again.jobs.resume(id)
    assert len(again.searches.report(id).generations) == 2


@pytest.mark.parametrize("line", ["{}", "5", '{"number": 1}'])
def test_a_damaged_search_is_one_sentence(engine, tmp_path, line):
    id = engine.searches.start(written(tmp_path))
    engine.jobs.wait(id, 60)
    (Record.of(id).folder / "events.jsonl").write_text(line + "\n")
    again = Engine(engine.models.choice.source).load()
    with pytest.raises(T2LocalError, match="cannot be read"):
        again.searches.report(id)
