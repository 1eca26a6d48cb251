"""All long work in one list, in a browser and without one."""

import pytest

from t2local.engine.job_record import ANSWER, DOWNLOAD, LOADING, JobStatus, new_id
from t2local.engine.jobs import Work
from t2local.errors import Cancelled
from t2local.progress import FAILED, FINISHED, INTERRUPTED, NEXT, Progress
from t2local.ui.jobs_tab import jobs_html
from tests.ui.conftest import PHONE, open_tab


class Endless(Work):
    """Takes steps until it is stopped."""

    kind = DOWNLOAD

    def __init__(self, id, name="some/model"):
        super().__init__(id, name)
        self.settings = {"model_id": name}

    def run(self, job):
        for step in range(10**9):
            if job.cancel.cancelled:
                raise Cancelled
            yield Progress("fetching", min(step, 500), 1000, "bytes")

    def stopped(self, status):
        return "Stopped; it goes on from there."


@pytest.mark.parametrize("stage", NEXT)
def test_a_row_offers_what_can_follow(stage):
    html = jobs_html([JobStatus("id", DOWNLOAD.name, "some/model", stage, 1, 2)])
    assert f'data-stage="{stage}"' in html
    assert ('data-act="resume"' in html) == (stage in ("paused", "failed", "interrupted"))
    assert ('data-act="stop"' in html) == (stage in ("queued", "running", "paused"))


@pytest.mark.parametrize("kind", [LOADING, ANSWER])
def test_what_cannot_be_taken_up_again_offers_nothing(kind):
    for stage in (FAILED, INTERRUPTED, FINISHED):
        assert "data-act" not in jobs_html([JobStatus("id", kind.name, "it", stage)])


@pytest.mark.browser
@pytest.mark.parametrize("size", [(1440, 900), PHONE])
def test_long_work_is_listed_stopped_and_taken_up_again(open_page, served, size):
    jobs = served.engine.jobs
    jobs.register(DOWNLOAD, lambda id, settings: Endless(id))
    id = jobs.start(Endless(new_id("some/model")))
    page = open_page(size=size)
    open_tab(page, "Jobs")
    row = f'[data-job="{id}"]'
    page.wait_for_selector(f'{row}[data-stage="running"]')
    assert "some/model" in page.inner_text(row)
    page.click(f"{row} [data-act=stop]")
    page.wait_for_selector(f'{row}[data-stage="interrupted"]')
    assert "it goes on from there" in page.inner_text(row)
    page.reload()  # the page stays in its tab
    page.click(f"{row} [data-act=resume]")
    page.wait_for_selector(f'{row}[data-stage="running"]')
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= size[0], f"the page is {width} pixels wide"
    jobs.stop(id)
    assert jobs.wait(id, 20).stage == INTERRUPTED
