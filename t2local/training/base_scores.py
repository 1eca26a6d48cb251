"""What the base model got right, remembered: it answers the same rows the same way in every run.

One small JSON file below the user's home, a line of 0s and 1s for each model and set of rows. It
only saves time: where it is missing, damaged or cannot be written, the rows are answered again.
"""

import hashlib
import json
from pathlib import Path

from t2local import paths
from t2local.errors import T2LocalError
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel
from t2local.tasks.files import content_hash
from t2local.tasks.rows import Example

SCORING = 1  # raise it when the way answers are scored changes: what is remembered then is void
MOST_KEPT = 500


def path() -> Path:
    return paths.home() / "base_scores.json"


def key(
    loaded: LoadedModel, svf: SVFModel, rows: tuple[Example, ...], reward: str, max_new_tokens: int
) -> str:
    """Equal only where the base model would give the same answers with the same rewards."""
    parts = (
        SCORING, loaded.name, svf.fingerprint(), loaded.quantization, str(loaded.dtype),
        str(loaded.device), content_hash(rows), reward, max_new_tokens,
    )  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def recall(name: str, n: int) -> list[float] | None:
    """1.0 where the base model was right, of `n` rows; None where that is not known."""
    marks = _read().get(name)
    if not isinstance(marks, str) or len(marks) != n or set(marks) - {"0", "1"}:
        return None
    return [float(mark) for mark in marks]


def remember(name: str, right: list[float]) -> None:
    """Write it down, dropping the oldest beyond `MOST_KEPT`."""
    known = _read()
    known[name] = "".join("1" if r else "0" for r in right)
    newest = dict(list(known.items())[-MOST_KEPT:])
    try:
        with paths.atomic_write(path()) as temporary:
            temporary.write_text(json.dumps(newest, indent=1), encoding="utf-8")
    except T2LocalError:
        return  # a full disk costs the next run a minute, and must not cost this one its expert


def _read() -> dict[str, str]:
    try:
        known = json.loads(path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
