"""What the Chat tab does: each callback reads its inputs, asks the engine, presents the answer."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from t2local.adapt.dispatch import BASE, Token
from t2local.engine.answers import How, Live, answer, carry_on
from t2local.engine.chat_content import Chat
from t2local.engine.engine import Engine
from t2local.engine.job_record import JobStatus
from t2local.errors import T2LocalError
from t2local.ui.chat.chat_list import (
    AT_FIRST,
    LONGEST_QUERY,
    Listing,
    chat_list_html,
    listing_of,
)
from t2local.ui.chat.exchange import ExchangeEvents
from t2local.ui.chat.layout import ChatTab, drafted
from t2local.ui.chat.prompt_library import PromptEvents
from t2local.ui.chat.recipe_panel import RecipeEvents
from t2local.ui.chat.view import Window, line_html, live_html, transcript_html, window_on
from t2local.ui.chat.wheel import mixer_update
from t2local.ui.messages import sent, shown

EMPTY_MESSAGE = {"text": "", "files": []}
FRAME_S = 0.04  # the transcript is redrawn at most this often
BEAT_S = 0.5  # gradio ends a stream between two of its frames: one comes at least this often
START = {"concurrency_id": "start", "concurrency_limit": 8}
Following = tuple[str, float, int]  # a chat, when its answer began, a number of the stream's own
FOLLOW = {"concurrency_id": "follow", "concurrency_limit": 24}  # each has one of 40 threads


class ChatEvents:
    """Binds a `ChatTab` to an engine.

    An answer is a job of the engine. Whatever starts one, or opens a chat that is being answered,
    writes it into `tab.following`, and that change begins a stream that shows it. A stream ends
    with the answer, or when its page shows something else: `_shown` says what each page shows. (Its
    browser cannot be relied on to cancel it: of two streams that overlap it forgets one.)
    """

    def __init__(
        self,
        engine: Engine,
        tab: ChatTab,
        offered: Callable[[Chat], dict] | None = None,
        judges: bool = True,
    ) -> None:
        """`judges`: whether what this person thinks of answers is kept, to be learnt from."""
        self.engine, self.tab, self.wheel = engine, tab, tab.wheel
        self.offered, self.judges = offered, judges
        self.recipes = RecipeEvents(engine, tab.recipes, tab.wheel, tab.message, tab.chat_id)
        # By the page's session; only single reads and writes, so no lock.
        self._shown: dict[str, Following] = {}
        self._windows: dict[str, Window] = {}
        self.inputs = {tab.chat_id, tab.message, tab.compare, tab.listed, *tab.wheel.inputs}
        self.listing = [tab.chats, tab.listed]
        self.presented = [
            tab.chat_id, tab.last_chat, *self.listing, tab.transcript, tab.live, tab.line, tab.send,
            tab.stop, tab.offer, tab.offer_timer,
        ]  # fmt: skip
        self.shown_chat = [*self.presented, tab.following]

    def bind(self) -> list[Any]:
        """Gives what bars and plots follow: the stream that shows answers, and other settings."""
        tab, quiet = self.tab, {"show_progress": "hidden"}
        stream = tab.following.change(
            shown(self.follow), {tab.following, tab.listed},
            [*self.presented, self.wheel.mixer], trigger_mode="multiple", **FOLLOW, **quiet,
        )  # fmt: skip
        self._speaks(functools.partial(gr.on, [tab.message.submit, tab.send.click]), self.send)
        self._speaks(tab.transcript.retry, self.retry)
        self._speaks(tab.transcript.edit_message, self.edit)
        self._speaks(tab.transcript.carry_on, self.carry_on)
        self._speaks(tab.transcript.answer_with, self.answer_with)
        self._speaks(tab.transcript.write_instead, self.write_instead)
        self._speaks(tab.transcript.example, self.example)
        judged = {
            tab.transcript.thumb: self.thumb,
            tab.transcript.prefer: self.prefer,
            tab.transcript.rewrite: self.rewrite,
            tab.transcript.earlier: self.earlier,
        }
        for trigger, callback in judged.items():
            trigger(shown(callback), {tab.chat_id, tab.listed}, self.presented, **quiet)
        tab.stop.click(self.stop, {tab.chat_id}, None, queue=False)
        opens = {
            tab.new.click: self.new, tab.chats.pick: self.pick, tab.chats.visit: self.visit,
            tab.chats.remove: self.remove, tab.chats.undo: self.undo,
            tab.transcript.version: self.version,
        }  # fmt: skip
        opened, after = [*self.shown_chat, *self.chat_outputs], [stream]
        for trigger, callback in opens.items():
            after.append(trigger(shown(callback), {tab.chat_id, tab.listed}, opened, **quiet))
        reset = self.wheel.defaults.click
        after.append(reset(shown(self.defaults), None, self.chat_outputs, **quiet))
        PromptEvents(self.engine, tab.prompts, tab.message).bind()
        brought = ExchangeEvents(self.engine, tab.exchange, tab.chat_id).bind()
        tab.search.change(
            shown(self.searched), {tab.chat_id, tab.search}, self.listing,
            trigger_mode="always_last", **quiet,
        )  # fmt: skip
        listed = {tab.chat_id, tab.listed}
        brought.success(shown(self.relisted), listed, self.listing, **quiet)
        rows = {
            tab.chats.rename: self.rename, tab.chats.more: self.more, tab.chats.pin: self.pin,
            tab.chats.tag: self.tag, tab.chats.untag: self.untag,
        }  # fmt: skip
        for trigger, callback in rows.items():
            trigger(shown(callback), {tab.chat_id}, self.listing, **quiet)
        return [*after, *self.recipes.bind(tab.transcript)]

    def _speaks(self, trigger: Any, callback: Any) -> None:
        outputs = [*self.shown_chat, self.tab.message]
        quiet = {"show_progress": "hidden", "trigger_mode": "once"}
        trigger(shown(callback), self.inputs, outputs, **START, **quiet)

    @property
    def chat_outputs(self) -> list[Any]:
        return list(self.wheel.inputs)

    # answering -----------------------------------------------------------------------------

    def send(self, values: dict, request: gr.Request) -> dict:
        text, pictures, files = drafted(values[self.tab.message])
        chat = self._chat(values).ask(text)
        if files:
            asked = self.wheel.asked(values, compare=False)
            beside, answer_tokens = asked.system_prompt + text, asked.sampling.max_new_tokens
            chat = chat.attaching(self.engine.attached(files, beside, answer_tokens))
        if pictures:
            chat = chat.showing(self._kept(chat.id, pictures))
        return self._start(answer, chat, values, request)

    def example(self, values: dict, request: gr.Request, event: gr.EventData) -> dict:
        return self._start(answer, self._chat(values).ask(sent(event, "text")), values, request)

    def edit(self, values: dict, request: gr.Request, event: gr.EventData) -> dict:
        chat = self._chat(values).edit(sent(event, "index", int), sent(event, "text"))
        return self._start(answer, chat, values, request)

    def retry(self, values: dict, request: gr.Request) -> dict:
        """Another answer in the place of the last one, which is noted down."""
        chat = self._chat(values)
        update = self._start(answer, chat, values, request)
        if self.judges:
            with contextlib.suppress(T2LocalError):  # it cannot be kept, and was not asked for
                self.engine.verdicts.again(chat, self.engine.status.model_name)
        return update

    def carry_on(self, values: dict, request: gr.Request) -> dict:
        return self._start(carry_on, self._chat(values), values, request)

    def answer_with(self, values: dict, request: gr.Request, event: gr.EventData) -> dict:
        name = sent(event, "name")
        return self._start(answer, self._chat(values), values, request, override=name)

    def write_instead(self, values: dict, request: gr.Request) -> dict:
        """The same again, but an expert that chose a label writes."""
        chat = self._chat(values)
        before = (chat.last_answer.dispatch if chat.last_answer else None) or {}
        return self._start(
            answer, chat, values, request, override=before.get("override"), write=True
        )

    def stop(self, values: dict) -> None:
        self.engine.answers.stop(values[self.tab.chat_id])

    def _start(
        self,
        how: How,
        chat: Chat,
        values: dict,
        request: gr.Request,
        override: str | None = None,
        write: bool = False,
    ) -> dict:
        """Let a chat be answered; the page shows it from when the question is on disk."""
        tab, answers = self.tab, self.engine.answers
        asked = self.wheel.asked(values, compare=bool(values[tab.compare]), override=override)
        asked = replace(asked, controls=replace(asked.controls, write=write))
        job = answers.start(chat, asked, how)
        following = self._show(request, chat.id, job)
        first = next(answers.follow(chat.id), None)
        shown_now = first.chat if first else chat
        update = self.present(shown_now, request, values[tab.listed][0])
        return {**update, tab.following: following, tab.message: EMPTY_MESSAGE}

    def _show(self, request: gr.Request, chat_id: str, job: JobStatus | None) -> Following:
        """From now on a page shows this chat, and any other stream of that page ends."""
        began = job.started_s if job else 0.0
        following = self._shown[request.session_hash] = (chat_id, began, time.monotonic_ns())
        return following

    def left(self, request: gr.Request) -> None:
        """The page is closed: what it followed goes on without it."""
        self._shown.pop(request.session_hash, None)
        self._windows.pop(request.session_hash, None)

    def follow(self, values: dict, request: gr.Request) -> Iterator[dict]:
        """An answer as it comes; then the chat as it is on disk, also after an error."""
        asked, session = tuple(values[self.tab.following]), request.session_hash
        if not asked or self._shown.get(session, ())[:2] != asked[:2]:  # it shows something else
            return
        mine = self._shown[session] = (*asked[:2], time.monotonic_ns())
        try:
            for frame in self._frames(mine[0], request):
                if self._shown.get(session) != mine:
                    break
                yield frame
            if self._shown.get(session) == mine:
                yield self._over(mine[0], values, request)
                return
        except T2LocalError:
            if self._shown.get(session) == mine:
                yield self._over(mine[0], values, request)
                raise
        yield {self.tab.line: gr.skip()}  # gradio shows the last frame of a stream once more

    def _over(self, chat_id: str, values: dict, request: gr.Request) -> dict:
        rows, _ = values[self.tab.listed]
        return self.present(self.engine.chats.load_or_new(chat_id), request, rows)

    def _frames(self, chat_id: str, request: gr.Request) -> Iterator[dict]:
        """The first has what was said before, all others the answer alone."""
        tab, newest, drawn, turned = self.tab, None, 0.0, False
        for live in self.engine.answers.follow(chat_id, BEAT_S):
            newest = live or newest
            in_time = time.monotonic() - drawn < FRAME_S
            if newest is None:
                yield {tab.line: gr.skip()}
            elif not (in_time and isinstance(newest.event, Token)):
                update = self._speaking(newest) if drawn else self._live(newest, request)
                drawn = time.monotonic()
                if newest.mixture is not None and not turned:
                    turned = True  # from here on the sliders are the person's
                    alpha = newest.mixture.alpha
                    update[self.wheel.mixer] = mixer_update(self.engine.experts(), alpha)
                yield update

    # what is thought of answers ------------------------------------------------------------

    def thumb(self, values: dict, request: gr.Request, event: gr.EventData) -> dict:
        chat, place = self._chat(values), sent(event, "index", int)
        model = self.engine.status.model_name
        self.engine.verdicts.thumb(chat, place, sent(event, "thumb"), model)
        return self.present(chat, request, values[self.tab.listed][0])

    def prefer(self, values: dict, request: gr.Request, event: gr.EventData) -> dict:
        """The better of the two answers that stand side by side."""
        chat, place = self._chat(values), sent(event, "index", int)
        base = {"base": True, "adapted": False}.get(sent(event, "side"))
        self.engine.verdicts.prefer(chat, place, base, self.engine.status.model_name)
        return self.present(chat, request, values[self.tab.listed][0])

    def rewrite(self, values: dict, request: gr.Request, event: gr.EventData) -> dict:
        """Write over an answer; the chat goes on with it. Nothing brings the answer back."""
        chat, chats = self._chat(values), self.engine.chats
        place, text = sent(event, "index", int), sent(event, "text")
        with chats.claim(chat.id):
            model = self.engine.status.model_name
            verdict = self.engine.verdicts.rewrite(chat, place, text, model)
            chat = chats.save(chat.rewrite(place, verdict.wanted))
        return self.present(chat, request, values[self.tab.listed][0])

    # chats ---------------------------------------------------------------------------------

    def new(self, values: dict, request: gr.Request) -> dict:
        """An empty chat; what the wheel says stays until `defaults`."""
        chat = self.engine.chats.new()
        self._show(request, chat.id, None)
        return self.present(chat, request, Listing(query=values[self.tab.listed][0].query))

    def defaults(self) -> dict:
        """All of the wheel as it is when nobody has touched it."""
        return self.wheel.show_chat(self.engine, self.engine.chats.new())

    def pick(self, values: dict, request: gr.Request, event: gr.EventData) -> dict:
        return self.open(self.engine.chats.load(sent(event, "id")), request, listing_of(event))

    def visit(self, values: dict, request: gr.Request, event: gr.EventData) -> dict:
        """The chat of an address, which may still be empty."""
        chat = self.engine.chats.load_or_new(sent(event, "id"))
        return self.open(chat, request, listing_of(event))

    def earlier(self, values: dict, request: gr.Request) -> dict:
        """More of the messages that are folded."""
        chat = self.engine.chats.load_or_new(values[self.tab.chat_id])
        session = request.session_hash
        self._windows[session] = self._window(chat, request).earlier()
        return self.present(chat, request, values[self.tab.listed][0])

    def version(self, values: dict, request: gr.Request, event: gr.EventData) -> dict:
        """Another version of a message, with what followed it, in the place of the present one."""
        chat, chats = self._chat(values), self.engine.chats
        index, step = sent(event, "index", int), sent(event, "step", int)
        with chats.claim(chat.id):
            chat = chats.save(chat.turned(index, step))
        return self.open(chat, request, values[self.tab.listed][0])

    def remove(self, values: dict, request: gr.Request, event: gr.EventData) -> dict:
        """Its answer is stopped first, else it would be written again. It can be brought back."""
        chat_id, rows = sent(event, "id"), listing_of(event)
        title = next((c.title for c in self.engine.chats.list() if c.id == chat_id), "")
        self._show(request, "", None)  # no stream of this page shows the end of what goes
        self.engine.answers.stop(chat_id)
        self.engine.answers.settle(chat_id)
        self.engine.chats.delete(chat_id)
        if dropping(event) or not self.judges:
            self.engine.verdicts.forget(chat_id)
        kept = values[self.tab.chat_id] if values[self.tab.chat_id] != chat_id else None
        chat = self.engine.chats.load_or_new(kept)
        gone = self._list(chat.id, rows, (chat_id, title) if title else None)
        if kept is None:
            return {**self.open(chat, request, rows), **gone}
        self._show(request, chat.id, self.engine.answers.running(chat.id))
        follow = {self.tab.following: self._shown[request.session_hash]}
        return {**self.present(chat, request, rows), **gone, **follow}  # the wheel stays as it is

    def undo(self, values: dict, request: gr.Request, event: gr.EventData) -> dict:
        """The chat that was deleted is back, and shown."""
        chat = self.engine.chats.restore(sent(event, "id"))
        return self.open(chat, request, listing_of(event))

    def searched(self, values: dict) -> dict:
        query = str(values[self.tab.search] or "")[:LONGEST_QUERY]
        return self._list(values[self.tab.chat_id], Listing(query=query))

    def rename(self, values: dict, event: gr.EventData) -> dict:
        self.engine.chats.rename(sent(event, "id"), sent(event, "title"))
        return self.more(values, event)

    def pin(self, values: dict, event: gr.EventData) -> dict:
        self.engine.chats.pin(sent(event, "id"), sent(event, "pinned", bool))
        return self.more(values, event)

    def tag(self, values: dict, event: gr.EventData) -> dict:
        self.engine.chats.tag(sent(event, "id"), sent(event, "tag"))
        return self.more(values, event)

    def untag(self, values: dict, event: gr.EventData) -> dict:
        self.engine.chats.untag(sent(event, "id"), sent(event, "tag"))
        return self.more(values, event)

    def more(self, values: dict, event: gr.EventData) -> dict:
        """The list with as many rows as the event asks for."""
        return self._list(values[self.tab.chat_id], listing_of(event))

    def relisted(self, values: dict) -> dict:
        """The list anew, as long as it is."""
        return self._list(values[self.tab.chat_id], values[self.tab.listed][0])

    def look(self, values: dict, request: gr.Request) -> dict:
        """What other pages did meanwhile: this chat is being answered, or others are."""
        tab, answers, update = self.tab, self.engine.answers, {}
        chat_id, (rows, answered) = values[tab.chat_id], values[tab.listed]
        job, shown_now = answers.running(chat_id), self._shown.get(request.session_hash)
        if job and shown_now and shown_now[0] == chat_id and shown_now[1] != job.started_s:
            update[tab.following] = self._show(request, chat_id, job)
        if answered != answers.chats():
            update |= self._list(chat_id, rows)
        return update

    def open(self, chat: Chat, request: gr.Request, rows: Listing = AT_FIRST) -> dict:
        """Everything the page shows of a chat, its settings included, and its answer live."""
        job = self.engine.answers.running(chat.id)
        following = self._show(request, chat.id, job)
        settings = self.wheel.show_chat(self.engine, chat) if self.engine.status.ready else {}
        follow = {self.tab.following: following} if job else {}
        return {**self.present(chat, request, rows), **settings, **follow}

    def present(self, chat: Chat, request: gr.Request, rows: Listing = AT_FIRST) -> dict:
        """The conversation itself, as far as it is; `rows`: how many chats the list shows."""
        tab, live = self.tab, self.engine.answers.latest(chat.id)
        about = {tab.chat_id: chat.id, tab.last_chat: chat.id, **self._list(chat.id, rows)}
        about |= self.offered(chat) if self.offered else {}
        if live is not None:
            return {**about, **self._live(live, request)}
        timing = (chat.last_answer.timing if chat.last_answer else None) or {}
        return {
            **about,
            tab.transcript: transcript_html(
                chat,
                self._answerers(),
                sees=self.engine.status.sees,
                prompts_of=self._prompts_of,
                verdicts=self.engine.verdicts.of(chat) if self.judges else None,
                first=self._window(chat, request).first,
            ),
            tab.live: "",
            tab.line: line_html(
                self.engine.status, timing.get("tokens_per_s", 0.0), timing.get("context_used", 0)
            ),
            tab.send: gr.Button(visible=True),
            tab.stop: gr.Button(visible=False),
        }

    def _window(self, chat: Chat, request: gr.Request) -> Window:
        """The part of a chat that a page shows, from now on."""
        before = self._windows.get(request.session_hash, Window())
        window = self._windows[request.session_hash] = window_on(chat, before)
        return window

    def _live(self, live: Live, request: gr.Request) -> dict:
        """A chat with an answer at work, as far as it is."""
        tab, first = self.tab, self._window(live.chat, request).first
        said = transcript_html(
            live.chat, at_work=True, sees=self.engine.status.sees, first=first,
            prompts_of=self._prompts_of,
        )  # fmt: skip
        buttons = {tab.send: gr.Button(visible=False), tab.stop: gr.Button(visible=True)}
        return {tab.transcript: said, **self._speaking(live), **buttons}

    def _speaking(self, live: Live) -> dict:
        """The answer alone, which every token makes longer."""
        line = line_html(self.engine.status, live.tokens_per_s, live.context_used)
        return {
            self.tab.live: live_html(live.chat, live.stage, self._prompts_of), self.tab.line: line
        }  # fmt: skip

    def _prompts_of(self, name: str) -> Sequence[str]:
        """What an expert learnt from, for its owner's eyes."""
        try:
            return self.engine.prompts_of(name)
        except T2LocalError:  # a guest's page
            return ()

    def _list(
        self, chat_id: str | None, rows: Listing, deleted: tuple[str, str] | None = None
    ) -> dict:
        answered = self.engine.answers.chats()
        chats = self.engine.chats.search(rows.query)
        judged = self.engine.verdicts.counts() if self.judges else {}
        listed = chat_list_html(
            chats, chat_id, listing=rows, answered=answered, judged=judged, deleted=deleted
        )
        return {self.tab.chats: listed, self.tab.listed: (rows, answered)}

    def _kept(self, chat_id: str, files: list[str]) -> tuple[str, ...]:
        status = self.engine.status
        if status.ready and not status.sees:
            raise T2LocalError(
                f"{status.model_name} reads text only and cannot see the picture; remove it, or "
                "load a model that sees in the tab Models."
            )
        return self.engine.chats.keep_pictures(chat_id, files)

    def _answerers(self) -> list[str]:
        experts = [e for e in self.engine.experts() if e.kind == "skill" and e.usable]
        return [*(expert.name for expert in experts), BASE]

    def _chat(self, values: dict) -> Chat:
        """The page's chat, to be asked something: an answer that is stopping is waited for."""
        chat_id = values[self.tab.chat_id]
        if chat_id is not None:
            self.engine.answers.settle(chat_id)
        return self.engine.chats.load_or_new(chat_id)


def dropping(event: gr.EventData) -> bool:
    """Whether what was thought of a deleted chat's answers goes with it; an older page says not."""
    return getattr(event, "rows", "keep") == "drop"
