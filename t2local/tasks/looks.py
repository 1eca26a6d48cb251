"""A look at a person's file, whatever comes of it: what page and command line say of it.

A file that gives no examples is a `Look` as well, with its rows as they are and the choice (a field
of `files.Wanted`) that may mend it. What was chosen goes with the rows: work that reads them again
later gets them as they were chosen (`kept_as_read`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from t2local import paths
from t2local.errors import T2LocalError
from t2local.tasks.files import DETECTED, BadRow, ExampleFile, Table, UnusableRows, Wanted
from t2local.tasks.rewards import MOST_CHOICES
from t2local.tasks.tables import read_rows
from t2local.tasks.uploads import read_upload, refuse_bad, write_rows


@dataclass(frozen=True)
class Look:
    """A file as `wanted` reads it.

    `file`: its examples, None where none came of it. `table`: its rows in that case, None where the
    file is no table at all. `problem`: why it cannot serve, "" where it can. `asks`: the field of
    `Wanted` whose choice would mend it, "" where none is known.
    """

    path: Path
    wanted: Wanted
    file: ExampleFile | None = None
    table: Table | None = None
    bad_rows: Sequence[BadRow] = ()
    problem: str = ""
    asks: str = ""

    @property
    def read(self) -> ExampleFile | Table | None:
        """What is known of columns, encoding and note."""
        return self.file or self.table


Fits = Callable[[str, ExampleFile], None]  # raises `T2LocalError` where rows cannot serve


def look_at(path: Path, wanted: Wanted = DETECTED, fits: Fits | None = None) -> Look:
    """Read a file and say what came of it; raises nothing for one that cannot be used.

    `fits`: what else is asked of the examples.
    """
    try:
        file = read_upload(path, wanted)
    except UnusableRows as error:
        asks = _asked(error, wanted)
        return Look(path, wanted, None, error.table, error.bad_rows, str(error), asks)
    except T2LocalError as error:
        table, asks = _read_otherwise(path, wanted)
        return Look(path, wanted, None, table, (), str(error), asks)
    problem = ""
    try:
        if fits:
            fits(path.name, file)
    except T2LocalError as error:
        problem = str(error)
    return Look(path, wanted, file, None, file.bad_rows, problem)


def _asked(error: UnusableRows, wanted: Wanted) -> str:
    """Columns that are not there, or not known; names for numbers."""
    table = error.table
    named = {
        "prompt": (wanted.prompt,),
        "answer": (wanted.answer,),
        "context": wanted.context or (),
    }
    for part, columns in named.items():
        if not {column for column in columns if column} <= set(table.columns):
            return part
    unknown = [part for part in ("prompt", "answer") if not table.mapping.get(part)]
    if unknown and not error.bad_rows:
        return unknown[0]
    return "label_names" if numbers_as_labels(table) else ""


def _read_otherwise(path: Path, wanted: Wanted) -> tuple[Table | None, str]:
    """The rows as another choice reads them, and which; where no choice does, None."""
    others = {
        "without_header": replace(wanted, without_header=not wanted.without_header),
        "encoding": replace(wanted, encoding=""),
    }
    for asks, other in others.items():
        if other == wanted or not path.is_file():
            continue
        try:
            read = read_rows(path, other.encoding, other.without_header)
        except T2LocalError:
            continue
        columns = tuple(dict.fromkeys(column for row in read.rows for column in row.cells))
        return Table(columns, tuple(read.rows), read.encoding, note=read.note), asks
    return None, ""


def numbers_as_labels(table: Table) -> bool:
    """Whether the answers count kinds from 0 or 1, as data sets store them: they need names."""
    named = table.mapping.get("answer") or next(
        (column for column in table.columns if column.lower() == "label"), ""
    )
    cells = [str(row.cells.get(named, "")).strip() for row in table.rows]
    kinds = {int(cell) for cell in cells if cell.isdecimal() and len(cell) < 3}
    counted = kinds and kinds == set(range(min(kinds), max(kinds) + 1)) and min(kinds) < 2
    repeated = 2 <= len(kinds) <= min(MOST_CHOICES, len(cells) / 2)
    return bool(counted and repeated and all(cell.isdecimal() for cell in cells if cell))


def kept_as_read(look: Look, leave_out_bad: bool, way_out: str = "tick that") -> str:
    """A file that gives these rows without the choices: the same, or one in the user's data.

    Raises `T2LocalError` for a file that cannot serve, and for bad rows not to be left out.
    """
    if look.file is None or look.problem:
        raise T2LocalError(look.problem)
    if not leave_out_bad:
        refuse_bad(look.path.name, look.bad_rows, way_out)
    if look.wanted == DETECTED and not look.bad_rows:
        return str(look.path)
    return str(write_rows(look.file.examples, paths.slug(look.path.stem)))
