"""Two people at one served page: through gradio's routes nothing of one reaches the other."""

import tempfile
import time
from pathlib import Path

import gradio as gr
import httpx
import pytest

from t2local.engine.doors import Doors
from t2local.engine.people import GUEST, OWNER, new_account
from t2local.ui.launch import GRADIO_FOLDER
from t2local.ui.page import Pages, build_app
from t2local.ui.style import header_html
from tests.pictures import painted
from tests.ui.conftest import ask, opened, writing
from tests.ui.fake_engine import FakeEngine

WORDS = {"anna": "annas own words", "ben": "bens own words", "carl": "carls own words"}
ROLES = {"anna": OWNER, "ben": GUEST, "carl": GUEST}
ACCOUNTS = tuple(new_account(name, ROLES[name], WORDS[name]) for name in WORDS)
OWNERS_TABS = {"Train", "Adapt", "Evaluate", "Models"}
SECRET = "very slowly, my secret"


class Person:
    """Somebody with a browser, or a program that calls gradio's API as one."""

    def __init__(self, house, name):
        self.name, self.page, self.engine = name, house.pages._pages[name], house.engine
        headers = {"origin": house.url.rstrip("/")}
        self.client = httpx.Client(
            base_url=house.url, auth=(name, WORDS[name]), timeout=30, headers=headers
        )

    def call(self, event_name, given=None, said=None, session=None):
        """What an event answers, the whole of it as text. `given`: component class -> value."""
        fn = self.event(event_name)
        session = session or f"{self.name}-session"
        data = [(given or {}).get(type(part), usual(part)) for part in fn.inputs]
        body = {"data": data, "fn_index": fn._id, "session_hash": session, "event_data": said}
        self.client.post("/gradio_api/queue/join", json=body).raise_for_status()
        path = f"/gradio_api/queue/data?session_hash={session}"
        with self.client.stream("GET", path) as answer:
            return "\n".join(line for line in answer.iter_lines() if "process_" in line)

    def event(self, name):
        """The last of this name: the page's own come after those of the tabs, Jobs is the last."""
        return [fn for fn in self.page.fns.values() if fn.name == name][-1]

    def send(self, text, *files):
        self.call("opened")
        pictures = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in files]
        return self.call("send", {gr.MultimodalTextbox: {"text": text, "files": pictures}})

    def get(self, path):
        return self.client.get(path)

    def upload(self, content, name="a.png"):
        sent = self.client.post("/gradio_api/upload", files={"files": (name, content)})
        return sent.json()[0]


def usual(part):
    value = getattr(part, "value", None)
    return None if isinstance(part, gr.State) or callable(value) else value


def png(colour="red"):
    with tempfile.TemporaryDirectory() as folder:
        return Path(painted(Path(folder), colour)).read_bytes()


class House:
    def __init__(self, engine):
        self.engine = engine
        self.pages = Pages(engine, Doors(accounts=ACCOUNTS))
        self.url, self.close = opened(self.pages)
        self.anna, self.ben, self.carl = (Person(self, name) for name in WORDS)


