"""A person's rows on the page: one component for Train, Adapt and Evaluate.

A file or pasted text comes in; beside what came of it stands how it is read (encoding, columns,
header, names of labels), and each choice reads it anew. Where no examples came of a table, the
reason stays on the page with the rows as they are. What a tab asks more of rows, and what it does
with them, it says itself (`fits`, `follow`).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from t2local.errors import T2LocalError
from t2local.html import plus_minus
from t2local.tasks.encodings import ENCODINGS, WORDS
from t2local.tasks.files import DETECTED, ExampleFile, Fits, Look, Table, Wanted, numbers_as_labels
from t2local.tasks.rows import Example
from t2local.tasks.rows import shown as one_line
from t2local.tasks.uploads import Tried, keep_text, look_at, try_reward, was_pasted
from t2local.ui.messages import shown
from t2local.ui.style import PAGE, note_html

FILE = "rows.html"
FIRST = 3  # rows shown as turns
NEXT = 17  # rows after these, in one line each
LISTED = 12  # bad rows, duplicates
RAW_ROWS, RAW_COLUMNS = 5, 12
LONGEST = 2_000  # characters of a turn
FOUND = ""  # the encoding that the file has as far as can be told
NO_HEADER_IN = (".json", ".jsonl", ".ndjson", ".parquet")
NO_ROWS = "There are no rows yet; choose a file, or paste some."
HINTS = {
    "without_header": "Tick 'The first row is no header' below.",
    "label_names": "Write the names below.",
}


@dataclass(frozen=True)
class Rows:
    """`path`: the file that is looked at, None before; `wanted`: what a person chose of it.

    `nothing`: what stands there before a file.
    """

    path: gr.State
    wanted: gr.State
    file: gr.File
    paste: gr.Textbox
    use_paste: gr.Button
    problem: gr.HTML
    choices: gr.Column
    prompt: gr.Dropdown
    answer: gr.Dropdown
    context: gr.Dropdown
    encoding: gr.Dropdown
    label_names: gr.Textbox
    without_header: gr.Checkbox
    preview: gr.HTML
    leave_out: gr.Checkbox
    nothing: str

    @property
    def given(self) -> set[Any]:
        """Which rows a person gave, as the inputs of an event."""
        return {self.path, self.wanted, self.leave_out}

    @property
    def shown(self) -> list[Any]:
        """All that changes with a file, as the outputs of an event."""
        return [
            self.path, self.wanted, self.problem, self.choices, self.prompt, self.answer,
            self.context, self.encoding, self.label_names, self.without_header, self.preview,
            self.leave_out,
        ]  # fmt: skip


def create_rows(
    tab: str, label: str = "Your file", paste_open: bool = False, nothing: str = ""
) -> Rows:
    """Lay it out. `tab`: the beginning of the elements' ids; `nothing`: shown before a file."""
    file = gr.File(label=label, height=120, elem_id=f"{tab}-file", elem_classes="rows-file")
    with gr.Accordion("or paste rows", open=paste_open, elem_id=f"{tab}-paste"):
        paste = gr.Textbox(
            label="rows", show_label=False, container=False, lines=5, max_lines=12,
            placeholder="prompt,answer\nWhat is the capital of France?,Paris",
            elem_id=f"{tab}-pasted",
        )  # fmt: skip
        use_paste = gr.Button(
            "Use these rows", size="sm", elem_id=f"{tab}-use-paste", elem_classes="rows-use"
        )
    problem = _html("", f"{tab}-problem")
    with gr.Column(visible=False, elem_id=f"{tab}-choices", elem_classes="rows-choices") as choices:
        pickers = _create_pickers(tab)
    preview = _html(nothing, f"{tab}-rows")
    leave_out = gr.Checkbox(
        False, label="Leave out the rows that cannot be used", visible=False,
        elem_id=f"{tab}-leave-out",
    )  # fmt: skip
    return Rows(
        gr.State(None), gr.State(DETECTED), file, paste, use_paste, problem, choices, **pickers,
        preview=preview, leave_out=leave_out, nothing=nothing,
    )  # fmt: skip


