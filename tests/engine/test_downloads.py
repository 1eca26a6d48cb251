import threading
import time

import pytest

from t2local.engine.jobs import Jobs
from t2local.engine.model_slot import DONE, FAILED, STOPPED, Downloads
from t2local.errors import T2LocalError
from t2local.progress import FetchProgress

TOTAL = 1000


def ended(downloads, timeout_s=10):
    deadline = time.monotonic() + timeout_s
    while downloads.of("some/model").running:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return downloads.of("some/model")


@pytest.fixture
def hub(monkeypatch):
    """A Hub that gives a byte at a time and waits for `go_on` after the first half."""
    go_on, kept = threading.Event(), [0]

    def fetching(model_id, cancel):
        for done in range(kept[0], TOTAL + 1, 100):
            if done > TOTAL // 2 and not go_on.wait(timeout=0.05):
                cancel.raise_if_cancelled()
            kept[0] = done
            yield FetchProgress(f"fetching {model_id}", done, TOTAL, "bytes", 5.0)

    monkeypatch.setattr("t2local.engine.model_slot.fetching", fetching)
    return go_on


def test_a_download_is_followed_to_its_end(hub):
    hub.set()
    downloads = Downloads(Jobs())
    assert downloads.of("some/model") is None
    downloads.start("some/model")
    found = ended(downloads)
    assert (found.stage, found.done_bytes, found.total_bytes) == (DONE, TOTAL, TOTAL)
    assert not downloads.running


def test_a_cancelled_download_goes_on_where_it_stopped(hub):
    downloads = Downloads(Jobs())
    downloads.start("some/model")
    while downloads.of("some/model").done_bytes < TOTAL // 2:
        time.sleep(0.01)
    assert downloads.of("some/model").bytes_per_s == 5.0
    downloads.cancel("some/model")
    stopped = ended(downloads)
    assert stopped.stage == STOPPED
    assert stopped.done_bytes >= TOTAL // 2
    hub.set()
    downloads.start("some/model")
    assert ended(downloads).stage == DONE


def test_what_goes_wrong_is_kept_as_a_sentence(monkeypatch):
    def fetching(model_id, cancel):
        raise T2LocalError(f"'{model_id}' is gated.")
        yield

    monkeypatch.setattr("t2local.engine.model_slot.fetching", fetching)
    downloads = Downloads(Jobs())
    downloads.start("some/model")
    found = ended(downloads)
    assert (found.stage, found.message) == (FAILED, "'some/model' is gated.")
