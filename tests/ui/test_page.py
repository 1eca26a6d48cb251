"""The page in a browser: asking, answering, changing one's mind, and coming back."""

import pytest

from t2local.errors import T2LocalError
from t2local.ui.page import TABS
from tests.ui.conftest import DESKTOP, PHONE, ask, done, open_tab, serve, writing

pytestmark = pytest.mark.browser


def test_an_answer_streams_and_is_kept(open_page, served):
    page = open_page()
    ask(page, "seven spiders, slowly", wait=False)
    writing(page, "Each spider")
    assert page.is_visible("#stop")
    assert not page.is_visible("#send")
    done(page)
    assert page.is_visible("#send")
    assert "The answer is 56" in page.inner_text(".turn.assistant")
    assert page.locator(".answer pre code").count() == 1
    assert page.locator(".answer table").count() == 1
    assert "tok/s" in page.inner_text("#line")
    assert "of 8" in page.inner_text("#line")
    card = page.inner_text(".card")
    assert "classifier" in card
    assert "0.86" in card
    assert served.engine.chats.list()[0].title == "seven spiders, slowly"


def test_enter_sends_and_shift_enter_makes_a_line(open_page):
    page = open_page()
    page.fill("#message textarea", "first")
    page.press("#message textarea", "Shift+Enter")
    page.keyboard.type("second")
    assert page.locator(".turn.user").count() == 0
    page.press("#message textarea", "Enter")
    page.wait_for_selector(".turn.user")
    assert page.inner_text(".turn.user .said") == "first\nsecond"
    assert page.input_value("#message textarea") == ""


def test_stop_keeps_the_partial_answer(open_page, served):
    page = open_page()
    ask(page, "stop very slowly", wait=False)
    writing(page, "Each spider")
    page.click("#stop")
    done(page)
    assert "stopped" in page.inner_text(".acts .facts")
    assert "The answer is 56" not in page.inner_text(".turn.assistant")
    assert served.engine.chats.load(served.engine.chats.list()[0].id).last_answer.content


def test_edit_regenerate_and_continue(open_page, served):
    page = open_page()
    ask(page, "ten spiders")
    page.hover(".turn.user")
    page.click("[data-act=edit]")
    page.fill(".editor textarea", "ten reasoning ants")
    page.press(".editor textarea", "Enter")
    page.wait_for_selector(".said >> text=ten reasoning ants")
    done(page)
    assert page.locator(".turn.user").count() == 1
    assert "reasoning" in page.inner_text(".card summary")
    asked = len(served.engine.requests)
    page.click("[data-act=retry]")
    page.wait_for_selector("#stop:visible")
    done(page)
    assert len(served.engine.requests) == asked + 1
    assert "2/2" in page.inner_text(".turn.assistant .turner")
    page.click("[data-act=carry_on]")
    page.wait_for_selector("#stop:visible")
    done(page)
    assert page.inner_text(".turn.assistant").count("The answer is 56") == 2


def test_answer_with_another_expert(open_page, served):
    page = open_page()
    ask(page, "override spiders")
    page.click("[data-act=answer_with][data-name=code]")
    page.wait_for_selector(".card >> text=code · your choice")
    done(page)
    assert served.engine.requests[-1][1].controls.override == "code"
    assert page.locator(".turn.assistant").count() == 1
    assert page.get_attribute("[data-name=code]", "aria-pressed") == "true"


def test_a_slider_reaches_the_running_answer_and_leaves_a_mark(open_page):
    page = open_page()
    ask(page, "steer slowly", wait=False)
    writing(page, "Each spider")
    page.focus("[data-expert=math]")
    page.keyboard.press("Home")
    page.wait_for_selector(".turn.live .steer")
    done(page)
    assert "[math -1.00]" in page.inner_text(".turn.assistant")
    assert "math +0.86 → −1.00" in page.get_attribute(".steer", "data-tip")
    assert page.input_value("#strategy input") == "manual"


def test_next_tokens_follow_the_slider(open_page):
    page = open_page()
    page.fill("#message textarea", "How many legs?")
    page.focus("[data-expert=math]")
    page.keyboard.press("End")
    page.wait_for_selector(".adapted .tok")
    assert page.locator(".next section").first.locator(".tok").count() == 10
    page.wait_for_selector(".adapted .tok:first-of-type >> text=7")


def test_base_beside_adapted(open_page):
    page = open_page()
    page.check("#compare input")
    ask(page, "compare spiders")
    columns = page.locator(".pair section")
    assert columns.count() == 2
    assert "THE ANSWER IS 56" in columns.nth(1).inner_text()