def _create_pickers(tab: str) -> dict[str, Any]:
    """By the fields of `Wanted` that they choose."""

    def dropdown(label: str, name: str, **options: Any) -> gr.Dropdown:
        return gr.Dropdown([], label=label, elem_id=f"{tab}-{name}", min_width=140, **options)

    with gr.Row():
        prompt = dropdown("what is asked", "prompt")
        answer = dropdown("the right answer", "answer")
    with gr.Row():
        context = dropdown("also part of the question", "context", multiselect=True)
        encoding = dropdown("encoding", "encoding", allow_custom_value=True)
    label_names = gr.Textbox(
        label="what the labels mean", info="names in the order of their numbers, with commas",
        placeholder="negative, positive", visible=False, elem_id=f"{tab}-label-names",
    )  # fmt: skip
    without_header = gr.Checkbox(
        False, label="The first row is no header", elem_id=f"{tab}-no-header"
    )
    return {
        "prompt": prompt, "answer": answer, "context": context, "encoding": encoding,
        "label_names": label_names, "without_header": without_header,
    }  # fmt: skip


def _html(html: str, elem_id: str) -> gr.HTML:
    return gr.HTML(html, elem_id=elem_id, apply_default_css=False, js_on_load=None)


# --- What it does.


class RowsEvents:
    """What `Rows` do.

    `as_read`: an example as the model reads it. `fits`: what the tab asks of examples.
    `follow(values, look)`: what the tab shows of a file; `look` is None where the file was taken
    away. `reads`, `shows`: its components in `values` and in what it gives.
    """

    def __init__(
        self,
        rows: Rows,
        as_read: Callable[[Example], str],
        fits: Fits,
        follow: Callable[[dict, Look | None], dict],
        reads: Sequence[Any] = (),
        shows: Sequence[Any] = (),
    ) -> None:
        self.rows, self.as_read, self.fits, self.follow = rows, as_read, fits, follow
        self.reads, self.shows = set(reads), [*rows.shown, *shows]

    def bind(self) -> None:
        rows = self.rows
        self.on(rows.file.upload, self.uploaded, rows.file)
        self.on(rows.file.clear, self.cleared)
        self.on(rows.use_paste.click, self.pasted, rows.paste)
        for name in ("prompt", "answer", "context", "encoding", "without_header"):
            picker = getattr(rows, name)
            self.on(picker.input, functools.partial(self.picked, name), picker)
        named = functools.partial(self.picked, "label_names")
        for event in (rows.label_names.submit, rows.label_names.blur):
            self.on(event, named, rows.label_names)

    def on(self, event: Callable, callback: Callable[[dict], dict], *inputs: Any) -> None:
        """Bind one way in: what it gives updates the component and its tab."""
        given = {*self.rows.given, *self.reads, *inputs}
        waiting = {"show_progress": "minimal", "show_progress_on": self.rows.preview}
        event(shown(callback), given, self.shows, **waiting)

    def uploaded(self, values: dict) -> dict:
        return self.looked(values, values[self.rows.file])

    def pasted(self, values: dict) -> dict:
        return self.looked(values, str(keep_text(values[self.rows.paste] or "")))

    def cleared(self, values: dict) -> dict:
        return {**self.nothing(), **self.follow(values, None)}

    def nothing(self) -> dict:
        """The component without a file."""
        rows = self.rows
        return {
            rows.path: None,
            rows.wanted: DETECTED,
            rows.problem: "",
            rows.choices: gr.Column(visible=False),
            rows.preview: rows.nothing,
            rows.leave_out: gr.Checkbox(value=False, visible=False),
        }

    def picked(self, name: str, values: dict) -> dict:
        rows, before = self.rows, values[self.rows.wanted]
        wanted = chosen(before, name, values[getattr(rows, name)])
        if values[rows.path] is None or wanted == before:
            return {rows.problem: gr.skip()}
        return self.looked(values, values[rows.path], wanted)

    def looked(self, values: dict, path: str | None, wanted: Wanted = DETECTED) -> dict:
        """A file as it is read now."""
        if not path:
            raise T2LocalError(NO_ROWS)
        look = look_at(Path(path), wanted, self.fits)
        return {**self.present(look), **self.follow(values, look)}

    def look(self, values: dict) -> Look:
        """At the rows that were given. Raises `T2LocalError` where there are none."""
        path = values[self.rows.path]
        if not path:
            raise T2LocalError(NO_ROWS)
        return look_at(Path(path), values[self.rows.wanted], self.fits)

    def present(self, look: Look) -> dict:
        """All that the component shows of a file."""
        rows, read, wanted = self.rows, look.read, look.wanted
        update = {
            rows.path: str(look.path),
            rows.wanted: wanted,
            rows.problem: problem_html(look),
            rows.choices: gr.Column(visible=read is not None),
            rows.preview: rows_html(look, self._as_read(look)),
            rows.leave_out: gr.Checkbox(value=False, visible=bool(look.file and look.bad_rows)),
        }
        if read is None:
            return update
        taken = {name: wanted_name(look, name) for name in ("prompt", "answer")}
        columns = [(one_line(name, 40) or "(no name)", name) for name in read.columns]
        free = [pair for pair in columns if pair[1] not in taken.values()]
        return update | {
            rows.prompt: gr.Dropdown(choices=columns, value=taken["prompt"]),
            rows.answer: gr.Dropdown(choices=columns, value=taken["answer"]),
            rows.context: gr.Dropdown(choices=free, value=list(_context(look)), multiselect=True),
            rows.encoding: _encoding_update(look),
            rows.label_names: gr.Textbox(
                value=", ".join(wanted.label_names), visible=asks_names(look)
            ),
            rows.without_header: gr.Checkbox(
                value=wanted.without_header, visible=look.path.suffix.lower() not in NO_HEADER_IN
            ),
        }

    def _as_read(self, look: Look) -> list[str]:
        """The first rows with the model's chat template around them, as far as there is a model."""
        try:
            return [self.as_read(e) for e in look.file.examples[:FIRST]] if look.file else []
        except T2LocalError:  # no model yet, or its template refuses such turns: told when used
            return []


