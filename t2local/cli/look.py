"""`rows`: how a file of rows is read, without a model; and the flags by which it is read otherwise.

The flags are the same for every command that takes a file: `train`, `adapt`, `evaluate`, `experts`.
What was found in a file goes to stderr, and a file that cannot be used is told in one line that
names the flag which mends it. Exit status of `rows`: 1 where the file cannot be used as it is.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from t2local.cli import log
from t2local.errors import T2LocalError
from t2local.paths import named
from t2local.tasks.files import DETECTED, ExampleFile, Look, Table, Wanted
from t2local.tasks.rows import Example, shown
from t2local.tasks.uploads import Trial, kept_as_read, look_at, suggest_reward, try_reward

NO_CONTEXT = "none"
SHOWN = 3  # rows that `rows` shows
LISTED = 20  # bad rows that it names, all of them with --json
LEAVE_OUT = "with --leave-out-bad-rows"
FLAGS = {  # the field of `Wanted` that is asked for, and how it is given here
    "prompt": "--prompt-column NAME",
    "answer": "--answer-column NAME",
    "context": "--context-column NAME",
    "label_names": "--label-names A,B,C",
    "without_header": "--no-header",
    "encoding": "--encoding NAME",
}


def add_rows_arguments(parser: argparse.ArgumentParser) -> None:
    """How the rows of a file are read."""
    group = parser.add_argument_group("how a file's rows are read (default: as they are found)")
    group.add_argument(
        "--encoding", default="", metavar="NAME", help="of a text, such as cp1251 or gb18030"
    )
    group.add_argument("--prompt-column", default="", metavar="NAME", help="what is asked")
    group.add_argument("--answer-column", default="", metavar="NAME", help="what is right")
    group.add_argument(
        "--context-column", action="append", metavar="NAME",
        help=f"belongs to the question too; several times for several, '{NO_CONTEXT}' for none",
    )  # fmt: skip
    group.add_argument(
        "--label-names", default="", metavar="A,B,C", help="what the labels 0, 1, 2 mean"
    )
    group.add_argument("--no-header", action="store_true", help="the first row is a row")
    group.add_argument(
        "--leave-out-bad-rows", action="store_true", help="go on with the others (default: stop)"
    )


def wanted_in(arguments: argparse.Namespace) -> Wanted:
    """What the flags ask for."""
    context = arguments.context_column
    if context is not None:
        context = () if context == [NO_CONTEXT] else tuple(context)
    names = tuple(name.strip() for name in arguments.label_names.split(",") if name.strip())
    return Wanted(
        arguments.encoding.strip(),
        arguments.prompt_column,
        arguments.answer_column,
        context,
        names,
        arguments.no_header,
    )


def source_in(given: str | Path, arguments: argparse.Namespace) -> str:
    """The file that work reads, now and when it is taken up again: it needs no flags.

    Says what was found. Raises `T2LocalError`, in one line with the flag that helps.
    """
    look = look_at(named(str(given)), wanted_in(arguments))
    _refuse_twice(look)
    _refuse_unread(look)
    for line in _found(look.file):
        log(line)
    left_out = arguments.leave_out_bad_rows and look.bad_rows
    source = kept_as_read(look, arguments.leave_out_bad_rows, f"say {LEAVE_OUT} that")
    if left_out:
        log(f"{_counted(len(look.bad_rows))} left out, the first is {_bad_row(look.bad_rows[0])}")
    return source


def refuse_flags(name: str, arguments: argparse.Namespace) -> None:
    """Raise `T2LocalError` where flags that read a file are given to what is no file."""
    if wanted_in(arguments) != DETECTED or arguments.leave_out_bad_rows:
        raise T2LocalError(
            f"'{name}' is no file: flags such as --prompt-column say how a file's rows are read; "
            "leave them out."
        )


def _refuse_unread(look: Look) -> None:
    if look.file is None:
        flag = FLAGS.get(look.asks)
        raise T2LocalError(f"{look.problem.rstrip('.')} ({flag})." if flag else look.problem)


def _refuse_twice(look: Look) -> None:
    """Raise `T2LocalError` where flags give one column two parts."""
    mapping = look.read.mapping if look.read else {}
    parts = [mapping.get("prompt"), mapping.get("answer"), *(look.wanted.context or ())]
    if twice := [name for name in parts if name and parts.count(name) > 1]:
        raise T2LocalError(
            f"'{shown(twice[0], 40)}' would be two things at once; a column is what is asked "
            "(--prompt-column), what is right (--answer-column) or more of the question "
            "(--context-column)."
        )


def _found(file: ExampleFile | Table) -> Iterator[str]:
    if file.encoding:
        yield f"encoding: {file.encoding}"
    if isinstance(file, ExampleFile):
        yield from file.found
    if file.note:
        yield file.note


def _counted(number: int) -> str:
    return f"{number} row" if number == 1 else f"{number} rows"


def _bad_row(row: tuple[int, str]) -> str:
    return f"row {row[0]}: {row[1]}"


# --- The command `rows`.


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("rows", help="how a file of rows is read, without a model")
    parser.add_argument("file", metavar="FILE", help="a spreadsheet, CSV, JSON, JSONL or Parquet")
    add_rows_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
    """Show what a file holds; raises `T2LocalError` after it where it cannot be used as it is."""
    look = look_at(named(arguments.file), wanted_in(arguments))
    _refuse_twice(look)
    if look.read is not None:
        if arguments.json:
            report(_as_json(look))
        else:
            print("\n".join(_as_text(look)))
    _refuse_unread(look)
    if not arguments.leave_out_bad_rows:
        kept_as_read(look, False, f"say {LEAVE_OUT} that")


def _as_json(look: Look) -> dict[str, Any]:
    read = look.read
    found = {
        "file": look.path.name,
        "usable": look.file is not None,
        "encoding": read.encoding,
        "columns": list(read.columns),
        "prompt": read.mapping.get("prompt", ""),
        "answer": read.mapping.get("answer", ""),
        "note": read.note,
        "bad_rows": [{"row": number, "reason": reason} for number, reason in look.bad_rows],
    }
    if look.file is None:
        raw = [{str(n): str(v) for n, v in row.cells.items()} for row in look.table.rows[:SHOWN]]
        return {**found, "problem": look.problem, "first": raw}
    reward, reason, trial = _suggested(look.file.examples)
    return {
        **found,
        "rows": len(look.file.examples),
        "context": list(look.file.context),
        "found": list(look.file.found),
        "duplicates": [list(pair) for pair in look.file.duplicates],
        "first": [_example(example) for example in look.file.examples[:SHOWN]],
        "reward": reward,
        "reason": reason,
        "trial": [row._asdict() for row in trial.rows],
        "sample": trial.sample,
        "problem": trial.problem,
    }


def _suggested(examples: Sequence[Example]) -> tuple[str, str, Trial]:
    """The reward that fits, why, and what answers earn; why that is not known is its problem."""
    reward, reason = suggest_reward(examples)
    try:
        return reward, reason, try_reward(reward, examples)
    except T2LocalError as error:
        return reward, reason, Trial((), str(error))


def _reward_text(examples: Sequence[Example]) -> Iterator[str]:
    reward, reason, trial = _suggested(examples)
    yield f"reward {reward}: {reason}"
    for words, gold in (("right answers earn", True), ("wrong ones", False)):
        if tried := [row.reward for row in trial.rows if row.gold == gold]:
            yield f"  {words} " + " ".join("none" if v is None else f"{v:+g}" for v in tried)
    yield from (f"  {sentence}" for sentence in (trial.sample, trial.problem) if sentence)


def _example(example: Example) -> dict[str, Any]:
    turns = [{"role": turn["role"], "content": turn["content"]} for turn in example.turns]
    choices = {"choices": example.columns["choices"]} if "choices" in example.columns else {}
    return {"turns": turns, "answers": list(example.answers), **choices}


def _as_text(look: Look) -> Iterator[str]:
    read, name = look.read, shown(look.path.name)
    if look.file is None:
        yield f"{name}: {_counted(len(look.table.rows))}, and no examples"
        yield from _found(read)
        yield "columns: " + ", ".join(f"'{shown(column, 40)}'" for column in read.columns)
        for row in look.table.rows[:SHOWN]:
            yield f"row {row.number}"
            yield from (f"  {shown(n, 40)}: {shown(str(v), 200)}" for n, v in row.cells.items())
    else:
        yield f"{name}: {_counted(len(look.file.examples))} to use"
        yield from _found(read)
        for place, example in enumerate(look.file.examples[:SHOWN], 1):
            yield from _example_text(place, example)
    yield from _bad_text(look.bad_rows)
    if look.file is not None:
        if again := len(look.file.duplicates):
            yield f"{_counted(again)} repeat an earlier one"
        yield from _reward_text(look.file.examples)


def _example_text(place: int, example: Example) -> Iterator[str]:
    yield f"example {place}"
    for turn in example.turns:
        yield from _indented(turn["role"], turn["content"])
    if choices := example.columns.get("choices"):
        yield from _indented("choices", " | ".join(map(str, choices)))
    answer = "  or  ".join(example.answers[1:] and example.answers) or example.wanted
    yield from _indented("answer", answer or "(none; its columns score it)")


def _indented(who: str, text: str) -> Iterator[str]:
    """A file's own text for a terminal: its lines, without control characters."""
    first, *others = [shown(line, 500) for line in text.splitlines()] or [""]
    yield f"  {who}: {first}"
    yield from (f"    {line}" for line in others)


def _bad_text(bad: Sequence[tuple[int, str]]) -> Iterator[str]:
    if bad:
        yield f"{_counted(len(bad))} cannot be used"
        yield from (f"  {_bad_row(row)}" for row in bad[:LISTED])
        if len(bad) > LISTED:
            yield f"  and {len(bad) - LISTED} more"