def test_refresh_and_restart_keep_the_chat(open_page, served, tmp_path):
    page = open_page()
    ask(page, "remember spiders")
    page.reload()
    page.wait_for_selector(".said >> text=remember spiders")
    done(page)
    assert page.get_attribute(".chat-row[aria-current]", "data-id")
    storage = page.context.storage_state()
    again, close = serve(served.engine.chats.folder)
    try:
        state = {**storage, "origins": [{**storage["origins"][0], "origin": again.url.rstrip("/")}]}
        second = open_page(url=again.url, storage_state=state)
        second.wait_for_selector(".said >> text=remember spiders")
    finally:
        close()


def said(page) -> str:
    """The words of the answer that is being written, or was."""
    return page.inner_text(".turn.assistant:last-child .answer").strip()


def kept(served, question: str):
    """The chat on disk that began with a question."""
    (found,) = [chat for chat in served.engine.chats.list() if chat.title == question]
    return served.engine.chats.load(found.id)


def test_a_reload_in_the_middle_of_an_answer_finds_it_growing_and_then_whole(open_page, served):
    page = open_page()
    ask(page, "reload slowly", wait=False)
    writing(page, "Each spider")
    page.reload()
    page.wait_for_selector(".said >> text=reload slowly")
    writing(page, "Each spider")
    before = said(page)
    assert page.is_visible("#stop")
    assert not page.is_visible("#send")
    assert "math" in page.inner_text(".card")
    page.wait_for_function(
        "before => document.querySelector('.turn.live .answer')?.innerText.length > before",
        arg=len(before),
    )
    done(page)
    assert "The answer is 56" in said(page)
    assert page.is_visible("#send")
    assert not page.is_visible("#stop")
    assert kept(served, "reload slowly").last_answer.timing["finish"] == "stop"


def test_a_second_tab_shows_an_answer_live_steers_it_and_stops_it(open_page, served):
    page = open_page()
    ask(page, "two tabs very slowly", wait=False)
    writing(page, "Each spider")
    other = page.context.new_page()
    other.goto(served.url)
    writing(other, "Each spider")
    other.wait_for_selector("[data-expert=math]", state="attached")
    assert other.is_visible("#stop")
    other.focus("[data-expert=math]")
    other.keyboard.press("Home")
    for tab in (page, other):
        tab.wait_for_selector(".turn.live .steer", timeout=30_000)
    other.click("#stop")
    for tab in (page, other):
        done(tab)
        assert "stopped" in tab.inner_text(".acts .facts")
        assert "[math -1.00]" in said(tab)
        assert tab.is_visible("#send")
        assert not tab.is_visible("#stop")
    assert said(page) == said(other)


def test_a_tab_that_shows_the_chat_already_sees_what_another_one_asks(open_page, served):
    page = open_page()
    ask(page, "first question")
    other = page.context.new_page()
    other.goto(served.url)
    done(other)
    ask(page, "second question slowly", wait=False)
    other.wait_for_selector(".said >> text=second question slowly")
    other.wait_for_selector(".turn.live")
    done(other)
    assert other.locator(".turn.assistant").count() == 2
    assert "The answer is 56" in said(other)


def test_a_page_that_is_closed_and_opened_again_finds_the_whole_answer(open_page, served):
    page = open_page()
    ask(page, "close slowly", wait=False)
    writing(page, "Each spider")
    context = page.context
    page.close()
    chat = kept(served, "close slowly")
    assert served.engine.jobs.wait(f"answer-{chat.id}", 30).stage == "finished"
    assert kept(served, "close slowly").last_answer.content == served.engine.said
    again = context.new_page()
    again.goto(served.url)
    again.wait_for_selector(".said >> text=close slowly")
    done(again)
    assert "The answer is 56" in said(again)


def test_another_chat_leaves_the_answer_at_work_and_the_list_marks_it(open_page, served):
    page = open_page()
    ask(page, "leave very slowly", wait=False)
    writing(page, "Each spider")
    page.click("#new-chat")
    page.wait_for_selector(".welcome")
    dot = page.locator(".chat-row .dot")
    assert dot.count() == 1
    assert dot.get_attribute("title") == "Being answered"
    ask(page, "a chat beside it")
    assert page.inner_text(".turn.user .said") == "a chat beside it"
    page.click(".chat-title >> text=leave very slowly")
    writing(page, "Each spider")
    before = len(said(page))
    page.click(".chat-row[aria-current] .chat-title")  # once more: the stream is begun anew
    page.wait_for_function(
        "before => document.querySelector('.turn.live .answer')?.innerText.length > before",
        arg=before,
    )
    page.click(".chat-title >> text=a chat beside it")
    page.wait_for_selector(".said >> text=a chat beside it")
    served.engine.answers.stop(kept(served, "leave very slowly").id)
    dot.wait_for(state="detached")
    assert page.inner_text(".turn.user .said") == "a chat beside it"
    assert kept(served, "leave very slowly").last_answer.timing["finish"] == "cancelled"


