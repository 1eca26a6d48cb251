"""The Train tab in a browser, on a real engine with a two-layer random model."""

import csv

import pytest

from t2local.engine.engine import Engine
from t2local.training.runs import Run
from t2local.ui.page import build_app
from tests.ui.conftest import DESKTOP, PHONE, opened

pytestmark = pytest.mark.browser

COLOURS = ("red", "blue")


@pytest.fixture
def folder(tiny_folder):
    return tiny_folder("llama")


@pytest.fixture
def start(folder):
    """`start()`: a server on the same home; again: a restarted one."""
    closes = []

    def serve():
        engine = Engine(str(folder)).load()
        url, close = opened(build_app(engine))
        closes.append(close)
        return engine, url

    yield serve
    for close in closes:
        close()


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "two colours.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = ([f"thing {i}: red or blue?", COLOURS[i % 4 == 0]] for i in range(40))
        csv.writer(file).writerows([["question", "answer"], *rows])
    return path


def train_page(open_page, url, size=DESKTOP, **options):
    page = open_page(url=url, ready=False, size=size, **options)
    page.wait_for_selector("#message textarea:enabled")
    page.get_by_role("tab", name="Train").click()
    page.wait_for_selector("#train-file")
    return page


def give(page, path):
    page.set_input_files("#train-file input[type=file]", str(path))
    page.wait_for_selector("#train-measure")


def set_number(page, name, value):
    page.fill(f"#train-{name} input", str(value))
    page.press(f"#train-{name} input", "Tab")


def set_learning_rate(page):
    if not page.is_visible("#train-learning_rate"):
        page.click("#train-form .label-wrap")
        page.wait_for_selector("#train-learning_rate input")
        page.wait_for_timeout(500)  # what is typed while the form is still being made is lost
    set_number(page, "learning_rate", 0.02)


def begin(page, steps):
    page.click("#train-length >> text=the steps below")
    set_learning_rate(page)
    set_number(page, "steps", steps)
    page.click("#train-measure")  # the numbers are others now
    page.wait_for_selector("#train-measure", state="hidden")
    page.click("#train-start")
    page.wait_for_selector("#train-status [data-stage]")


def test_from_a_csv_to_an_expert_in_the_chat(open_page, start, table):
    engine, url = start()
    page = train_page(open_page, url)
    give(page, table)
    rows = page.inner_text("#train-rows")
    assert "40 rows" in rows
    page.locator("#train-rows .example summary").first.click()
    assert "<|im_start|>user" in page.inner_text("#train-rows"), "as the model reads them"
    assert "only 2 different answers" in page.inner_text("#reward-reason")
    assert page.input_value("#train-name input, #train-name textarea") == "two-colours"
    page.click("#try-base")
    page.wait_for_selector(".tried tbody tr")
    assert "+1.0" in page.inner_text(".tried")
    assert "steps of" in page.inner_text("#estimate")
    set_learning_rate(page)
    page.wait_for_selector("#train-measure")
    assert not page.is_visible("#train-start"), "other numbers take another time"
    begin(page, 12)
    page.wait_for_selector("[data-stage=finished]", timeout=60_000)
    page.wait_for_selector("#plot-reward .js-plotly-plot")
    assert "difference" in page.inner_text("#train-status")
    assert "two-colours" in [e.name for e in engine.experts()]
    page.click("#train-try")
    page.wait_for_selector("#mixer [data-expert=two-colours]")
    assert page.input_value("[data-expert=two-colours]") == "1"


