"""`chats ACTION`: list, export and import the chats of this computer, without a model."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from t2local import paths
from t2local.cli import add_flags_of_all, log
from t2local.engine.chat_content import tag_of
from t2local.engine.chat_export import JSON, KINDS, MARKDOWN, exported
from t2local.engine.chat_import import take_in
from t2local.engine.chats import ChatStore
from t2local.errors import T2LocalError

Report = Callable[[dict[str, Any]], None]


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("chats", help="list, export and import chats")
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="all chats, the newest first")
    listing.add_argument("--tag", metavar="TAG", help="those with this tag alone")
    listing.set_defaults(act=list_chats)
    exporting = actions.add_parser("export", help="write chats into a file")
    exporting.add_argument("ids", nargs="*", metavar="ID", help="as `chats list` has them")
    exporting.add_argument(
        "--kind", default=JSON, choices=KINDS,
        help=f"{JSON}: whole, comes in again; {MARKDOWN}: to read; openai: messages",
    )  # fmt: skip
    exporting.add_argument("--out", type=Path, metavar="FILE", help="default: named by the chat")
    exporting.set_defaults(act=export)
    bringing = actions.add_parser(
        "import",
        help="take in chats of t2local, ChatGPT, Claude, Open WebUI, text-generation-webui, "
        "ShareGPT or OpenAI's messages",
    )
    bringing.add_argument("file", type=Path, metavar="FILE")
    bringing.set_defaults(act=bring)
    add_flags_of_all(actions)


def run(arguments: argparse.Namespace, report: Report) -> None:
    arguments.act(arguments, report)


def list_chats(arguments: argparse.Namespace, report: Report) -> None:
    wanted = arguments.tag and tag_of(arguments.tag)
    chats = [chat for chat in ChatStore().list() if not wanted or chat.is_tagged(wanted)]
    if arguments.json:
        report({"chats": [chat._asdict() for chat in chats]})
        return
    for chat in chats:
        print("  ".join([chat.id, chat.title, *(f"#{tag}" for tag in chat.tags)]))
    if not chats:
        print("No chat has this tag." if wanted else "No chats yet.")


def export(arguments: argparse.Namespace, report: Report) -> None:
    store = ChatStore()
    ids = arguments.ids or [chat.id for chat in store.list()]
    name, content = exported([store.load(id) for id in ids], arguments.kind)
    out = paths.named(str(arguments.out)) if arguments.out else Path(name)
    if out.is_dir():
        out = out / name
    with paths.atomic_write(out) as temporary:
        temporary.write_bytes(content)
    report({"file": str(out), "chats": len(ids)})


def bring(arguments: argparse.Namespace, report: Report) -> None:
    path = paths.named(str(arguments.file))
    if not path.is_file():
        raise T2LocalError(f"There is no file '{arguments.file}'; name a JSON, JSONL or ZIP file.")
    saved, skipped = take_in(ChatStore(), path)
    for line in skipped:
        log(f"left out {line}")
    report({"chats": len(saved), "left_out": len(skipped)})
