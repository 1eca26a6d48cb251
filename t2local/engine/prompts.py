"""Prompts that are kept under a name, with variables: `{{topic}}` is asked for when one is used.

All of a home's prompts are one JSON file, which is also what is exported and imported. A damaged
file is told of and left as it is. Nothing here knows a model or a page.
"""

import contextlib
import itertools
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2local import locks, paths
from t2local.errors import T2LocalError
from t2local.untrusted import check_encodes, file_bytes, parsed, typed, word

MARK = "t2local_prompts"  # the name by which a file of them is known; its value is its version
VERSION = 1
FILE = "prompts.json"
MOST_BYTES = 4 * 2**20  # of a file
MOST_KEPT, MOST_VARIABLES = 1_000, 20
LONGEST_NAME, LONGEST_TEXT = 100, 100_000  # characters
VARIABLE = re.compile(r"\{\{\s*([^{}\s][^{}\n]{0,59}?)\s*\}\}")
BUSY = "Another t2local is changing the prompts; try again in a moment."
NO_FILE_OF_PROMPTS = "open a file that t2local exported"


@dataclass(frozen=True)
class SavedPrompt:
    """Raises `T2LocalError` for a name or a text that cannot be kept."""

    name: str
    text: str

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise T2LocalError("The prompt has no name yet; write one, then save it.")
        if not self.text.strip():
            raise T2LocalError("The prompt is empty; write it in the message box, then save it.")
        for what, text, most in (
            ("name", self.name, LONGEST_NAME), ("text", self.text, LONGEST_TEXT)
        ):  # fmt: skip
            if len(text) > most:
                raise T2LocalError(
                    f"The prompt's {what} has {len(text):,} characters; shorten it to {most:,}."
                )
            check_encodes(text, f"the prompt's {what}")
        if len(self.variables) > MOST_VARIABLES:
            raise T2LocalError(
                f"The prompt has {len(self.variables)} variables; use at most {MOST_VARIABLES}."
            )

    @property
    def variables(self) -> tuple[str, ...]:
        """Their names in the order in which they come first."""
        return tuple(dict.fromkeys(VARIABLE.findall(self.text)))

    def filled(self, values: Mapping[str, str]) -> str:
        """The text with the values in it; a variable without one stays as it is.

        What looks like a variable in a value is none.
        """
        return VARIABLE.sub(lambda found: values.get(found[1]) or found[0], self.text)


class PromptStore:
    """The prompts of one folder; safe to call from several threads and processes."""

    def __init__(self, folder: Path | None = None) -> None:
        self.path = (folder or paths.prompts_dir()) / FILE
        self._lock = threading.Lock()  # around a look at the file and a change

    def list(self) -> "list[SavedPrompt]":
        """All by name. Raises `T2LocalError` where the file cannot be read."""
        found = read_prompts(self.path) if self.path.exists() else []
        return sorted(found, key=lambda prompt: prompt.name.casefold())

    def find(self, name: str) -> SavedPrompt:
        """Raises `T2LocalError` where there is none of this name."""
        for prompt in self.list():
            if prompt.name == name:
                return prompt
        raise T2LocalError(f"There is no prompt '{word(name)}' any more; choose another.")

    def keep(self, prompt: SavedPrompt) -> SavedPrompt | None:
        """Save a prompt; gives the one of the same name whose place it took."""
        with self._changing():
            prompts = {kept.name: kept for kept in self.list()}
            before = prompts.get(prompt.name)
            self._write([*(prompts | {prompt.name: prompt}).values()])
        return before

    def delete(self, name: str) -> SavedPrompt:
        """Gives what was there, so that `keep` can bring it back."""
        with self._changing():
            prompt = self.find(name)
            self._write([kept for kept in self.list() if kept.name != name])
        return prompt

    def take_in(self, prompts: Sequence[SavedPrompt]) -> int:
        """Add prompts and give their number; one that is there is left out.

        Another one of the same name gets a number behind it.
        """
        with self._changing():
            kept, added = {prompt.name: prompt for prompt in self.list()}, 0
            for prompt in prompts:
                names = itertools.chain(
                    [prompt.name], (f"{prompt.name[:90]} ({n})" for n in itertools.count(2))
                )
                name = next(n for n in names if n not in kept or kept[n].text == prompt.text)
                added += name not in kept
                kept.setdefault(name, SavedPrompt(name, prompt.text))
            self._write([*kept.values()])
        return added

    def _write(self, prompts: Sequence[SavedPrompt]) -> None:
        if len(prompts) > MOST_KEPT:
            raise T2LocalError(f"{MOST_KEPT:,} prompts are kept at most; delete some first.")
        content = prompts_bytes(prompts)
        with paths.atomic_write(self.path) as temporary:
            temporary.write_bytes(content)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock, locks.holding(self.path.parent / ".lock", BUSY):
            yield


def prompts_bytes(prompts: Sequence[SavedPrompt]) -> bytes:
    """A file of prompts. Raises `T2LocalError` for one that could not be read back."""
    rows = [{"name": prompt.name, "text": prompt.text} for prompt in prompts]
    found = json.dumps({MARK: VERSION, "prompts": rows}, ensure_ascii=False, indent=1).encode()
    if len(found) > MOST_BYTES:
        raise T2LocalError(
            f"The prompts would have {len(found) / 2**20:.1f} MB, the most is "
            f"{MOST_BYTES // 2**20}; delete some first."
        )
    return found + b"\n"


def read_prompts(path: Path) -> list[SavedPrompt]:
    """Raises `T2LocalError` for what is no file of prompts; it is left as it is."""
    what = f"The file of prompts '{word(path.name)}'"
    try:
        return _from_json(typed(dict, parsed(file_bytes(path, MOST_BYTES + 1))))
    except (OSError, ValueError) as error:
        raise T2LocalError(f"{what} cannot be read ({error}); {NO_FILE_OF_PROMPTS}.") from error
    except T2LocalError as error:
        raise T2LocalError(f"{what} cannot be used: {error}") from error


def _from_json(content: Mapping[str, Any]) -> list[SavedPrompt]:
    if MARK not in content:
        raise ValueError(f"'{MARK}' is missing")
    if (version := typed(int, content[MARK], MARK)) > VERSION:
        raise T2LocalError(f"it is of a newer t2local (format {version}); update t2local.")
    rows = typed(list[dict], content.get("prompts"), "prompts")
    if len(rows) > MOST_KEPT:
        raise ValueError(f"it has {len(rows):,} prompts, the most is {MOST_KEPT:,}")
    found = (
        SavedPrompt(typed(str, row.get("name"), "name"), typed(str, row.get("text"), "text"))
        for row in rows
    )
    return list({prompt.name: prompt for prompt in found}.values())
