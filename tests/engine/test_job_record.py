"""What is kept of a job on disk, however the program ended."""

import json

import pytest

from t2local.engine.job_record import DOWNLOAD, SEARCH, JobStatus, Record, new_id
from t2local.engine.jobs import Jobs, Work
from t2local.errors import Cancelled, T2LocalError
from t2local.progress import BUSY, FAILED, FINISHED, INTERRUPTED

PLAN = {"rows": 3}


def kept(stage, id="20260101-120000-red"):
    record = Record.of(id)
    record.begin(JobStatus(id, SEARCH.name, "red", stage, 2, 5), PLAN)
    return record


@pytest.mark.parametrize("stage", BUSY)
def test_what_was_at_work_when_the_program_ended_was_cut_off(stage):
    status, settings = kept(stage).read()
    assert (status.stage, status.step, settings) == (INTERRUPTED, 2, PLAN)
    assert "resume it" in status.message


@pytest.mark.parametrize("stage", [FINISHED, FAILED])
def test_what_had_ended_stays_as_it_was(stage):
    assert kept(stage).read()[0].stage == stage


def test_events_are_read_back_and_half_a_line_is_passed_over():
    record = kept(FINISHED)
    record.append({"number": 1})
    record.append({"number": 2})
    with (record.folder / "events.jsonl").open("ab") as file:
        file.write(b'{"number": 3')
    assert [event["number"] for event in record.events()] == [1, 2]
    record.begin(JobStatus(record.folder.name, SEARCH.name, "red", FINISHED), PLAN)
    assert list(record.events()) == [], "a new try begins anew"


@pytest.mark.parametrize("text", ["", "[]", "nonsense", '{"status": {}, "settings": {}}'])
def test_a_damaged_record_is_one_sentence_and_hides_no_other(text):
    kept(FINISHED, "20260101-120000-whole")
    (kept(FINISHED).folder / "job.json").write_text(text)
    with pytest.raises(T2LocalError, match="cannot be read"):
        Record.of("20260101-120000-red").read()
    assert [status.id for status in Jobs().history()] == ["20260101-120000-whole"]


@pytest.mark.parametrize("id", ["", "..", "../../etc/passwd", "a/b", "/etc", "a b"])
def test_what_cannot_be_an_id_reaches_no_file(id):
    with pytest.raises(T2LocalError, match="There is no job"):
        Jobs().status(id)


def test_ids_sort_by_time_and_differ():
    first = new_id("My mixture")
    Record.of(first).begin(JobStatus(first, SEARCH.name, "x", FINISHED), PLAN)
    second = new_id("My mixture")
    assert first != second
    assert second.startswith(first[:8])


class Counting(Work):
    kind = SEARCH

    def __init__(self, id, most, lane=""):
        super().__init__(id, id, lane=lane)
        self.settings, self.most = {"most": most}, most

    def run(self, job):
        yield from range(self.most)
        return f"{self.most} counted."

    def line(self, event):
        return {"number": event}


def test_a_job_leaves_its_events_and_its_end_on_disk():
    jobs = Jobs()
    id = jobs.start(Counting(new_id("count"), 3))
    assert jobs.wait(id, 10).message == "3 counted."
    status, settings = Record.of(id).read()
    assert (status.stage, settings) == (FINISHED, {"most": 3})
    assert [event["number"] for event in Record.of(id).events()] == [0, 1, 2]


def test_jobs_of_one_lane_wait_for_each_other_and_others_do_not():
    jobs, order = Jobs(), []

    class Noting(Counting):
        def run(self, job):
            order.append(self.id)
            yield from super().run(job)

    ids = [jobs.start(Noting(f"one-{n}", 2, "one")) for n in range(20)]
    other = jobs.start(Noting("other", 2, "other"))
    for id in [*ids, other]:
        assert jobs.wait(id, 10).stage == FINISHED
    assert [id for id in order if id != other] == ids


class Waiting(Counting):
    """Counts until it is told to end."""

    def run(self, job):
        while not job.cancel.cancelled:
            yield 0
        raise Cancelled


def test_a_job_that_waits_its_turn_is_stopped_at_once_and_can_be_taken_up():
    jobs = Jobs()
    jobs.register(SEARCH, lambda id, settings: Counting(id, settings["most"], "one"))
    first = jobs.start(Waiting("first", 0, "one"))
    second = jobs.start(Counting("second", 3, "one"))
    jobs.stop(second)
    assert jobs.status(second).stage == INTERRUPTED
    assert [status.id for status in jobs.busy()] == [first]
    jobs.stop(first)
    assert jobs.wait(first, 10).stage == INTERRUPTED
    jobs.resume(second)
    assert jobs.wait(second, 10).stage == FINISHED


def test_a_disk_that_goes_away_ends_no_lane(monkeypatch):
    def gone(*_):
        raise OSError(5, "Input/output error")

    jobs = Jobs()
    first = jobs.start(Waiting("first", 3))
    with monkeypatch.context() as patched:
        patched.setattr(Record, "write", gone)
        jobs.stop(first)
        assert jobs.wait(first, 10).stage == INTERRUPTED
    second = jobs.start(Counting("second", 3))
    assert jobs.wait(second, 10).stage == FINISHED


def test_the_newest_of_a_kind_is_found_among_newer_ones_of_others():
    kept(FINISHED, "20260101-120000-old")
    for number in range(5):
        record = Record.of(f"20260102-12000{number}-new")
        record.begin(JobStatus(record.folder.name, DOWNLOAD.name, "m", FINISHED), PLAN)
    assert [s.id for s in Jobs().history(SEARCH, most=1)] == ["20260101-120000-old"]


@pytest.mark.parametrize(("name", "value"), [("stage", "x"), ("started_s", "x"), ("step", None)])
def test_a_status_of_other_types_is_refused(name, value):
    record = kept(FINISHED)
    path = record.folder / "job.json"
    values = json.loads(path.read_text())
    values["status"][name] = value
    path.write_text(json.dumps(values))
    with pytest.raises(T2LocalError, match="cannot be read"):
        record.read()
