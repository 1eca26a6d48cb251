import errno
import io
import json
from dataclasses import replace

import pytest
import torch

from t2local import paths
from t2local.engine.training import status_on_disk
from t2local.errors import DiskFull, T2LocalError
from t2local.experts import Expert, ExpertStore, HeldOut
from t2local.experts.prompt_print import print_of
from t2local.progress import drain
from t2local.training.config import LORA, TrainConfig
from t2local.training.finding import printed_rows
from t2local.training.reports import Held, Notice, StepReport
from t2local.training.runner import ADAPTER_FOLDER, rows_behind, running
from t2local.training.runs import Plan, Run
from t2local.training.validation import OtherTask

pytestmark = pytest.mark.usefixtures("no_other_tasks")
CONFIG = {"steps": 3, "prompts_per_step": 4, "learning_rate": 2e-2, "checkpoint_every": 1}


def new_run(data, **config):
    return Run.create(Plan("red", data, "choice", TrainConfig(**CONFIG, **config)))


def test_a_run_ends_with_its_expert_and_a_summary_on_disk(loaded, svf, data):
    adopted, run = [], new_run(data)
    trained = drain(running(run, loaded, svf, adopted.append))
    assert adopted == [trained.expert]
    assert trained.expert.training["run"] == run.name
    result = json.loads((run.folder / "expert.json").read_text())
    assert result["expert"] == "red"
    assert HeldOut.from_dict(result["held_out"]).trained == trained.held_out.trained
    assert result["numbers"] == sum(svf.ranks.values())


def test_a_run_takes_its_experts_print_and_says_whether_similarity_finds_it(loaded, svf, data):
    trained = drain(running(new_run(data), loaded, svf, lambda expert: None))
    taken, store = trained.expert.prompt_print, ExpertStore(loaded.slug)
    assert taken.fits(loaded)
    assert torch.isfinite(taken.embeddings).all()
    assert store.print_of_others(loaded) is not None
    measured = trained.expert.training["found"]
    assert measured["of_own"] == trained.held_out.n
    assert 0 <= measured["own"] <= measured["of_own"]


def test_the_rows_behind_an_expert_are_those_of_its_print_in_order(loaded, svf, data):
    trained = drain(running(new_run(data), loaded, svf, lambda expert: None))
    rows = printed_rows(rows_behind(trained.expert))
    again = print_of(loaded, [row.turns for row in rows], lambda: svf.using({}))
    assert torch.equal(again.embeddings, trained.expert.prompt_print.embeddings)


def test_rows_that_changed_or_are_gone_are_nobodys(loaded, svf, data):
    trained = drain(running(new_run(data), loaded, svf, lambda expert: None))
    elsewhere = replace(trained.expert, training={**trained.expert.training, "run": "../x"})
    with pytest.raises(T2LocalError, match="No training run of 'red'"):
        rows_behind(elsewhere)
    changed = replace(trained.expert, training={**trained.expert.training, "data_sha256": "0"})
    with pytest.raises(T2LocalError, match="has changed since"):
        rows_behind(changed)


def test_forgetting_on_other_tasks_stands_on_the_card(loaded, svf, data, colours, monkeypatch):
    task = OtherTask("colours", tuple(colours[:4]))
    monkeypatch.setattr("t2local.training.runner.other_tasks", lambda *_: (task,))
    trained = drain(running(new_run(data), loaded, svf, lambda expert: None))
    (measured,) = trained.expert.training["forgetting"]
    assert (measured["task"], measured["n"]) == ("colours", 4)


def test_a_lora_run_leaves_an_adapter_and_no_expert(loaded, svf, data):
    run = new_run(data, method=LORA)
    trained = drain(running(run, loaded, svf, pytest.fail))
    assert trained.expert is None
    assert (run.folder / ADAPTER_FOLDER / "adapter_model.safetensors").is_file()
    assert json.loads((run.folder / "expert.json").read_text())["method"] == LORA


def test_a_full_disk_holds_the_run_until_there_is_room(loaded, svf, data, monkeypatch):
    whole = drain(running(new_run(data), loaded, svf, lambda expert: None))
    run, held = new_run(data), []
    record = Run.record

    def full_at_step_2(self, event):
        if isinstance(event, StepReport) and event.step == 2 and len(held) < 3:
            raise DiskFull("The disk is full.")
        record(self, event)

    monkeypatch.setattr(Run, "record", full_at_step_2)
    work = running(run, loaded, svf, lambda expert: None)
    trained = drain(work, lambda e: held.append(e) if isinstance(e, Held) else None)
    assert [h.reason for h in held] == ["The disk is full."] * 3
    assert torch.equal(trained.outcome.flat, whole.outcome.flat)
    assert [m["step"] for m in run.metrics() if m["event"] == "StepReport"] == [1, 2, 3]


class HalfWritten(io.BufferedRandom):
    """A file on a disk that is full in the middle of a line."""

    def write(self, line):
        super().write(line[: len(line) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_half_a_line_is_taken_back_when_the_disk_is_full(loaded, svf, data, monkeypatch):
    run = new_run(data)
    drain(running(run, loaded, svf, lambda expert: None))
    before = (run.folder / "metrics.jsonl").read_bytes()
    opening = lambda path: HalfWritten(io.FileIO(path, "a+"))  # noqa: E731
    monkeypatch.setattr(paths, "appending", opening)
    with pytest.raises(DiskFull):
        run.record(Notice(9, "Something that does not fit on the disk."))
    monkeypatch.undo()
    assert (run.folder / "metrics.jsonl").read_bytes() == before


def named_red(loaded, svf):
    """Another expert of that name among the user's own; what reads it back."""
    store = ExpertStore(loaded.slug)
    z = {name: torch.full((r,), 1.5) for name, r in svf.ranks.items()}
    store.save(Expert("red", loaded.name, svf.fingerprint(z), z))
    return store


def test_an_expert_that_took_the_runs_name_meanwhile_is_kept(loaded, svf, data):
    store, run, told = named_red(loaded, svf), new_run(data), []
    work = running(run, loaded, svf, store.save)
    trained = drain(work, lambda e: told.append(e.text) if isinstance(e, Notice) else None)
    assert trained.expert.name == "red-2"
    assert told == ["Another expert is called 'red' by now: this one is kept as 'red-2'."]
    assert {float(row.min()) for row in store.load("red").z.values()} == {1.5}
    assert store.load("red-2").training["run"] == run.name
    assert run.result()["expert"] == "red-2"
    assert status_on_disk(run).name == "red-2"


def test_an_expert_left_by_the_same_run_is_replaced(loaded, svf, data):
    store, run = ExpertStore(loaded.slug), new_run(data)
    drain(running(run, loaded, svf, store.save))
    (run.folder / "expert.json").unlink()  # killed before it was written
    assert drain(running(run, loaded, svf, store.save)).expert.name == "red"
    assert [f.path.stem for f in store.files()] == ["red"]
