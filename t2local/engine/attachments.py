"""Files that are attached to a message, as text that a model can read.

Text in any encoding, Markdown, tables and source code are given line by line as they are, a PDF
page by page. What does not fit into the model's context is left out at the end, and said. A PDF is
taken apart by a process of its own (`main`): so long, with so much memory, and no more.
"""

import contextlib
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pypdf import PdfReader
from pypdf.errors import DependencyError, FileNotDecryptedError

from t2local.errors import T2LocalError
from t2local.paths import PROJECT_ROOT
from t2local.tasks.encodings import decoded
from t2local.untrusted import encodes

PDF = ".pdf"
TEXTS = {
    ".csv", ".tsv", ".txt", ".md", ".markdown", ".rst", ".log", ".json", ".jsonl", ".xml",
    ".html", ".htm", ".css",
    ".yaml", ".yml", ".toml", ".ini", ".cfg", ".tex", ".srt", ".py", ".js", ".ts", ".java", ".c",
    ".h", ".cpp", ".hpp", ".cs", ".go", ".rs", ".rb", ".php", ".sh", ".sql", ".r", ".kt", ".swift",
}  # fmt: skip
READ = sorted({PDF, *TEXTS})
MOST_FILES, MOST_BYTES = 8, 32 * 2**20  # of a message, of a file
MOST_CHARACTERS = 2_000_000  # of a file's text
PDF_S = 40.0
SHARE = 0.5  # of the room beside the answer that all files of a message may fill
AT_ONCE = threading.Semaphore(2)  # PDFs that are read, whoever asks
LONGEST_NAME = 100
WAY_OUT = "attach text, Markdown, CSV, source code or a PDF with text in it"
Count = Callable[[str], int]  # tokens of a text


@dataclass(frozen=True)
class Attachment:
    """`text`: what a model is given. `read`: what that is of the file, in words.

    `tokens`: of `text`; `of_tokens`: of all that the file says.
    """

    name: str
    text: str
    read: str
    tokens: int = 0
    of_tokens: int = 0

    @property
    def is_cut(self) -> bool:
        return self.tokens < self.of_tokens


@dataclass(frozen=True)
class Content:
    """All that a file says: `parts` are its lines or pages, which `unit` names."""

    name: str
    parts: Sequence[str]
    unit: str


def attached(paths: Sequence[str], count: Count, room: int) -> tuple[Attachment, ...]:
    """The files of one message as far as they fit; all of them, or none. `room`: tokens.

    Raises `T2LocalError` for what cannot be read, and for too many.
    """
    if len(paths) > MOST_FILES:
        raise T2LocalError(f"{len(paths)} files are attached; send at most {MOST_FILES} at once.")
    contents = [read_content(Path(path)) for path in paths]
    left, found = max(0, int(SHARE * room)), []
    for place, content in enumerate(contents):
        fair = left // (len(contents) - place)
        found.append(fitted(content, count, fair))
        left -= found[-1].tokens
    return tuple(found)


def read_content(path: Path) -> Content:
    """What a file says. Raises `T2LocalError`."""
    name = _named(path)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise T2LocalError(
            f"'{name}' has {size / 2**20:.0f} MB, the most is {MOST_BYTES // 2**20}; attach a part."
        )
    if path.suffix.lower() == PDF:
        return Content(name, _pages(path, name), "page")
    content = path.read_bytes()
    if not content.strip():
        raise T2LocalError(f"'{name}' is empty; {WAY_OUT}.")
    try:
        text = decoded(name, content).text
    except T2LocalError:  # its way out is one for tables
        text = "\0"
    if _is_binary(text):
        raise T2LocalError(f"'{name}' is no text; {WAY_OUT}.")
    if not text.strip():
        raise T2LocalError(f"'{name}' has nothing in it but spaces; {WAY_OUT}.")
    if len(text) > MOST_CHARACTERS:
        raise T2LocalError(
            f"'{name}' has {len(text):,} characters, the most is {MOST_CHARACTERS:,}; "
            "attach a part."
        )
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n").split("\n")
    return Content(name, lines, "line")


def _named(path: Path) -> str:
    """A file's name as it is shown: in short, with its ending."""
    name = "".join(char if char.isprintable() and encodes(char) else "?" for char in path.name)
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[: LONGEST_NAME - 20]}…{name[-19:]}"


