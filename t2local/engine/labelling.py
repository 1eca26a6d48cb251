"""A whole table labelled by an expert that was trained to choose, as the page and `label` ask.

Each row is asked as in training, and its labels scored as there, so on rows of its task it is as
right as its card says. What was labelled is on disk after every batch, under a hash of what is
asked, the expert and the model: the same request goes on where it was cut off.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from t2local import paths
from t2local.adapt.answering import CHOICE, batches, check_sees, prompt_ids
from t2local.adapt.applier import holding
from t2local.adapt.choosing import Choice, Labels, choose_each
from t2local.adapt.few_shot import z_digest
from t2local.engine.job_record import LABELLING, JobStatus, Record, new_id
from t2local.engine.jobs import Job, Work
from t2local.engine.model_slot import OnModel, check_model
from t2local.errors import T2LocalError
from t2local.experts import Expert
from t2local.models.decode.out_of_memory import Work as Worded
from t2local.models.decode.out_of_memory import out_of_memory_told
from t2local.progress import FINISHED, CancelToken, Progress
from t2local.tasks.rows import Example, text_of
from t2local.tasks.unlabelled import (
    AskedRow,
    Unlabelled,
    kind_of,
    read_unlabelled,
    with_columns,
)
from t2local.tasks.uploads import keep_file
from t2local.untrusted import check_encodes, read_document, read_lines, typed

WORDS = Worded("This labelling", "give it shorter rows")
DOUBT = 0.5  # of the way from chance to certain, below which a label is doubtful
ROUNDING = 1e-6  # of probabilities
SHOWN, LONGEST, WIDEST = 60, 300, 6  # rows, characters and columns of a table that is looked at
MOST_TEXTS = 256  # of one request
TOO_LONG = "too long for this model, or it gave NaN"


@dataclass(frozen=True)
class LabelPlan:
    """`source`: a file. `expert`: that chooses. `column`: the one that asks, "" to detect it."""

    source: str
    expert: str
    column: str = ""
    doubt: float = DOUBT
    without_header: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.doubt <= 1.0:
            raise T2LocalError(f"The doubt is {self.doubt:g}; give a number from 0 to 1.")


class Labelled(NamedTuple):
    """A row's label with its probability; "" with a `problem` where it has none."""

    label: str
    probability: float
    problem: str = ""


@dataclass(frozen=True)
class LabelSummary:
    """What came of a table. `labels`: how often each; `doubtful`, `unlabelled`: rows.

    `known`: a column that has such labels already, "" for none; of the `answered` rows in it
    `agreed` got the same. `left_out`: (number, reason) of rows that could not be read and are not
    in the file. `columns`, `first`: of the file, what was added first; cut to be looked at.
    """

    rows: int
    labels: Mapping[str, int]
    doubtful: int
    unlabelled: int
    column: str
    known: str = ""
    answered: int = 0
    agreed: int = 0
    left_out: tuple[tuple[int, str], ...] = ()
    columns: tuple[str, ...] = ()
    first: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class LabelReport:
    """A labelling as a page shows it. `file`, `summary`: None before the end."""

    status: JobStatus
    plan: LabelPlan
    file: Path | None
    summary: LabelSummary | None


class LabelWork(Work):
    """One table, from its first row to its file in the job's folder."""

    kind = LABELLING
    keeps_events = False

    def __init__(self, id: str, plan: LabelPlan, labelling: "Labelling") -> None:
        super().__init__(id, Path(plan.source).stem)
        self.plan, self._labelling = plan, labelling
        self.settings = {"model": labelling.model()[0].slug, "plan": asdict(plan)}

    def run(self, job: Job) -> Generator[Progress, None, str]:
        content, summary = yield from self._labelling.label(self.plan, job.cancel)
        path = labelled_path(self.id, self.plan)
        with paths.atomic_write(path) as temporary:
            temporary.write_bytes(content)
        with paths.atomic_write(path.parent / SUMMARY) as temporary:
            temporary.write_text(json.dumps(asdict(summary)), encoding="utf-8")
        return f"{summary.rows} rows, {summary.doubtful} of them doubtful."

    def figures(self, event: Progress, seconds: float) -> Mapping[str, Any]:
        left = (event.total - event.done) / BATCH * seconds if event.done else 0.0
        return {"step": event.done, "steps": event.total, "eta_s": left or None}

    def stopped(self, status: JobStatus) -> str:
        return f"Stopped after {status.step} rows; Label goes on from there."


BATCH = 16
SUMMARY = "summary.json"