def chosen(wanted: Wanted, name: str, value: Any) -> Wanted:
    """Another choice of one field; a column is one thing only.

    >>> chosen(Wanted(answer="kind"), "prompt", "kind") == Wanted(prompt="kind")
    True
    """
    if name == "label_names":
        value = tuple(part.strip() for part in (value or "").split(",") if part.strip())
    elif name == "context":
        value = tuple(map(str, value or ()))
    elif name == "without_header":  # columns have other names then
        return Wanted(encoding=wanted.encoding, without_header=bool(value))
    else:
        value = str(value or "")
    other = {"prompt": "answer", "answer": "prompt"}.get(name)
    if other and value and getattr(wanted, other) == value:
        wanted = replace(wanted, **{other: ""})
    if other and wanted.context:
        wanted = replace(wanted, context=tuple(c for c in wanted.context if c != value))
    return replace(wanted, **{name: value})


def wanted_name(look: Look, part: str) -> str | None:
    """The column that is the prompt or the answer; None where it is not known."""
    name = look.read.mapping.get(part) or getattr(look.wanted, part)
    return name if name in look.read.columns else None


def _context(look: Look) -> Sequence[str]:
    named = look.file.context if look.file else look.wanted.context or ()
    return [name for name in named if name in look.read.columns]


def asks_names(look: Look) -> bool:
    """Whether labels are numbers that could have names."""
    if look.wanted.label_names or look.asks == "label_names":
        return True
    return look.table is not None and numbers_as_labels(look.table)


def _encoding_update(look: Look) -> gr.Dropdown:
    read, wanted = look.read, look.wanted
    words = WORDS.get(read.encoding, read.encoding)
    found = "as found" if wanted.encoding or not words else f"as found: {words}"
    return gr.Dropdown(
        choices=[(found, FOUND), *((words, codec) for codec, words in ENCODINGS)],
        value=wanted.encoding or FOUND,
        allow_custom_value=True,
        visible=bool(read.encoding or wanted.encoding) and not was_pasted(look.path),
    )


def trial_html(reward: str, examples: Sequence[Example]) -> tuple[str, str]:
    """What right answers and wrong ones earn, and the problem with it, "" for none.

    A reward that does not fit the rows, or runs programs that may not be run, is told as well.
    """
    try:
        trial = try_reward(reward, examples)
    except T2LocalError as error:
        return note_html(str(error)), ""
    shown_rows = PAGE.render(
        FILE,
        "trial",
        gold=[_tried(row) for row in trial.rows if row.gold],
        wrong=[_tried(row) for row in trial.rows if not row.gold],
        problem=trial.problem,
        sample=trial.sample,
    )
    return shown_rows, trial.problem


def _tried(tried: Tried) -> tuple[str, str, str, str, str]:
    """Prompt, answer, wanted answer, kind of reward, reward."""
    texts = one_line(tried.prompt, 110), one_line(tried.said, 110), one_line(tried.wanted, 80)
    return *texts, *earned(tried.reward)