@pytest.fixture
def house(tmp_path, monkeypatch):
    monkeypatch.setenv("T2LOCAL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(GRADIO_FOLDER, str(tmp_path / "uploads"))
    house = House(FakeEngine(delay_s=0.01, sees=True))
    yield house
    house.close()


def chats_of(house, person):
    return house.pages.seats[person.name].chats.list()


def wait_for(found, seconds=20):
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_chat_is_seen_by_whoever_asked_it(house):
    said = house.anna.send("seven spiders")
    assert "seven spiders" in said
    chat = chats_of(house, house.anna)[0]
    assert chats_of(house, house.ben) == []
    assert "seven spiders" in house.anna.call("opened")
    assert "seven spiders" in house.anna.call("pick", said={"id": chat.id})
    for person in (house.ben, house.carl):
        assert "seven spiders" not in person.call("opened")
        assert "no longer on disk" in person.call("pick", said={"id": chat.id})
        assert "seven spiders" not in person.call("opened", {gr.BrowserState: chat.id})
        for event in ("more", "remove", "rename", "pin", "tag", "untag"):
            said = {"id": chat.id, "title": "mine", "shown": 50, "pinned": True, "tag": "mine"}
            assert "seven spiders" not in person.call(event, said=said)
    (kept,) = chats_of(house, house.anna)
    assert (kept.title, kept.pinned, kept.tags) == (chat.title, False, ())
    folders = {path.name for path in (Path(house.engine.chats.folder)).glob("of-*")}
    assert "of-anna" not in folders  # the first owner goes on with the chats from before


def test_a_guest_pins_and_tags_own_chats(house):
    house.ben.send("eight flies")
    wait_for(lambda: not house.pages.seats["ben"].answers.chats())
    (chat,) = chats_of(house, house.ben)
    assert "#insects" in house.ben.call("tag", said={"id": chat.id, "tag": "insects, x"})
    house.ben.call("untag", said={"id": chat.id, "tag": "x"})
    house.ben.call("pin", said={"id": chat.id, "pinned": True})
    (chat,) = chats_of(house, house.ben)
    assert (chat.pinned, chat.tags) == (True, ("insects",))


def test_recipes_are_seen_by_whoever_keeps_them(house):
    said = {gr.Textbox: "annas own", gr.Dropdown: "manual"}
    assert "annas own" in house.anna.call("recipe_saved", said)
    (preset,) = house.anna.engine.recipes.list()
    for person in (house.ben, house.carl):
        assert "annas own" not in person.call("presets_listed")
        for event in ("preset_loaded", "preset_deleted", "preset_renamed"):
            assert "annas own" not in person.call(event, {gr.Dropdown: preset.id})
        assert house.pages.seats[person.name].recipes.list() == []
    assert "bens own" in house.ben.call("recipe_saved", {**said, gr.Textbox: "bens own"})
    assert "bens own" not in house.anna.call("presets_listed")
    assert [one.title for one in house.anna.engine.recipes.list()] == ["annas own"]


def test_prompts_are_seen_by_whoever_keeps_them(house):
    said = {gr.Textbox: "annas own", gr.MultimodalTextbox: {"text": "on {{x}}", "files": []}}
    assert "annas own" in house.anna.call("prompt_saved", said)
    for person in (house.ben, house.carl):
        assert "annas own" not in person.call("prompts_listed")
        for event in ("prompt_chosen", "prompt_deleted", "prompt_edited"):
            assert "on {{x}}" not in person.call(event, {gr.Dropdown: "annas own"})
    assert [one.name for one in house.anna.engine.prompts.list()] == ["annas own"]


def test_an_answer_is_followed_and_stopped_by_whoever_asked_it(house):
    house.anna.send(SECRET)
    seats = house.pages.seats
    chat = chats_of(house, house.anna)[0]
    assert seats["anna"].answers.running(chat.id)
    ben = house.ben
    ben.call("opened", {gr.BrowserState: chat.id})  # his page has a chat of that id now
    for event in ("stop", "polled", "follow", "bars"):
        assert "secret" not in ben.call(event)
    for act in ("stopped", "resumed"):
        assert "There is no job" in ben.call(act, said={"id": f"answer-anna.{chat.id}"})
    assert "secret" not in ben.call("refreshed", session="looks at the jobs")
    assert "remove" in {fn.name for fn in ben.page.fns.values()}
    ben.call("remove", said={"id": chat.id})
    assert seats["anna"].answers.running(chat.id)
    assert seats["anna"].chats.load(chat.id).messages[0].content == SECRET
    seats["anna"].answers.stop(chat.id)


def test_a_stream_of_events_is_not_had_by_its_session(house):
    """The session's hash is all that gradio asks for; the other's application has none of it."""
    house.anna.call("opened", session="shared")
    fn = house.anna.event("opened")
    body = {"data": [None], "fn_index": fn._id, "session_hash": "shared"}
    house.anna.client.post("/gradio_api/queue/join", json=body).raise_for_status()
    path = "/gradio_api/queue/data?session_hash=shared"
    try:
        with house.ben.client.stream("GET", path, timeout=2.0) as answer:
            heard = "".join(answer.iter_lines())
    except httpx.TransportError:  # nothing comes, or the stream is cut off
        heard = ""
    assert "process_" not in heard
    with house.anna.client.stream("GET", path) as answer:
        assert "process_completed" in "".join(answer.iter_lines())


def test_pictures_and_uploads_are_served_and_taken_from_their_owner_alone(house):
    anna, ben = house.anna, house.ben
    upload = anna.upload(png())
    assert "spider" in anna.send("a spider", upload)
    wait_for(lambda: chats_of(house, anna))
    chat = house.pages.seats["anna"].chats.load(chats_of(house, anna)[0].id)
    kept = chat.messages[0].images[0]
    for path in (upload, kept):
        assert anna.get(f"/gradio_api/file={path}").status_code == 200
        for other in (ben, house.carl):
            assert other.get(f"/gradio_api/file={path}").status_code == 403
        assert "was not uploaded to this page" in ben.send("look", path)
    his = ben.upload(png())
    assert his != upload
    assert anna.get(f"/gradio_api/file={his}").status_code == 403
    sent = ben.send("a spider of mine", his)
    assert "a spider of mine" in sent
    own = house.pages.seats["ben"]
    picture = own.chats.load(own.chats.list()[0].id).messages[0].images[0]
    assert ben.get(f"/gradio_api/file={picture}").status_code == 200
    for other in (anna, house.carl):
        assert other.get(f"/gradio_api/file={picture}").status_code == 403


def test_a_drawing_that_was_sent_is_served_to_nobody_else(house):
    """gradio serves an SVG to all that is sent to a page which was not started (`Pages` does)."""
    path = house.anna.upload(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a.svg")
    house.anna.send("look", path)
    assert house.anna.get(f"/gradio_api/file={path}").status_code == 200
    assert house.ben.get(f"/gradio_api/file={path}").status_code == 403


REFUSED = {
    "renamed": {"name": "math", "to": "sums"},
    "duplicated": {"name": "math"},
    "removed": {"name": "math"},
    "restored": {"name": "math"},
}


@pytest.mark.parametrize("act", REFUSED)
def test_a_guest_who_calls_the_events_of_experts_is_refused(house, act):
    before = house.engine.experts()
    said = house.ben.call(act, said=REFUSED[act])
    assert "Only the owner of this t2local can" in said
    assert house.engine.experts() == before


def test_a_guest_cannot_add_an_expert_and_an_owner_can_change_them(house):
    path = house.ben.upload(b"x" * 99, "own.safetensors")
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    said = house.ben.call("added", {gr.UploadButton: file})
    assert "Only the owner of this t2local can add an expert" in said
    assert "Only the owner" not in house.anna.call("duplicated", said={"name": "math"})
    assert "math-copy" in {one.name for one in house.engine.experts()}


def test_a_guests_page_has_no_events_of_what_only_the_owner_may_do(house):
    def tabs(person):
        parts = person.get("/config").json()["components"]
        return {one["props"]["label"] for one in parts if one["type"] == "tabitem"}

    assert tabs(house.anna) >= OWNERS_TABS
    assert tabs(house.ben) == {"Chat", "Experts", "Jobs"}
    names = {fn.name for fn in house.ben.page.fns.values()}
    assert not names & {"switched", "downloaded", "started", "measured", "uploaded", "acted"}
    assert {"switched", "downloaded", "started"} <= {fn.name for fn in house.anna.page.fns.values()}
    hidden = '#experts [data-act="rename"]'
    assert hidden in house.ben.page.head
    assert hidden not in house.anna.page.head


def test_nobody_is_let_in_without_their_own_password(house):
    for auth in (None, ("ben", WORDS["anna"]), ("dora", WORDS["anna"])):
        with httpx.Client(base_url=house.url, auth=auth) as client:
            for path in ("/", "/config", "/gradio_api/queue/data?session_hash=x"):
                assert client.get(path).status_code in (401, 429)
    form = {"username": "Ben", "password": WORDS["ben"]}
    with httpx.Client(base_url=house.url) as client:
        assert client.post("/login", data=form).status_code in (303, 429)


def test_what_a_browser_keeps_of_calls_is_not_left_for_the_next_person(house):
    assert house.ben.get("/config").json()["run_history"] is False


def test_the_header_says_who_is_in():
    status, doors = FakeEngine().status, Doors(accounts=ACCOUNTS)
    shown = header_html(status, doors, "ben")
    assert ">ben</span>" in shown
    assert "/logout" in shown
    assert ">ben</span>" in str(build_app(FakeEngine(), doors, ACCOUNTS[1]).get_config_file())


@pytest.mark.browser
def test_an_owner_and_a_guest_at_once(open_page, house):
    pages = {}
    for name in ("anna", "ben"):
        page = pages[name] = open_page(url=house.url, ready=False)
        page.fill("#username", name)
        page.fill("#password", WORDS[name])
        page.click("button")
        page.wait_for_selector("#message textarea:enabled")
        assert page.inner_text(".header .who") == name
    anna, ben = pages["anna"], pages["ben"]
    ask(anna, "slowly, annas spiders", wait=False)
    writing(anna, "Each")
    ask(ben, "bens spiders")
    assert "annas" not in ben.inner_text("body")
    assert "bens" not in anna.inner_text("body")
    assert anna.get_by_role("tab", name="Train").count() == 1
    assert ben.get_by_role("tab", name="Train").count() == 0
    ben.get_by_role("tab", name="Experts").click()
    ben.wait_for_selector("[data-act=try_it]")
    assert not ben.locator("[data-act=duplicate]").first.is_visible()
    anna.get_by_role("tab", name="Experts").click()
    anna.wait_for_selector("[data-act=duplicate]")
    ben.click("text=Log out")
    ben.wait_for_selector("#username")
