"""`accounts FILE ACTION`: who may log in to a page that is started with `--accounts FILE`.

A password is asked for twice on a terminal, and read as one line from anything else. What is
changed counts from the next start.
"""

import argparse
import getpass
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from t2local.engine.people import (
    GUEST,
    LEAST_CHARACTERS,
    MOST_CHARACTERS,
    OWNER,
    add_account,
    new_account,
    read_accounts,
    remove_account,
)
from t2local.errors import T2LocalError

Report = Callable[[dict[str, Any]], None]


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("accounts", help="who may log in, with which password")
    parser.add_argument("file", type=Path, metavar="FILE", help="as in app.py --accounts FILE")
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    adding = actions.add_parser("add", help="let somebody in; asks for their password")
    adding.add_argument("name", metavar="NAME")
    adding.add_argument(
        "--owner", action="store_true", help="may also load models, train and change experts"
    )
    adding.set_defaults(act=add)
    removing = actions.add_parser("remove", help="let somebody in no more; their chats stay")
    removing.add_argument("name", metavar="NAME")
    removing.set_defaults(act=remove)
    actions.add_parser("list", help="names and roles").set_defaults(act=list_accounts)
    for action in actions.choices.values():
        suppressed = {"default": argparse.SUPPRESS}  # or it would undo what stood before ACTION
        action.add_argument("--json", action="store_true", help="one JSON object", **suppressed)
        action.add_argument("--data-dir", metavar="DIR", **suppressed)


def run(arguments: argparse.Namespace, report: Report) -> None:
    arguments.file = arguments.file.expanduser()
    arguments.act(arguments, report)


def add(arguments: argparse.Namespace, report: Report) -> None:
    role = OWNER if arguments.owner else GUEST
    account = new_account(arguments.name, role, _password())
    add_account(arguments.file, account)
    report({"added": account.name, "role": role, "file": str(arguments.file)})


def remove(arguments: argparse.Namespace, report: Report) -> None:
    remove_account(arguments.file, arguments.name)
    report({"removed": arguments.name.lower(), "file": str(arguments.file)})


def list_accounts(arguments: argparse.Namespace, report: Report) -> None:
    accounts = read_accounts(arguments.file)
    if arguments.json:
        report({"accounts": [{"name": one.name, "role": one.role} for one in accounts]})
        return
    for account in accounts:
        print(f"{account.name:32} {account.role}")


def _password() -> str:
    """Raises `T2LocalError` where the two differ."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().removesuffix("\n").removesuffix("\r")
    ask = f"Password ({LEAST_CHARACTERS} to {MOST_CHARACTERS} characters): "
    first, second = getpass.getpass(ask), getpass.getpass("The same again: ")
    if first != second:
        raise T2LocalError("The two passwords differ; try it again.")
    return first
