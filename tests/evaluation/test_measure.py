"""An evaluation resumes to the same numbers, survives broken experts, and batches what it can."""

import itertools
from dataclasses import replace

import pytest
import torch

from t2local.adapt.dispatch import label_probabilities
from t2local.errors import Cancelled, T2LocalError
from t2local.evaluation import measure as running
from t2local.evaluation.measure import RowFailed, Scored, evaluate
from t2local.evaluation.questions import QuestionSet
from t2local.evaluation.variants import asking, base, mixed
from t2local.progress import CancelToken, drain
from t2local.svf import Mixture
from t2local.tasks.benchmarks import prompt_hashes

HALF = Mixture({"math": 0.5, "code": 0.5})


def variants(subject):
    return [
        base(subject),
        mixed(subject, "math", Mixture({"math": 1.0})),
        asking(subject, "classifier"),
    ]


def verdicts(found):
    return {
        cell: [(r.index, r.answer, r.right, dict(r.alpha)) for r in sorted(
            records.values(), key=lambda r: r.index)]
        for cell, records in found.records.items()
    }  # fmt: skip


def counted(monkeypatch):
    """How many prompts were answered, whoever asks."""
    asked = []
    real = running.answer_batch

    def counting(loaded, prompts, *rest, **options):
        asked.extend(prompts)
        return real(loaded, prompts, *rest, **options)

    monkeypatch.setattr(running, "answer_batch", counting)
    return asked


def test_a_cancelled_run_goes_on_to_the_same_numbers_and_asks_no_prompt_twice(
    subject, choosing, writing, monkeypatch, home, tmp_path
):
    tasks = [choosing, writing]
    whole = verdicts(drain(evaluate(subject, tasks, variants(subject))))
    monkeypatch.setenv("T2LOCAL_HOME", str(tmp_path / "another"))
    asked, cancel = counted(monkeypatch), CancelToken()
    work = evaluate(subject, tasks, variants(subject), cancel=cancel)
    for event in work:
        if isinstance(event, Scored) and event.strategy == "math" and event.done:
            cancel.cancel()
            break
    with pytest.raises(Cancelled):
        drain(work)
    assert 0 < len(asked) < 3 * 45
    assert verdicts(drain(evaluate(subject, tasks, variants(subject)))) == whole
    assert len(asked) == 3 * 45, "every prompt once for each strategy"


def test_a_second_run_reads_what_the_first_wrote(subject, choosing, monkeypatch):
    first = drain(evaluate(subject, [choosing], [base(subject)]))
    asked = counted(monkeypatch)
    second = drain(evaluate(subject, [choosing], [base(subject)]))
    assert asked == []
    assert second == first


def test_a_retrained_expert_of_the_same_name_is_measured_anew(subject, choosing, monkeypatch):
    one = mixed(subject, "math", Mixture({"math": 1.0}))
    drain(evaluate(subject, [choosing], [one]))
    z = {name: row + 0.1 for name, row in subject.experts["math"].z.items()}
    experts = {**subject.experts, "math": replace(subject.experts["math"], z=z)}
    asked = counted(monkeypatch)
    other = replace(subject, experts=experts)
    drain(evaluate(other, [choosing], [mixed(other, "math", Mixture({"math": 1.0}))]))
    assert len(asked) == 40


def test_rows_of_z_give_what_each_mixture_gives_alone(subject, choosing, writing):
    asked = asking(subject, "prompt")
    found = drain(evaluate(subject, [choosing, writing], [asked]))
    for task in (choosing, writing):
        for record in itertools.islice(found.records[task.name, "prompt"].values(), 6):
            alone = QuestionSet(
                "alone", "", (task.questions[record.index],), task.verdict, task.max_new_tokens
            )
            held = mixed(subject, "alone", Mixture(record.alpha))
            (single,) = drain(evaluate(subject, [alone], [held])).records["alone", "alone"].values()
            assert single.answer == record.answer


def test_pass_1_in_a_batch_is_that_of_the_chat(subject, choosing):
    prompts = [q.example.prompt for q in choosing.questions[:3]]
    decisions = asking(subject, "classifier").decide(prompts)
    for prompt, decision in zip(prompts, decisions, strict=True):
        with subject.svf.using(subject.experts["reader"].z):
            labels = subject.experts["reader"].labels
            (alone,) = label_probabilities(subject.loaded, [prompt], labels)
        assert decision.probabilities == pytest.approx(alone, abs=1e-4)
        assert decision.chosen == max(alone, key=alone.get)


def test_a_hard_dispatcher_answers_with_one_expert_alone(subject, choosing):
    prompts = [q.example.prompt for q in choosing.questions]
    for decision in asking(subject, "prompt:hard").decide(prompts):
        assert decision.mixture.alpha in ({}, {decision.chosen: 1.0})


@pytest.mark.parametrize("value", [float("nan"), 1e30])
@pytest.mark.parametrize("which", ["choosing", "writing"])
def test_an_expert_that_yields_nan_fails_its_row_and_the_run_goes_on(
    subject, value, which, request
):
    task = request.getfixturevalue(which)
    z = {name: torch.full_like(row, value) for name, row in subject.experts["math"].z.items()}
    experts = {**subject.experts, "math": replace(subject.experts["math"], z=z)}
    broken = replace(subject, experts=experts)
    one = mixed(broken, "math", Mixture({"math": 1.0}))
    events = []
    found = drain(evaluate(broken, [task], [one, base(broken)]), events.append)
    failed, right = found.results
    assert failed.failed
    assert failed.accuracy is None
    assert right.n == len(task.questions)
    assert any(isinstance(event, RowFailed) and event.strategy == "math" for event in events)


def test_a_mixture_found_on_scored_prompts_is_refused_before_anything_is_asked(
    subject, choosing, monkeypatch
):
    asked = counted(monkeypatch)
    shots = prompt_hashes([choosing.questions[7].example])
    work = evaluate(subject, [choosing], [base(subject), mixed(subject, "few-shot:m", HALF, shots)])
    with pytest.raises(T2LocalError, match="found from 1 of the prompts of 'colours'"):
        drain(work)
    assert asked == []


def test_a_prompt_longer_than_the_context_counts_as_wrong_and_is_said(subject, writing):
    long = replace(writing.questions[0], user="word " * 600)
    task = replace(writing, questions=(long, *writing.questions[1:]))
    found = drain(evaluate(subject, [task], [base(subject)]))
    (result,) = found.results
    assert (result.n, result.failed_prompts) == (5, 1)
    assert "longer" in found.records["sums", "base"][0].failed
