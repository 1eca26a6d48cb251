"""The Chat tab: three columns, laid out here; what they do is in `events`."""

from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from t2local.engine.attachments import READ
from t2local.engine.requests import EngineStatus
from t2local.ui.chat.chat_list import Listing, chat_list_html
from t2local.ui.chat.exchange import Exchange, create_exchange
from t2local.ui.chat.prompt_library import PromptLibrary, create_prompt_library
from t2local.ui.chat.recipe_panel import RecipePanel, create_recipe_panel
from t2local.ui.chat.view import welcome_html
from t2local.ui.chat.wheel import Wheel, create_wheel
from t2local.ui.style import PAGE, asset, hint

BROWSER_KEY = "t2local-last-chat"
LONGEST_PASTE = 10_000_000  # characters; above it gradio would make a file of them


@dataclass(frozen=True)
class ChatTab:
    chat_id: gr.State
    last_chat: gr.BrowserState
    following: gr.State  # the answer that is shown live, in `events.Following`; () at first
    listed: gr.State  # of the list of chats: how many rows, and which are marked
    plots_open: gr.State
    new: gr.Button
    search: gr.Textbox
    chats: gr.HTML
    exchange: Exchange
    transcript: gr.HTML
    live: gr.HTML  # the answer at work, below the transcript
    offer: gr.HTML  # of a better model
    offer_timer: gr.Timer
    message: gr.MultimodalTextbox
    send: gr.Button
    stop: gr.Button
    line: gr.HTML
    compare: gr.Checkbox
    wheel: Wheel
    recipes: RecipePanel
    prompts: PromptLibrary


def create_chat_tab(status: EngineStatus) -> ChatTab:
    """`status` decides whether the message box is open yet."""
    chat_id, plots_open = gr.State(None), gr.State(False)
    following, listed = gr.State(()), gr.State((Listing(), ()))
    # The secret is no secret: it must be the same after a restart, and the value is an id alone.
    last_chat = gr.BrowserState(None, storage_key=BROWSER_KEY, secret=BROWSER_KEY)
    with gr.Row(elem_id="chat-columns", equal_height=True):
        with gr.Column(elem_id="chats-column", scale=0, min_width=0):
            _drawer_top("Chats")
            new = gr.Button("+ New chat", elem_id="new-chat", size="sm")
            search = gr.Textbox(
                placeholder="Search all chats", label="search all chats", show_label=False,
                container=False, max_lines=1, type="text", elem_id="chat-search",
            )  # fmt: skip
            chats = gr.HTML(
                chat_list_html([], None), js_on_load=asset("chat_list.js"),
                apply_default_css=False, elem_id="chat-list",
            )  # fmt: skip
            prompts = create_prompt_library()
            exchange = create_exchange()
        with gr.Column(elem_id="stage", scale=1, min_width=0):
            with gr.Column(elem_id="transcript"):
                transcript = gr.HTML(
                    welcome_html(), js_on_load=asset("transcript.js"), apply_default_css=False,
                    elem_id="said-so-far",
                )  # fmt: skip
                live = gr.HTML("", elem_id="live", apply_default_css=False, js_on_load=None)
            offer = gr.HTML(
                "", js_on_load=asset("offer.js"), apply_default_css=False, elem_id="offer"
            )
            message, send, stop = _composer(status)
            with gr.Row(elem_id="under"):
                line = gr.HTML("", elem_id="line", apply_default_css=False, js_on_load=None)
                compare = gr.Checkbox(
                    False, label="base beside adapted", container=False, elem_id="compare",
                    min_width=0, scale=0,
                )  # fmt: skip
        with gr.Column(elem_id="wheel", scale=0, min_width=0):
            _drawer_top("The wheel")
            wheel = create_wheel()
            recipes = create_recipe_panel()
    return ChatTab(
        chat_id, last_chat, following, listed, plots_open, new, search, chats, exchange, transcript,
        live, offer, gr.Timer(1.0, active=False), message, send, stop, line, compare, wheel,
        recipes, prompts,
    )  # fmt: skip


def drafted(value: dict | None) -> tuple[str, list[str], list[str]]:
    """Text, pictures and other files of the message box."""
    value = value or {}
    files = list(value.get("files") or ())
    texts = [file for file in files if Path(file).suffix.lower() in READ]
    return value.get("text") or "", [file for file in files if file not in texts], texts


def message_update(status: EngineStatus) -> dict:
    """The message box for a model. Pictures go in for any: one that does not see says so."""
    return gr.update(placeholder=hint(status), interactive=status.ready)


def _composer(status: EngineStatus) -> tuple[gr.MultimodalTextbox, gr.Button, gr.Button]:
    with gr.Row(elem_id="composer"):
        message = gr.MultimodalTextbox(
            label="Message", show_label=False, container=False, placeholder=hint(status),
            lines=1, max_lines=8, sources=["upload"], file_types=["image", *READ],
            file_count="multiple", submit_btn=False, max_plain_text_length=LONGEST_PASTE,
            interactive=status.ready, elem_id="message", scale=1, min_width=0,
        )  # fmt: skip
        send = gr.Button(
            "Send",
            variant="primary",
            interactive=status.ready,
            elem_id="send",
            scale=0,
            min_width=76,
        )
        stop = gr.Button("Stop", visible=False, elem_id="stop", scale=0, min_width=76)
    gr.HTML(
        PAGE.render("chat.html", "drawers"),
        elem_id="drawers", apply_default_css=False, js_on_load=None,
    )  # fmt: skip
    return message, send, stop


def _drawer_top(title: str) -> None:
    gr.HTML(
        PAGE.render("chat.html", "drawer_top", title=title),
        elem_classes="drawer-top", apply_default_css=False, js_on_load=None,
    )  # fmt: skip
