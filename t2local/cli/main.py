"""The parser of all commands, and what every command's end means.

Exit status: 0 done, 1 a clear one-line error, 2 usage, 130 cancelled. With `--json`, exactly one
JSON object on stdout; logs always go to stderr.
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from t2local.errors import Cancelled, T2LocalError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a pipe on Windows has few letters, a model many
    try:
        arguments = build_parser().parse_args(argv)
        if arguments.data_dir:
            os.environ["T2LOCAL_HOME"] = arguments.data_dir
        arguments.run(arguments, lambda result: print_result(result, arguments))
        sys.stdout.flush()
    except T2LocalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (Cancelled, KeyboardInterrupt):
        print("cancelled", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    from t2local.cli import (
        accounts,
        adapt,
        ask,
        bench,
        chat_files,
        doctor,
        evaluate,
        experts,
        label,
        look,
        models,
        recipe_files,
        train,
    )

    parser = argparse.ArgumentParser(prog="t2local", description=__doc__.splitlines()[0])
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (
        ask,
        adapt,
        train,
        look,
        evaluate,
        label,
        experts,
        models,
        chat_files,
        recipe_files,
        bench,
        doctor,
        accounts,
    ):
        module.add_parser(subparsers)
    for subparser in subparsers.choices.values():
        subparser.add_argument("--json", action="store_true", help="one JSON object on stdout")
        subparser.add_argument("--data-dir", default=None, metavar="DIR")
    return parser


def print_result(result: dict[str, Any], arguments: argparse.Namespace) -> None:
    """One JSON object with `--json`, else a readable line a key."""
    if arguments.json:
        print(json.dumps(result, allow_nan=False))
        return
    for key, value in result.items():
        print(f"{key}: {value if isinstance(value, str) else json.dumps(value)}")
