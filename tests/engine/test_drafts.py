"""Drafts are taken by pages while the training thread drops them and others restock."""

import sys
import threading
from types import SimpleNamespace

import pytest

from t2local.engine.drafts import Drafts
from t2local.progress import FINISHED, RUNNING


class Runs:
    """As `Training` and its `Jobs`: run `r7` makes `e7`; those in `over` are finished."""

    def __init__(self):
        self.over, self.jobs = set(), self

    def snapshot(self, run):
        return SimpleNamespace(name=f"e{run[1:]}-step-1")

    def status(self, run):
        stage = FINISHED if run in self.over else RUNNING
        return SimpleNamespace(name=f"e{run[1:]}", stage=stage)


@pytest.fixture
def often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_none_is_lost_and_none_of_a_finished_run_stays(often):
    runs = Runs()
    drafts, errors, lost = Drafts(runs), [], []

    def taking(first):
        for number in range(first, first + 300):
            drafts.take(f"r{number}")
            if f"e{number}-step-1" not in [draft.name for draft in drafts.besides(())]:
                lost.append(number)
            runs.over.add(f"r{number}")
            drafts.drop(f"e{number}")

    def guarded(first):
        try:
            taking(first)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(1000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not errors
    assert not lost
    assert drafts.besides(()) == []
    assert not drafts._by_run