def earned(reward: float | None) -> tuple[str, str]:
    """The kind of a reward, which is its colour, and the reward in figures.

    >>> earned(1.0), earned(-0.5), earned(None)
    (('right', '+1.0'), ('wrong', '−0.5'), ('none', 'none'))
    """
    if reward is None:
        return "none", "none"
    kind = "right" if reward >= 1 else "wrong" if reward < 0 else "part"
    return kind, plus_minus(reward, 1)


# --- What it shows: values here, the elements in `templates/rows.html`.


class Turn(NamedTuple):
    who: str
    text: str


class Shown(NamedTuple):
    """A row as a person reads it. `others`: what is right as well; `raw`: as the model reads it."""

    turns: Sequence[Turn]
    n_pictures: int
    choices: Sequence[str]
    answer: str
    others: Sequence[str]
    raw: str


def problem_html(look: Look) -> str:
    """Why a file cannot serve, and which choice may mend it; "" where it can."""
    if not look.problem:
        return ""
    hint = HINTS.get(look.asks, "") if look.read is not None else ""
    return PAGE.render(FILE, "problem", sentence=look.problem, hint=hint)


def rows_html(look: Look, as_read: Sequence[str]) -> str:
    """What was found in a file, what is wrong with some rows, and the first of them."""
    bad = [(number, one_line(reason, 200)) for number, reason in look.bad_rows[:LISTED]]
    more_bad = len(look.bad_rows) - len(bad)
    if look.file is None:
        faults = PAGE.render(FILE, "faults", bad=bad, more_bad=more_bad) if bad else ""
        return faults + (raw_html(look.table) if look.table else "")
    file = look.file
    raws = [*as_read, *[""] * FIRST]
    first = [_shown(e, raw) for e, raw in zip(file.examples[:FIRST], raws, strict=False)]
    after = file.examples[FIRST : FIRST + NEXT]
    return PAGE.render(
        FILE,
        "rows",
        name="what was pasted" if was_pasted(look.path) else one_line(look.path.name),
        count=len(file.examples),
        encoding=_said_encoding(look),
        note=file.note,
        found=[_marked(line) for line in file.found],
        bad=bad,
        more_bad=more_bad,
        duplicates=_duplicates(file),
        first=first,
        after=[(one_line(e.prompt, 120), one_line(e.answer, 60)) for e in after],
        more=max(0, len(file.examples) - FIRST - NEXT),
    )


def _said_encoding(look: Look) -> str:
    """How a text was read; "" for what was pasted, and where the note says it."""
    words = WORDS.get(look.file.encoding, look.file.encoding)
    return "" if was_pasted(look.path) or f"Read as {words}" in look.file.note else words


def raw_html(table: Table) -> str:
    """The first rows as they stand in the file."""
    columns = table.columns[:RAW_COLUMNS]
    rows = [
        (row.number, [one_line(str(row.cells.get(c) or ""), 120) for c in columns])
        for row in table.rows[:RAW_ROWS]
    ]
    return PAGE.render(
        FILE,
        "raw",
        columns=[one_line(column, 40) for column in columns],
        more_columns=len(table.columns) - len(columns),
        rows=rows,
        count=len(table.rows),
        note=table.note,
    )


def _shown(example: Example, raw: str) -> Shown:
    *before, question = example.turns
    turns = [Turn(turn["role"], _cut(turn["content"])) for turn in before]
    answer, *others = example.answers or ("",)
    return Shown(
        [*turns, Turn("question", _cut(question["content"]))],
        len(example.pictures),
        [one_line(str(choice), 120) for choice in example.columns.get("choices") or ()],
        _cut(answer if others else example.wanted),
        [one_line(other, 120) for other in others],
        raw,
    )


def _marked(line: str) -> tuple[str, str]:
    """A line of what was found: the column, and what it was taken as."""
    column, colon, taken = line.partition("`: ")
    return (column.removeprefix("`"), taken) if colon else ("", line)


def _duplicates(file: ExampleFile) -> str:
    listed = ", ".join(f"{later} (as {first})" for later, first in file.duplicates[:LISTED])
    return listed + (" …" if len(file.duplicates) > LISTED else "")


def _cut(text: str) -> str:
    text = text.strip()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text):,} characters)"