def test_deleting_a_chat_stops_its_answer(open_page, served):
    page = open_page()
    ask(page, "delete very slowly", wait=False)
    writing(page, "Each spider")
    chat = kept(served, "delete very slowly")
    row = page.locator(".chat-row[aria-current]")
    row.hover()
    row.locator("[data-act=remove]").click()
    page.wait_for_selector(".welcome")
    assert served.engine.answers.running(chat.id) is None
    assert page.locator(".chat-title >> text=delete very slowly").count() == 0
    assert page.is_visible("#send")
    assert not page.is_visible("#stop")
    with pytest.raises(T2LocalError, match="no longer on disk"):
        served.engine.chats.load(chat.id)


@pytest.mark.parametrize(("size", "tab"), [(DESKTOP, "Experts"), (PHONE, "Models")])
def test_a_reload_keeps_each_tab_in_its_chat_and_on_its_page(open_page, served, size, tab):
    page = open_page(size)
    ask(page, f"mine on {tab}")
    other = page.context.new_page()
    other.goto(served.url)
    other.wait_for_selector(f".said >> text=mine on {tab}")
    page.locator("#new-chat").evaluate("button => button.click()")
    page.wait_for_selector(".welcome")
    ask(page, f"another on {tab}")
    other.reload()  # it never opened this chat itself: the first tab did
    other.wait_for_selector(f".said >> text=mine on {tab}")
    open_tab(page, tab)
    page.wait_for_selector("#message", state="hidden")
    page.reload()
    page.wait_for_selector(f".said >> text=another on {tab}", state="attached")
    page.wait_for_selector("#message", state="hidden")
    open_tab(page, "Chat")
    assert page.inner_text(".turn.user .said") == f"another on {tab}"
    fresh = page.context.new_page()
    fresh.goto(served.url)
    fresh.wait_for_selector(f".said >> text=another on {tab}")  # the last that was opened
    assert fresh.is_visible("#message")


def test_chats_are_listed_opened_renamed_and_deleted(open_page):
    page = open_page()
    ask(page, "first of two")
    page.click("#new-chat")
    page.wait_for_selector(".welcome")
    ask(page, "second of two")
    page.click(".chat-title >> text=first of two")
    page.wait_for_selector(".said >> text=first of two")
    row = page.locator(".chat-row[aria-current]")
    row.hover()
    row.locator("[data-act=rename]").click()
    page.fill(".chat-row input", "a better title")
    page.press(".chat-row input", "Enter")
    page.wait_for_selector(".chat-row[aria-current] >> text=a better title")
    row.hover()
    row.locator("[data-act=remove]").click()
    page.wait_for_selector(".welcome")
    assert page.locator(".chat-title >> text=a better title").count() == 0
    page.click(".chat-undo [data-act=undo]")
    page.wait_for_selector(".chat-row[aria-current] >> text=a better title")
    assert page.inner_text(".turn.user .said") == "first of two", "it is back, and shown"
    assert page.locator(".chat-undo").count() == 0


def test_many_chats_come_a_part_at_a_time_and_old_ones_can_be_reached(open_page, tmp_path):
    crowded, close = serve(tmp_path)
    chats = crowded.engine.chats
    for number in range(230):
        chats.save(chats.new().ask(f"chat {number}."))
    try:
        page = open_page(url=crowded.url)
        rows = page.locator(".chat-row")
        page.wait_for_selector("text=Show more (30 older)")
        assert rows.count() == 200
        page.click(".chats-more")
        page.wait_for_selector(".chat-title >> text=chat 0.")
        assert rows.count() == 230
        page.click(".chat-title >> text=chat 1.")
        page.wait_for_selector(".said >> text=chat 1.")
        assert rows.count() == 230, "opening an old chat leaves the list as long as it was"
        row = page.locator(".chat-row[aria-current]")
        row.hover()
        row.locator("[data-act=rename]").click()
        page.fill(".chat-row input", "a better title")
        page.press(".chat-row input", "Enter")
        page.wait_for_selector(".chat-row[aria-current] >> text=a better title")
        assert rows.count() == 230
        page.click("#new-chat")
        page.wait_for_selector("text=Show more (30 older)")
    finally:
        close()


def test_two_tabs_never_share_a_mixture(open_page, served):
    one, two = open_page(), open_page()
    ask(one, "tab one slowly", wait=False)
    ask(two, "tab two slowly", wait=False)
    writing(one, "Each spider")
    one.focus("[data-expert=math]")
    one.keyboard.press("Home")
    one.wait_for_selector(".turn.live .steer")
    done(one)
    done(two)
    assert two.locator(".steer").count() == 0
    assert len({chat_id for chat_id, _ in served.engine.requests[-2:]}) == 2


