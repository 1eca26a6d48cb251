"""A night's learning: when, on what, and that nothing changes before somebody says so."""

import datetime
import pathlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from t2local.engine.lessons import Lessons, lessons_of
from t2local.engine.overnight import (
    FEWEST_NEW,
    NAME,
    TRIES,
    Appointment,
    Nights,
    begin,
    fresh_rows,
    is_proven,
)
from t2local.engine.verdicts import Verdict, Verdicts
from t2local.errors import T2LocalError
from t2local.experts import Expert, ExpertStore
from t2local.progress import FINISHED
from t2local.tasks.rows import WHOLE, Example
from t2local.tasks.uploads import write_rows
from t2local.training.runner import adopt_offered
from t2local.training.runs import Plan, Run

GAIN = {
    "held_out": {"n": 9, "base": 0.5, "trained": 1.0, "ci95_difference": [0.1, 0.4]},
    "forgetting": [],
}


def row(number):
    return Example(f"q {number}", "yes", {"choices": ["yes", "no"], "label": 0, WHOLE: True})


def at(hour, minute):
    return datetime.datetime(2026, 1, 31, hour, minute)


@pytest.mark.parametrize(
    ("text", "time"), [("02:30", (2, 30)), ("2:30", (2, 30)), ("23:59", (23, 59))]
)
def test_a_time_of_day(text, time):
    assert Appointment.read(text).at == datetime.time(*time)


@pytest.mark.parametrize("text", ["", "24:00", "2", "02:60", "half past two", "-1:00", "02:30:00"])
def test_what_is_no_time_of_day(text):
    with pytest.raises(T2LocalError, match="no time of day"):
        Appointment.read(text)


def test_it_waits_until_the_next_such_time():
    appointment = Appointment.read("02:30")
    assert appointment.wait(at(2, 0)) == datetime.timedelta(minutes=30)
    assert appointment.wait(at(2, 30)) == datetime.timedelta(days=1)
    assert appointment.wait(at(3, 0)) == datetime.timedelta(hours=23.5)


def test_rows_are_new_until_a_run_has_learnt_from_them(home):
    lessons, training = Lessons(tuple(row(n) for n in range(5))), Asked()
    assert fresh_rows(lessons, training) == list(lessons.choices)
    source = write_rows([row(1), row(3)], NAME)
    Run.create(Plan("x", str(source), "choice"))
    assert [r.prompt for r in fresh_rows(lessons, training)] == ["q 0", "q 2", "q 4"]
    training.counts = False
    assert len(fresh_rows(lessons, training)) == 5, "its run failed, or what it made was dropped"
    training.counts = True
    source.unlink()
    assert len(fresh_rows(lessons, training)) == 5


def test_rows_of_another_file_are_none_of_them(home):
    source = write_rows([row(1)], "mails")
    Run.create(Plan("x", str(source), "choice"))
    assert len(fresh_rows(Lessons((row(1),)), Asked())) == 1


@pytest.mark.parametrize(
    "turns",
    [
        [("user", "Two\nlines? \n")],
        [("system", "Be kind. "), ("user", "Hi")],
        [("user", "Not answered"), ("user", "And now?")],
        [("user", "Stopped"), ("assistant", ""), ("user", "Again")],
    ],
)
def test_what_is_learnt_is_not_new_however_its_turns_are_written(home, turns):
    told = tuple({"role": role, "content": text} for role, text in turns)
    lessons = lessons_of([Verdict("id", "ab" * 8, told, " No. ", wanted="Yes.\n")])
    Run.create(Plan("x", str(write_rows(lessons.choices, NAME)), "choice"))
    assert fresh_rows(lessons, Asked()) == []


class Asked:
    """What would be started, as `Training` is asked to."""

    def __init__(self, own=(), stage=FINISHED):
        self.own, self.started, self.adopted = list(own), [], []
        self.counts, self.waiting = True, []
        self.jobs = SimpleNamespace(wait=lambda name: SimpleNamespace(stage=stage))

    def begins(self):
        return self.own

    def offers(self):
        return self.waiting

    def has_learnt(self, run):
        return self.counts

    def start(self, name, source, reward, length, config, start, offered):
        self.started.append((name, source, reward, start, offered))
        run = Run.create(Plan(name, source, reward, start=start, offered=offered))
        run.finish(GAIN)
        return run.name

    def adopt_offered(self, name):
        self.adopted.append(name)


class Rows:
    """Verdicts that teach so many choices."""

    def __init__(self, count):
        from tests.engine.test_lessons import verdict

        self.verdicts = [verdict(f"no {n}", f"q {n}", wanted=f"yes {n}") for n in range(count)]

    def all(self):
        return self.verdicts


