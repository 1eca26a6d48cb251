"""From my chats: the verdicts on answers, each as a row, and what they can teach.

A part of the tab Train with its own layout, events and values; the elements are in
`templates/taught.html`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import gradio as gr

from t2local.engine.engine import Engine
from t2local.engine.lessons import Lessons, lessons_of
from t2local.engine.overnight import NAME, fresh_rows
from t2local.engine.verdicts import DOWN, UP, Verdict
from t2local.errors import T2LocalError
from t2local.tasks.uploads import FEWEST_PROMPTS, write_rows
from t2local.ui.messages import as_text, moment, sent, shown
from t2local.ui.style import PAGE, SAVE_IT, asset

FILE = "taught.html"
LISTED = 100  # rows of the list; the file has all
QUIET = {"show_progress": "hidden"}


@dataclass(frozen=True)
class Taught:
    """`habit`: learn what liked answers have in common. `path`: unseen, of the file to save."""

    listed: gr.HTML
    learn: gr.Button
    habit: gr.Button
    export: gr.Button
    path: gr.Textbox


def create_taught() -> Taught:
    with gr.Column(elem_id="train-taught"):
        listed = gr.HTML(
            taught_html([]), elem_id="taught-list", apply_default_css=False,
            js_on_load=asset("taught.js"),
        )  # fmt: skip
        with gr.Row(elem_id="taught-acts"):
            learn = gr.Button("Learn from these", size="sm", visible=False, elem_id="taught-learn")
            habit = gr.Button("Learn the habit", size="sm", visible=False, elem_id="taught-habit")
            export = gr.Button("Save as JSONL", size="sm", visible=False, elem_id="taught-export")
        path = gr.Textbox(visible=False)
    return Taught(listed, learn, habit, export, path)


class TaughtEvents:
    """Binds the part to an engine."""

    def __init__(self, engine: Engine, taught: Taught) -> None:
        self.engine, self.taught = engine, taught
        self.shows = [taught.listed, taught.learn, taught.habit, taught.export]

    def bind(self, page: gr.Blocks, own: gr.Tab, on: Callable, looked: Callable) -> None:
        """`on`: binds an event whose callback takes up rows; `looked`: takes up those of a file."""
        taught = self.taught
        gr.on([page.load, own.select], shown(self.refreshed), None, self.shows, **QUIET)
        page.load(shown(self.told), None, None, **QUIET)
        taught.listed.drop_row(shown(self.dropped), None, self.shows, **QUIET)
        taught.listed.discard_row(shown(self.discarded), None, self.shows, **QUIET)
        taught.listed.change_row(shown(self.changed), None, self.shows, **QUIET)
        saving = taught.export.click(shown(self.saved), None, taught.path, **QUIET)
        saving.success(None, taught.path, None, js=SAVE_IT)
        on(taught.learn.click, lambda values: looked(values, self._to_learn()))
        on(taught.habit.click, lambda values: looked(values, self._habit()))

    def refreshed(self) -> dict:
        taught, verdicts = self.taught, self.engine.verdicts.all()
        lessons = lessons_of(verdicts)
        several, damaged = bool(lessons.choices), list(self.engine.verdicts.damaged)
        fresh = fresh_rows(lessons, self.engine.training)
        habit = gr.Button(visible=False)
        if lessons.habit is not None:
            habit = gr.Button(f"Learn by the reward {lessons.habit.reward}", visible=True)
        return {
            taught.listed: taught_html(verdicts, lessons, damaged, len(fresh)),
            taught.learn: gr.Button(
                f"Learn from these {len(lessons.choices)}",
                visible=several,
                interactive=_enough(lessons),
            ),
            taught.habit: habit,
            taught.export: gr.Button(visible=several),
        }

    def told(self) -> None:
        """That something was learnt from chats meanwhile, and waits for an answer."""
        try:
            waiting = self.engine.training.offers()[:1]
        except T2LocalError:  # no model yet
            return
        for name in waiting:
            gr.Info(as_text(self.engine.training.offered_words(name)), duration=20)

    def dropped(self, event: gr.EventData) -> dict:
        self.engine.verdicts.drop(sent(event, "id"))
        return self.refreshed()

    def discarded(self, event: gr.EventData) -> dict:
        self.engine.verdicts.discard(sent(event, "file"))
        return self.refreshed()

    def changed(self, event: gr.EventData) -> dict:
        self.engine.verdicts.change(sent(event, "id"), sent(event, "text"))
        return self.refreshed()

    def saved(self) -> str:
        """A copy in the folder from which the page may serve files."""
        folder = Path(self.taught.path.GRADIO_CACHE) / "chats"
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{NAME}.jsonl"
        target.write_bytes(Path(self._choices()).read_bytes())
        return str(target)

    def _choices(self) -> str:
        lessons = lessons_of(self.engine.verdicts.all())
        if not lessons.choices:
            raise T2LocalError(
                "There is nothing to learn from yet; write what you wanted under an answer, or "
                "say which of two is better."
            )
        return str(write_rows(lessons.choices, NAME))

    def _to_learn(self) -> str:
        """What is new, where an expert that learnt the others goes on; else all."""
        lessons = lessons_of(self.engine.verdicts.all())
        fresh = fresh_rows(lessons, self.engine.training)
        enough = len({row.group for row in fresh}) >= FEWEST_PROMPTS
        if NAME in self.engine.training.begins() and enough:
            return str(write_rows(fresh, NAME))
        return self._choices()

    def _habit(self) -> str:
        habit = lessons_of(self.engine.verdicts.all()).habit
        if habit is None:
            raise T2LocalError("What you liked has nothing in common yet; judge more answers.")
        return str(write_rows(habit.examples, NAME))


def _enough(lessons: Lessons) -> bool:
    return len({row.group for row in lessons.choices}) >= FEWEST_PROMPTS


def label(count: int) -> str:
    """
    >>> label(0), label(1), label(12)
    ('From my chats', 'From my chats · 1 row', 'From my chats · 12 rows')
    """
    return f"From my chats · {count} row{'' if count == 1 else 's'}" if count else "From my chats"


# --- What it shows.


class Line(NamedTuple):
    """A verdict as a row. `wanted`, `instead_of`: the better and the worse text, "" for none."""

    id: str
    when: str
    said: str
    question: str
    wanted: str
    instead_of: str
    may_change: bool


def taught_html(
    verdicts: Sequence[Verdict],
    lessons: Lessons | None = None,
    damaged: Sequence[str] = (),
    fresh: int = 0,
) -> str:
    """`damaged`: names of files that cannot be read. `fresh`: choices that no run has learnt."""
    return PAGE.render(
        FILE,
        "taught",
        title=label(len(verdicts)),
        rows=[_line(verdict) for verdict in verdicts[:LISTED]],
        more=max(0, len(verdicts) - LISTED),
        lessons=lessons,
        origins=_origins(lessons) if lessons else (),
        fewest=FEWEST_PROMPTS,
        enough=lessons is not None and _enough(lessons),
        damaged=damaged,
        fresh=fresh,
    )


def _origins(lessons: Lessons) -> list[str]:
    """Where its choices come from, in words."""
    told = (
        (lessons.rewritten, "that you wrote"),
        (lessons.preferred, "that you chose"),
        (lessons.thumbs, "from thumbs on the same question"),
    )
    return [f"{count} {words}" for count, words in told if count]


def _line(verdict: Verdict) -> Line:
    wanted, instead = _texts(verdict)
    return Line(
        verdict.id, moment(verdict.given), _said(verdict), verdict.question, wanted, instead,
        bool(verdict.wanted),
    )  # fmt: skip


def _texts(verdict: Verdict) -> tuple[str, str]:
    if verdict.wanted:
        return verdict.wanted, verdict.answer
    if verdict.over:
        return verdict.answer, verdict.over
    return (verdict.answer, "") if verdict.thumb == UP else ("", verdict.answer)


def _said(verdict: Verdict) -> str:
    """What the person did, in a word or two."""
    if verdict.wanted:
        return "you wrote"
    if verdict.vote is not None:
        return "blind, you chose" if verdict.vote.winner else f"blind, {verdict.vote.said}"
    if verdict.over:
        return "you chose"
    return {UP: "thumb up", DOWN: "thumb down"}.get(verdict.thumb, "asked again")