def test_an_engine_error_is_one_message_and_the_page_goes_on(open_page):
    page = open_page()
    ask(page, "unanswerable", wait=False)
    page.wait_for_selector("text=refused")
    assert page.locator(".toast-body b").count() == 0, "the sentence is text, never markup"
    page.wait_for_selector(".turn.assistant >> text=No answer yet")
    assert page.is_visible("#send")
    assert not page.is_visible("#stop")
    page.wait_for_selector(".toast-body", state="detached")
    page.click("[data-act=retry]")
    page.wait_for_selector("text=refused")
    page.wait_for_selector(".toast-body", state="detached")
    page.reload()
    page.wait_for_selector(".turn.assistant >> text=No answer yet")
    page.wait_for_timeout(5_000)  # the page has looked for answers meanwhile
    assert page.locator(".toast-body").count() == 0, "it was told already"


def test_an_empty_message_is_one_message(open_page):
    page = open_page()
    page.click("#send")
    page.wait_for_selector("text=The message is empty")


def test_a_loading_engine_shows_progress_then_opens(open_page, tmp_path):
    slow, close = serve(tmp_path, load_s=8.0)
    try:
        page = open_page(url=slow.url, ready=False)
        page.wait_for_selector(".header .progress")
        assert page.is_disabled("#message textarea")
        assert "loading" in page.get_attribute("#message textarea", "placeholder")
        page.wait_for_selector("#message textarea:enabled")
        page.wait_for_selector("[data-expert=math]", state="attached")
        assert "ready" in page.inner_text("#header")
        for one in (page, open_page(url=slow.url)):  # opened during loading, and after it
            one.fill("#message textarea", "seven spiders")
            one.click("#send")
            done(one)
            assert "56" in one.inner_text(".turn.assistant")
    finally:
        close()


def test_plots_are_drawn_on_demand(open_page):
    page = open_page()
    ask(page, "plot spiders")
    page.get_by_role("button", name="plots").click()
    for name in ("dispatch", "mixture", "heatmap", "spectrum"):
        page.wait_for_selector(f"#plot-{name} .main-svg", state="attached")
    assert page.locator(".caption").count() == 4


def test_a_phone_has_drawers_and_no_sideways_scroll(open_page):
    page = open_page(PHONE)
    ask(page, "spiders on a phone " + "x" * 300)
    for drawer, part in (("show-wheel", "#wheel"), ("show-chats", "#chats-column")):
        assert not page.is_visible(part)
        page.click(f"[data-page={drawer}]")
        page.wait_for_selector(f"{part}:visible")
        page.keyboard.press("Escape")
        page.wait_for_selector(part, state="hidden")
    page.get_by_role("tab", name="Experts").click()
    page.wait_for_selector(".expert:visible")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_tab_is_in_the_line_that_a_finger_moves(open_page, scheme):
    page = open_page(PHONE, has_touch=True, is_mobile=True)
    if scheme == "dark":
        page.click("[data-page=theme]")
    titles = [tab.title for tab in TABS]
    assert page.get_by_role("tab").all_inner_texts() == titles
    assert page.locator(".overflow-menu").count() == 0, "gradio's menu"
    for title in ("Evaluate", "Models", "Jobs", "Chat"):
        tab = page.get_by_role("tab", name=title)
        tab.click()
        page.wait_for_selector(f"[role=tab][aria-selected=true] >> text={title}")
        box = tab.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE[0]
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE[0]


def test_a_tab_that_is_gone_to_by_the_page_is_scrolled_to(open_page):
    page = open_page(PHONE)
    open_tab(page, "Models")
    page.reload()
    page.wait_for_selector("[role=tab][aria-selected=true] >> text=Models")
    page.wait_for_function(
        "document.querySelector('[role=tab][aria-selected=true]').getBoundingClientRect().right"
        " <= innerWidth"
    )


@pytest.mark.parametrize("width", [390, 320])
def test_an_answers_buttons_keep_their_words_on_a_phone(open_page, width):
    page = open_page((width, 844))
    ask(page, "seven spiders")
    acts = page.locator(".turn.assistant .acts")
    for word in ("Copy", "Write what you wanted", "Regenerate", "Continue"):
        button = acts.get_by_role("button", name=word)
        button.scroll_into_view_if_needed()
        assert word in button.inner_text()
        box = button.bounding_box()
        assert box["x"] + box["width"] <= width
        assert box["height"] < 44, "a word is not broken"


def test_light_and_dark_are_remembered_and_terms_explained(open_page):
    page = open_page(color_scheme="light")
    page.click("[data-page=theme]")
    assert page.evaluate("document.body.classList.contains('dark')")
    page.reload()
    page.wait_for_selector("#message textarea:enabled")
    page.wait_for_function("document.body.classList.contains('dark')")
    page.hover("#wheel .term")
    page.wait_for_selector("#tip.on")
    assert "decides" in page.inner_text("#tip")
