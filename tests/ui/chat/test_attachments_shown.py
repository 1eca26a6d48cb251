"""Files in a message: attached in the page, read by the model, shown with what was read."""

import pytest

from tests.ui.conftest import DESKTOP, PHONE, done

pytestmark = pytest.mark.browser


def attach(page, path):
    page.set_input_files("#message input[type=file]", str(path))
    page.wait_for_selector("#message .thumbnail-item, #message [aria-label*=emove]")


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")])
def test_a_file_is_read_and_says_how_much_of_it(open_page, served, tmp_path, size, scheme):
    path = tmp_path / "shop <b>.csv"
    path.write_text("item;price\n" + "".join(f"thing {i};{i}\n" for i in range(30)))
    page = open_page(size, color_scheme=scheme)
    attach(page, path)
    page.fill("#message textarea", "What costs 7?")
    page.press("#message textarea", "Enter")
    page.wait_for_selector(".attached summary")
    done(page)
    assert "31 lines" in page.inner_text(".attached summary")
    assert "shop b.csv" in page.inner_text(".attached summary")
    assert page.inner_text(".said").strip() == "What costs 7?"
    page.click(".attached summary")
    assert "thing 29;29" in page.inner_text(".attached pre")
    box = page.locator(".attached").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= size[0]
    _, request = served.engine.requests[-1]
    assert "thing 29;29" in request.messages[-1]["content"]
    assert request.messages[-1]["content"].endswith("What costs 7?")


def test_a_file_that_cannot_be_read_leaves_the_message_as_it_was(open_page, served, tmp_path):
    path = tmp_path / "picture.txt"
    path.write_bytes(bytes(range(256)) * 40)
    page = open_page()
    before = len(served.engine.chats.list())
    attach(page, path)
    page.fill("#message textarea", "What is in it?")
    page.press("#message textarea", "Enter")
    page.wait_for_selector(".toast-body >> text=is no text")
    assert page.input_value("#message textarea") == "What is in it?"
    assert page.locator(".turn").count() == 0
    assert len(served.engine.chats.list()) == before