def test_a_reload_and_a_restart_find_the_run_again_and_a_paused_one_can_be_tried(
    open_page, start, table
):
    _, url = start()
    page = train_page(open_page, url)
    give(page, table)
    begin(page, 9000)
    page.wait_for_selector("[data-stage=running]")
    page.reload()  # the page stays in its tab
    page.wait_for_selector("[data-stage=running]")
    page.click("#train-pause")
    page.wait_for_selector("[data-stage=paused]")
    page.wait_for_selector("#train-answers table.answers")
    page.wait_for_selector("#plot-layers .js-plotly-plot")
    page.click("#train-try")  # what it is so far
    page.wait_for_selector("#mixer [data-expert^=two-colours-step-]")
    page.get_by_role("tab", name="Train").click()
    page.click("#train-resume")
    page.wait_for_selector("[data-stage=running]")
    page.click("#train-stop")
    page.wait_for_selector("[data-stage=finished]", timeout=60_000)
    cut_off = Run.create(Run.open("last").plan())
    _, again = start()
    page = train_page(open_page, again)
    page.wait_for_selector("[data-stage=interrupted]")
    assert "Cut off" in page.inner_text("#train-status")
    assert page.is_visible("#train-resume")
    assert cut_off.name


HOSTILE = {
    "empty": (b"", "is empty"),
    "binary": (b"\x00\x01\xff" * 900, "is no text"),
    "one row": (b"prompt,answer\nhello,there\n", "at least 5"),
    "no answer": (b"prompt,remark\nhello,there\n", "no column for the answer"),
}


def test_hostile_files_get_a_sentence_each(open_page, start, tmp_path):
    _, url = start()
    page = train_page(open_page, url)
    for name, (content, words) in HOSTILE.items():
        path = tmp_path / f"{name}.csv"
        path.write_bytes(content)
        page.set_input_files("#train-file input[type=file]", str(path))
        page.wait_for_selector(f"#train-problem [role=alert] >> text={words}")
        page.click(
            "#train-file button[aria-label='Clear'], #train-file [aria-label='Remove this file']"
        )
        assert not page.is_visible("#train-measure")


def test_bad_rows_are_listed_and_left_out_only_when_told(open_page, start, tmp_path):
    _, url = start()
    page = train_page(open_page, url)
    rows = "".join(f"is {i} even?,{'no' if i % 2 else 'yes'}\n" for i in range(20))
    page.click("#train-paste .label-wrap")
    page.fill("#train-pasted textarea", f"prompt,answer\nnothing said,\n{rows}")
    page.click("#train-use-paste")
    page.wait_for_selector("#train-measure")
    assert "row 2: the answer is empty" in page.inner_text("#train-rows")
    page.click("#try-base")
    page.wait_for_selector(".toast-body >> text=1 bad row is")
    page.click("#train-leave-out input")
    page.click("#try-base")
    page.wait_for_selector(".tried tbody tr")


def test_the_columns_stand_below_each_other_on_a_phone(open_page, start):
    _, url = start()
    page = train_page(open_page, url, size=PHONE)
    page.click("#sample-sort_support_mails")
    page.wait_for_selector("#train-measure")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE[0], f"the page is {width} pixels wide"


def test_from_columns_that_nobody_knows_to_a_run_that_can_be_started(open_page, start, tmp_path):
    unclear = tmp_path / "unclear.csv"
    words = ["ab", "cd", "ef", "gh", "ij", "kl", "mn", "op"]
    unclear.write_text("zip,zap\n" + "".join(f"{w}x,x{w}\n" for w in words), encoding="utf-8")
    _, url = start()
    page = train_page(open_page, url)
    page.set_input_files("#train-file input[type=file]", str(unclear))
    page.wait_for_selector("#train-problem [role=alert]")
    assert not page.is_visible("#train-measure")
    assert page.locator("#train-rows table.raw tbody tr").count() == 5
    for picker, column in (("prompt", "zip"), ("answer", "zap")):
        page.click(f"#train-{picker} input")
        page.locator(f"#train-{picker} [role=option]").filter(has_text=column).click()
        page.wait_for_function(  # the next choice comes after what this one was answered with
            "([id, column]) => document.querySelector(id).value === column",
            arg=[f"#train-{picker} input", column],
        )
    page.wait_for_selector("#train-measure")
    assert page.inner_text("#train-problem").strip() == ""
    assert "abx" in page.inner_text("#train-rows .example >> nth=0")
    page.click("#try-base")
    page.wait_for_selector(".tried tbody tr")
