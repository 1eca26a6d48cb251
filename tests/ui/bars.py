"""How fast the page is with many chats and with a long one: `python -m tests.ui.bars`.

The engine is scripted, so that a model's own time is no part of it; page, store and browser are
real. Prints one JSON object: for each bar the limit and all that was measured, in seconds.
"""

import functools
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from t2local.engine.chat_content import Message
from t2local.engine.chats import ChatStore
from tests.ui.conftest import ARGUMENTS, BROWSERS, done, serve

CHATS, MESSAGES, LONG_MESSAGES = 10_000, 8, 2_000
TIMES = 5
WORDS = ("spider", "legs", "river", "mountain", "code", "python", "sums", "travel", "winter")
LONGEST_PAUSE = """() => {
  let last = performance.now();
  window.longestPause = 0;
  const tick = () => {
    const now = performance.now();
    window.longestPause = Math.max(window.longestPause, now - last - 4);
    last = now;
    setTimeout(tick, 4);
  };
  tick();
}"""


def fill(store: ChatStore) -> str:
    """Many chats and a long one, whose title is given."""
    for number in range(CHATS):
        text = " ".join(WORDS[(number * 7 + k) % len(WORDS)] for k in range(150))
        messages = tuple(Message(role, text) for role in ("user", "assistant") * (MESSAGES // 2))
        chat = replace(store.new(), title=f"chat {number}", messages=messages)
        store._write(replace(chat, updated=time.time() - number))
    roles, words = ("user", "assistant"), "words and more words " * 20
    said = (Message(roles[i % 2], f"message {i} {words}") for i in range(LONG_MESSAGES))
    long = replace(store.new(), title="the long one", messages=tuple(said))
    store._write(replace(long, updated=time.time() + 60))
    return long.title


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return round(time.perf_counter() - began, 3)


def measure(page: Page, url: str, title: str) -> dict[str, tuple[float, list[float]]]:
    """Each bar's limit and what was measured, in seconds."""

    def opened() -> None:
        page.goto(url)
        page.wait_for_selector(".chat-row")

    def searched(words: str, answer: str) -> None:
        page.fill("#chat-search input", words)
        page.wait_for_selector(answer)

    def picked(title: str, words: str) -> None:
        page.click(f".chat-title >> text={title}")
        page.wait_for_selector(f".said >> text={words}")

    def sent(text: str) -> None:
        page.fill("#message textarea", text)
        page.press("#message textarea", "Enter")
        page.wait_for_selector(f".said >> text={text}")

    found: dict[str, tuple[float, list[float]]] = {
        "10,000 chats: open the page": (0.5, [timed(opened) for _ in range(TIMES)]),
        "10,000 chats: search a word": (0.3, []),
        "2,000 messages: open": (1.0, []),
        "2,000 messages: send": (0.3, []),
        "typing while an answer streams: longest pause": (0.1, []),
    }
    searches, opens, sends, pauses = (values for _, values in list(found.values())[1:])
    page.wait_for_selector("#message textarea:enabled")
    for _ in range(TIMES):
        searches.append(timed(lambda: searched("zebra", "text=No chat has all of these words")))
        searches.append(timed(lambda: searched("the long one", f".chat-title >> text={title}")))
        page.fill("#chat-search input", "")
        page.wait_for_selector(".chat-title >> text=chat 150")
        page.click("#new-chat")
        page.wait_for_selector(".welcome")
        opens.append(timed(lambda: picked(title, f"message {LONG_MESSAGES - 2} ")))
    for number in range(TIMES):
        sends.append(timed(functools.partial(sent, f"question {number}")))
        page.evaluate(LONGEST_PAUSE)
        page.type("#message textarea", "what one writes meanwhile", delay=40)
        pauses.append(round(page.evaluate("window.longestPause") / 1000, 3))
        done(page)
        page.fill("#message textarea", "")
    return found


def main() -> None:
    served, close = serve(Path(tempfile.mkdtemp()), delay_s=0.04)
    title = fill(served.engine.chats)
    served.engine.chats.list()
    time.sleep(3)
    served.engine.chats.list()
    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, BROWSERS)))
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        found = measure(browser.new_page(), served.url, title)
        browser.close()
    close()
    lines = {bar: {"limit": limit, "measured": all_} for bar, (limit, all_) in found.items()}
    print(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