def fitted(content: Content, count: Count, most_tokens: int) -> Attachment:
    """As many parts from the beginning as `most_tokens` hold, and of the first at least a piece."""
    whole = "\n".join(content.parts)
    of_tokens = count(whole)
    if of_tokens <= most_tokens:
        read = _counted(content, len(content.parts))
        return Attachment(content.name, whole, read, of_tokens, of_tokens)
    low, high = 0, len(content.parts) - 1  # the most parts that fit
    while low < high:
        middle = (low + high + 1) // 2
        if count("\n".join(content.parts[:middle])) <= most_tokens:
            low = middle
        else:
            high = middle - 1
    if low:
        text = "\n".join(content.parts[:low])
        read = f"{content.unit}s 1 to {low:,} of {len(content.parts):,}"
    else:
        text = _piece(content.parts[0], count, most_tokens)
        read = f"the first {len(text):,} characters of {len(whole):,}"
    if not text.strip():
        raise T2LocalError(
            f"'{content.name}' does not fit beside the others; attach fewer files, or shorter ones."
        )
    return Attachment(content.name, text, read, count(text), of_tokens)


def with_files(files: Sequence[Attachment], said: str) -> str:
    """What a model reads: each file under a line with its name, then what was said."""
    parts = [f"{file.name} ({file.read}):\n\n{file.text}\n\n---\n" for file in files]
    return "\n".join([*parts, said])


def _piece(text: str, count: Count, most_tokens: int) -> str:
    """The longest beginning of a text that fits."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if count(text[:middle]) <= most_tokens:
            low = middle
        else:
            high = middle - 1
    return text[:low]


def _counted(content: Content, number: int) -> str:
    return f"{number:,} {content.unit}{'s' * (number != 1)}"


def _is_binary(text: str) -> bool:
    """Control characters that no text has, or too many characters that could not be read."""
    strange = sum(ord(char) < 32 and char not in "\t\n\r\f\v\x1b" for char in text[:20_000])
    lost = text[:20_000].count("\ufffd")
    return strange > 0.002 * min(len(text), 20_000) or lost > 0.1 * min(len(text), 20_000)


def _pages(path: Path, name: str) -> list[str]:
    """The text of each page. Raises `T2LocalError`."""
    command = [sys.executable, "-m", "t2local.engine.attachments", str(path.resolve())]
    try:
        with AT_ONCE:
            done = subprocess.run(
                command, cwd=PROJECT_ROOT, capture_output=True, timeout=PDF_S, check=False
            )
    except subprocess.TimeoutExpired:
        raise T2LocalError(
            f"'{name}' takes longer than {PDF_S:.0f} seconds to read; attach some of its pages, or "
            "its text."
        ) from None
    try:
        answer = json.loads(done.stdout)
        pages, problem = list(answer["pages"]), str(answer["problem"])
    except (ValueError, KeyError, TypeError):  # it ended in the middle: memory, most likely
        pages, problem = [], "it is damaged, or too large to be read here"
    if problem:
        raise T2LocalError(f"'{name}' cannot be read: {problem}; {WAY_OUT}.")
    if not all(isinstance(page, str) and encodes(page) for page in pages):
        raise T2LocalError(f"'{name}' has text that is none; {WAY_OUT}.")
    if not any(page.strip() for page in pages):
        raise T2LocalError(
            f"'{name}' has no text in it, pictures of pages at most; {WAY_OUT}, or a picture of it."
        )
    return pages


# --- A PDF's pages, in a process of its own: `python -m t2local.engine.attachments FILE` prints
# JSON, `{"pages": [...], "problem": "..."}`; a problem is told in words.

MOST_PAGES = 1_000
MOST_MEMORY = 3 * 2**30  # bytes of addresses


def pages_of(path: Path) -> tuple[list[str], str]:
    """The pages as far as they go, and what is wrong with the file, "" for nothing."""
    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            return [], "it is locked"
        if len(reader.pages) > MOST_PAGES:
            return [], f"it has {len(reader.pages):,} pages, the most is {MOST_PAGES:,}"
        pages, characters = [], 0
        for page in reader.pages:
            text = page.extract_text().encode("utf-8", "replace").decode()
            characters += len(text)
            if characters > MOST_CHARACTERS:
                return [], f"it has more than {MOST_CHARACTERS:,} characters"
            pages.append(text.strip())
    except (FileNotDecryptedError, DependencyError):  # of ways to lock one some need a library
        return [], "it is locked"
    except Exception as error:  # a dozen kinds without a common one, RecursionError besides
        return [], f"it is no PDF, or a damaged one ({type(error).__name__})"
    return pages, ""


def main(path: str) -> None:
    logging.disable()
    with contextlib.suppress(ImportError, OSError, ValueError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    pages, problem = pages_of(Path(path))
    sys.stdout.write(json.dumps({"pages": pages, "problem": problem}))


if __name__ == "__main__":
    main(sys.argv[1])
