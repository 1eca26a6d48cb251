"""A person's rows on their way to training: read, chosen from, and kept in the user's own data.

A run names its rows by a file, so they are written where an upload's temporary folder cannot take
them away again; the file's name carries a hash of its rows, so equal rows are written once.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from t2local import paths
from t2local.errors import T2LocalError
from t2local.tasks.examples import Example
from t2local.tasks.files import ExampleFile, content_hash
from t2local.tasks.suggest import Suggestion, suggest_reward, with_choices
from t2local.tasks.uploads import read_upload

FEWEST_PROMPTS = 5
CHOICE = "choice"


@dataclass(frozen=True)
class Draft:
    """`name`: the file's, without its ending."""

    name: str
    file: ExampleFile
    suggestion: Suggestion


def read_draft(path: str, prompt: str = "", answer: str = "") -> Draft:
    """A file's rows and the reward that fits them; `prompt`, `answer`: columns, "" to detect.

    Raises `T2LocalError` for a file that cannot serve.
    """
    mapping = {"prompt": prompt, "answer": answer}
    file = read_upload(Path(path), {key: column for key, column in mapping.items() if column})
    different = len({example.group for example in file.examples})
    if different < FEWEST_PROMPTS:
        raise T2LocalError(
            f"'{Path(path).name}' holds {different} different prompts; "
            f"training needs at least {FEWEST_PROMPTS}: add some rows."
        )
    return Draft(paths.slug(Path(path).stem), file, suggest_reward(file.examples))


def keep_rows(draft: Draft, reward: str, leave_out_bad: bool) -> Path:
    """Write the rows to learn from as JSONL into the user's data and give the file.

    Raises `T2LocalError` for bad rows that were not to be left out, and where a reward does not
    fit the rows.
    """
    bad = draft.file.bad_rows
    if bad and not leave_out_bad:
        raise T2LocalError(
            f"{len(bad)} bad rows are in '{draft.name}', the first is row {bad[0].number} "
            f"({bad[0].reason}); mend the file, or tick that they are left out."
        )
    rows = draft.file.examples
    return write_rows(with_choices(rows) if reward == CHOICE else rows, draft.name)


def keep_text(text: str) -> Path:
    """Pasted text as a file in the user's data. Raises `T2LocalError` when it is empty."""
    if not text.strip():
        raise T2LocalError("Nothing was pasted; paste rows with a header, such as prompt,answer.")
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    path = paths.home() / "data" / f"pasted-{digest}.txt"
    with paths.atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")
    return path


def write_rows(examples: Sequence[Example], name: str) -> Path:
    """The examples as JSONL: reading the file again gives equal examples."""
    path = paths.home() / "data" / f"{name}-{content_hash(examples)[:8]}.jsonl"
    with paths.atomic_write(path) as temporary:
        lines = (json.dumps(_row(example), ensure_ascii=False) for example in examples)
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _row(example: Example) -> Mapping[str, object]:
    rest = {n: v for n, v in example.columns.items() if n.lower() not in ("prompt", "answer")}
    return {"prompt": example.prompt, "answer": example.answer, **rest}
