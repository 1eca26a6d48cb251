"""The Label tab in a browser, on a real engine with a two-layer random model; and its API."""

import csv
import io

import pytest
import torch
from gradio_client import Client

from t2local.engine.engine import Engine
from t2local.experts import Expert
from t2local.ui.page import build_app
from tests.ui.conftest import PHONE, open_tab, opened

pytestmark = pytest.mark.browser

LABELS = ("billing", "delivery")


@pytest.fixture
def url(tiny_folder):
    engine = Engine(str(tiny_folder("llama"))).load()
    _, svf = engine._trained_model()
    generator = torch.Generator().manual_seed(0)
    z = {n: 1 + 0.5 * torch.randn(r, generator=generator) for n, r in svf.ranks.items()}
    mails = Expert("mails", engine.status.model_name, svf.fingerprint(z), z, labels=LABELS)
    engine.adopt(mails)
    url, close = opened(build_app(engine))
    yield url
    close()


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "mails.csv"
    lines = "".join(f"{n};Where is my parcel number {n}, please?\n" for n in range(40))
    path.write_text("id;mail\n" + lines, encoding="utf-8")
    return path


def label_page(open_page, url, **options):
    page = open_page(url=url, ready=False, **options)
    page.wait_for_selector("#message textarea:enabled")
    open_tab(page, "Label")
    return page


def test_a_table_in_and_the_same_with_labels_out(open_page, url, table):
    page = label_page(open_page, url)
    page.set_input_files("#label-file input[type=file]", table)
    page.wait_for_selector("#label-preview >> text=mail")
    page.click("#label-start:enabled")
    page.wait_for_selector("#label-status [data-ended]")
    assert page.locator("#label-table tbody tr").count() == 40
    with page.expect_download() as saved:
        page.click("#label-save")
    text = saved.value.path().read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=";"))
    assert [row["id"] for row in rows] == [str(n) for n in range(40)]
    assert {row["label"] for row in rows} <= set(LABELS)
    assert saved.value.suggested_filename == "mails-labelled.csv"
    page.close()
    again = label_page(open_page, url, size=PHONE)
    again.wait_for_selector("#label-status [data-ended]")
    width = again.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE[0], f"the page is {width} pixels wide"


def test_a_table_whose_column_is_unclear_asks_for_it(open_page, url, tmp_path):
    path = tmp_path / "numbers.csv"
    path.write_text("a,b\n1,2\n3,4\n", encoding="utf-8")
    page = label_page(open_page, url)
    page.set_input_files("#label-file input[type=file]", path)
    page.wait_for_selector("#label-preview >> text=choose one of a, b")
    assert page.is_disabled("#label-start")
    page.click("#label-column input")
    page.get_by_role("option", name="b", exact=True).click()
    page.wait_for_selector("#label-start:enabled")


def test_programs_get_labels_with_probabilities(url):
    client = Client(url, verbose=False)
    found = client.predict(["Where is it?", "The bill is wrong."], "mails", api_name="/label")
    assert [set(shares) for shares in found] == [set(LABELS)] * 2
    with pytest.raises(Exception, match="is not there"):
        client.predict(["Where is it?"], "nobody", api_name="/label")
    with pytest.raises(Exception, match="is not what this page sends"):
        client.predict("no list", "mails", api_name="/label")