@dataclass(frozen=True)
class Labelling(OnModel):
    """Tables labelled by experts of the loaded model."""

    def __post_init__(self) -> None:
        self.jobs.register(LABELLING, self._again)

    def choosers(self) -> list[str]:
        """The experts that were trained to choose, by name."""
        return list(self.shelf().choosers)

    # --- in the background

    def start(self, plan: LabelPlan) -> str:
        """Begin and give the id. Raises `T2LocalError` for what cannot be labelled."""
        self._chooser(plan.expert)
        self._table(plan)  # told now, not from the job
        plan = replace(plan, source=str(keep_file(plan.source)))
        return self.jobs.start(LabelWork(new_id(Path(plan.source).stem), plan, self))

    def _again(self, id: str, settings: Mapping[str, Any]) -> LabelWork:
        check_model("labelling", settings, self.model()[0])
        return LabelWork(id, _plan(id, settings), self)

    def report(self, id: str) -> LabelReport:
        """All there is to show of a labelling. Raises `T2LocalError` for an unknown one."""
        job = self.jobs.find(id)
        if job is not None:
            status, plan = self.jobs.status(id), job.work.plan
        else:
            status, settings = Record.of(id).read()
            plan = _plan(id, settings)
        path = labelled_path(id, plan)
        if status.stage != FINISHED or not path.is_file():
            return LabelReport(status, plan, None, None)
        try:
            summary = typed(LabelSummary, read_document(path.parent / SUMMARY))
        except (OSError, ValueError) as error:
            raise Record.of(id).unreadable(error) from error
        return LabelReport(status, plan, path, summary)

    # --- in the caller's thread

    def shares(self, expert: str, texts: Sequence[str]) -> list[dict[str, float]]:
        """Label -> probability of each text, the likeliest first; {} for one that is too long.

        Raises `T2LocalError` for more than `MOST_TEXTS`, for an empty one, and for an expert that
        does not choose.
        """
        if len(texts) > MOST_TEXTS:
            raise T2LocalError(f"{len(texts)} texts came at once; send {MOST_TEXTS} at most.")
        for number, text in enumerate(texts, 1):
            check_encodes(text, f"text {number}")
            if not text.strip():
                raise T2LocalError(f"Text {number} is empty; send what is to be labelled.")
        chooser, labels = self._chooser(expert)
        loaded, svf = self.model()
        found: dict[int, Choice | None] = {}
        with self.uses.of("Texts that are labelled"):
            around = holding(loaded, svf, chooser.z)
            for places in batches(texts, CHOICE):
                ids = [prompt_ids(loaded, Example(texts[place].strip(), "")) for place in places]
                with out_of_memory_told(loaded, self.forget, WORDS):
                    chosen = choose_each(loaded, expert, labels, ids, around())
                found |= dict(zip(places, chosen, strict=True))
        chosen = [found[place] for place in range(len(texts))]
        return [dict(one.shares) if one is not None else {} for one in chosen]

    def label(
        self, plan: LabelPlan, cancel: CancelToken | None = None, kind: str = ""
    ) -> Generator[Progress, None, tuple[bytes, LabelSummary]]:
        """The table with its labels, as a file of a `kind` ("": the kind that it was).

        Raises `T2LocalError`, `Cancelled`; what was labelled until then is kept.
        """
        with self.uses.of("A table that is labelled"):
            table, chooser = self._table(plan), self._chooser(plan.expert)
            found = yield from self._rows(plan, table.rows, chooser, cancel)
        bar = _bar(plan, len(chooser[1].names))
        more = [
            {
                "label": one.label,
                "probability": f"{one.probability:.3f}" if one.label else "",
                "doubtful": one.problem or ("yes" if one.probability < bar else ""),
            }
            for one in found
        ]
        content = with_columns(table, more, kind or kind_of(Path(plan.source)))
        return content, _summary(table, found, more, chooser[1].names)

    def _table(self, plan: LabelPlan) -> Unlabelled:
        table = read_unlabelled(Path(plan.source), plan.column, plan.without_header)
        check_sees(self.model()[0], [asked.example for asked in table.rows if asked.example])
        return table

    def _rows(
        self,
        plan: LabelPlan,
        rows: tuple[AskedRow, ...],
        chooser: tuple[Expert, Labels],
        cancel: CancelToken | None,
    ) -> Generator[Progress, None, list[Labelled]]:
        """The labels of rows, in order. The expert may be changed meanwhile."""
        loaded, svf = self.model()
        expert, labels = chooser
        kept = _Kept.of(rows, expert, labels, [loaded.name, svf.fingerprint(), loaded.dtype])
        found = {place: one for place, one in kept.read().items() if place < len(rows)}
        for place, asked in enumerate(rows):
            if asked.example is None:
                found[place] = Labelled("", 0.0, asked.problem)
        left = [place for place in range(len(rows)) if place not in found]
        yield Progress("Labelling", len(found), len(rows), "rows")
        around = holding(loaded, svf, expert.z)
        prompts = [rows[place].example.prompt for place in left]
        for part in batches(prompts, CHOICE):
            if cancel is not None:
                cancel.raise_if_cancelled()
            places = [left[i] for i in part]
            ids = [prompt_ids(loaded, rows[place].example) for place in places]
            with out_of_memory_told(loaded, self.forget, WORDS):
                chosen = choose_each(loaded, expert.name, labels, ids, around())
            new = dict(zip(places, map(_labelled, chosen), strict=True))
            kept.add(new)
            found |= new
            yield Progress("Labelling", len(found), len(rows), "rows")
        return [found[place] for place in range(len(rows))]

    def _chooser(self, name: str) -> tuple[Expert, Labels]:
        """Raises `T2LocalError` for one that is not there, or writes."""
        shelf = self.shelf()
        if name not in shelf.choosers:
            known = ", ".join(shelf.choosers) or "none: train one on rows with labels"
            what = "writes and does not choose" if name in shelf.usable else "is not there"
            raise T2LocalError(f"'{name}' {what}; experts that choose: {known}.")
        return shelf.usable[name], shelf.choosers[name]