def test_too_few_new_rows_are_no_run(home):
    training = Asked()
    assert begin(training, Rows(FEWEST_NEW - 1)) == ""
    assert training.started == []


def test_enough_are_one_whose_expert_is_offered(home):
    training = Asked()
    assert begin(training, Rows(FEWEST_NEW))
    ((name, _, reward, start, offered),) = training.started
    assert (name, reward, start, offered) == (NAME, "choice", "", True)
    assert begin(training, Rows(FEWEST_NEW)) == "", "nothing is new any more"


def test_no_night_begins_while_an_offer_waits(home):
    training = Asked()
    training.waiting = ["an earlier run"]
    assert begin(training, Rows(FEWEST_NEW)) == ""


def test_one_bad_night_is_not_the_last(home):
    nights_seen, clock = [], [at(2, 0)]

    def wait(seconds):
        clock[0] += datetime.timedelta(seconds=seconds)
        return len(nights_seen) > 2

    def busy(training):
        nights_seen.append(clock[0])
        raise RuntimeError("out of memory")

    appointment = Appointment.read("02:30")
    own = Nights(appointment, Asked(), Rows(1), now=lambda: clock[0], wait=wait, busy=busy)
    own._keep()
    assert [seen.hour for seen in nights_seen] == [2, 2, 2]
    assert nights_seen[1] - nights_seen[0] == datetime.timedelta(days=1)


def test_an_expert_of_earlier_rows_goes_on_with_the_new_ones_alone(home):
    training, rows = Asked(own=[NAME]), Rows(FEWEST_NEW + 7)
    old = lessons_of(rows.all()).choices[:7]
    Run.create(Plan("x", str(write_rows(old, NAME)), "choice"))
    begin(training, rows)
    ((_, source, _, start, _),) = training.started
    assert start == NAME
    with pathlib.Path(source).open(encoding="utf-8") as file:
        assert len(file.readlines()) == FEWEST_NEW


def nights(training, adopts=False, busy=lambda training: "", rows=FEWEST_NEW, waited=None):
    appointment = Appointment.read("02:30", adopts)
    log = waited if waited is not None else []
    return Nights(appointment, training, Rows(rows), busy=busy, wait=lambda s: bool(log.append(s)))


def test_nothing_is_adopted_unless_the_person_said_so(home):
    training = Asked()
    nights(training).night()
    assert (len(training.started), training.adopted) == (1, [])


@pytest.mark.parametrize(
    ("result", "adopted"),
    [
        (GAIN, True),
        ({**GAIN, "held_out": {"ci95_difference": [0.0, 0.4]}}, False),
        ({**GAIN, "since_start": {"ci95_difference": [-0.1, 0.2]}}, False),
        ({**GAIN, "since_start": {"ci95_difference": [0.1, 0.2]}}, True),
        ({**GAIN, "forgetting": [{"ci95_difference": [-0.3, -0.1]}]}, False),
        ({**GAIN, "forgetting": [{"ci95_difference": [-0.3, 0.1]}]}, True),
        ({}, False),
    ],
)
def test_only_what_is_proven_and_costs_nothing_is_adopted_by_itself(result, adopted):
    assert is_proven(result) is adopted


def test_the_person_may_have_it_adopted(home):
    training = Asked()
    name = nights(training, adopts=True).night()
    assert training.adopted == [name]


def test_a_busy_machine_is_waited_for_and_given_up(home):
    training, waited = Asked(), []
    busy = iter(["others", "others", ""])
    nights(training, busy=lambda training: next(busy), waited=waited).night()
    assert (len(waited), len(training.started)) == (2, 1)
    training, waited = Asked(), []
    nights(training, busy=lambda training: "others", waited=waited).night()
    assert (len(waited), training.started) == (TRIES, [])


def test_an_offer_is_no_expert_until_it_is_adopted(home):
    from t2local.experts.store import write_expert

    store = ExpertStore("tiny")
    run = Run.create(Plan(NAME, "rows.jsonl", "choice", offered=True))
    z = {"layers.0": torch.full((4,), 1.5)}
    write_expert(Expert(NAME, "tiny", "print", z, training={"run": run.name}), run.offered)
    assert store.files() == []
    assert adopt_offered(run, "tiny", store.save).name == NAME
    assert [f.path.stem for f in store.files()] == [NAME]
    with pytest.raises(T2LocalError, match="offers nothing any more"):
        adopt_offered(run, "tiny", store.save)


def test_verdicts_of_a_real_folder_can_be_asked(home):
    assert begin(Asked(), Verdicts(home)) == ""
    assert replace(Appointment.read("1:00"), adopts=True).adopts