def _bar(plan: LabelPlan, count: int) -> float:
    """The probability below which one of `count` labels is doubtful; at chance none is."""
    chance = 1.0 / count
    return chance + plan.doubt * (1.0 - chance) - ROUNDING


def _labelled(choice: Choice | None) -> Labelled:
    if choice is None:
        return Labelled("", 0.0, TOO_LONG)
    return Labelled(choice.label, choice.shares[choice.label])


def _summary(
    table: Unlabelled,
    found: Sequence[Labelled],
    more: Sequence[Mapping[str, str]],
    names: Sequence[str],
) -> LabelSummary:
    labels = Counter(one.label for one in found if one.label)
    known = _known(table, names)
    pairs = [
        (text_of(asked.row.cells.get(known)).strip(), one.label)
        for asked, one in zip(table.rows, found, strict=True)
    ]
    answered = [(own, label) for own, label in pairs if known and label and own in names]
    own = table.columns[:WIDEST]
    first = [
        (*said.values(), *(text_of(asked.row.cells.get(name))[:LONGEST] for name in own))
        for asked, said in zip(table.rows[:SHOWN], more, strict=False)
    ]
    return LabelSummary(
        len(found),
        dict(labels.most_common()),
        sum(said["doubtful"] == "yes" for said in more),
        sum(not one.label for one in found),
        table.prompt,
        known,
        len(answered),
        sum(own == label for own, label in answered),
        table.bad,
        (*(more[0] if more else ()), *own),
        tuple(first),
    )


def _known(table: Unlabelled, names: Sequence[str]) -> str:
    """The column, what is asked aside, of which most cells are one of the labels."""
    asks = {table.prompt, *table.context}
    for column in table.columns:
        cells = [text_of(asked.row.cells.get(column)).strip() for asked in table.rows]
        cells = [cell for cell in cells if cell]
        if column not in asks and 2 * sum(cell in names for cell in cells) > len(cells):
            return column
    return ""


def _plan(id: str, settings: Mapping[str, Any]) -> LabelPlan:
    try:
        return typed(LabelPlan, settings.get("plan"))
    except (ValueError, T2LocalError) as error:
        raise Record.of(id).unreadable(error) from error


def labelled_path(id: str, plan: LabelPlan) -> Path:
    """Where a labelling leaves its file."""
    source = Path(plan.source)
    return Record.of(id).folder / f"{source.stem}-labelled{kind_of(source)}"


@dataclass(frozen=True)
class _Kept:
    """What was labelled so far, a row a line; a crash may cut off the last one."""

    path: Path

    @classmethod
    def of(cls, rows: Sequence[AskedRow], expert: Expert, labels: Labels, about: list) -> "_Kept":
        """By what is asked, however the table was read."""
        asked = [row.example.turns if row.example is not None else None for row in rows]
        told = [z_digest({"": expert.z}), *labels.names, labels.temperature, *map(str, about)]
        digest = hashlib.sha256(json.dumps([asked, told], default=str).encode())
        return cls(paths.home() / "labels" / f"{digest.hexdigest()[:24]}.jsonl")

    def read(self) -> dict[int, Labelled]:
        try:
            lines = list(read_lines(self.path))
        except (OSError, ValueError):
            return {}
        found = {}
        for line in lines:
            try:
                place, label, probability, problem = typed(tuple[int, str, float, str], line)
            except ValueError:
                continue
            found[place] = Labelled(label, probability, problem)
        return found

    def add(self, found: Mapping[int, Labelled]) -> None:
        with paths.saving(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with Path(self.path).open("a", encoding="utf-8") as file:
                for place, one in found.items():
                    file.write(json.dumps([place, *one]) + "\n")
                file.flush()
                os.fsync(file.fileno())
