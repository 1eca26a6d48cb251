"""Which model is loaded, how, and why this one: asked for, chosen last time, or the default.

The last model that was chosen in the page is one small file in the user's data; a damaged one
counts as none. Knows nothing of loading.
"""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from t2local import paths
from t2local.engine.requests import known

ASKED = "asked for with --model"
FROM_ENVIRONMENT = "named by T2LOCAL_MODEL"
LAST = "chosen last time"
DEFAULT = "comes with the app"
HERE = "chosen in this page"
AUTO, EXACT = "auto", "exact"


@dataclass(frozen=True)
class Choice:
    """A model and how to hold it, in the words of the command line. `why`: one of the above."""

    source: str
    quantize: str = AUTO
    basis: str = AUTO
    targets: str = "all"
    why: str = HERE
    precision: str = AUTO  # "exact": answers in float32 only, no 8-bit copies

    @property
    def asked(self) -> str:
        """What a person calls it: the id, or a path's last part."""
        path = Path(self.source).expanduser()
        return path.name if path.is_absolute() or path.exists() else self.source


def at_start(model: str | None = None, quantize: str = AUTO, basis: str = AUTO) -> Choice:
    """What the page opens with: `model`, else `T2LOCAL_MODEL`, else the last choice, else embedded.

    `quantize` and `basis` count before those of the last choice where they are not "auto".
    """
    if model:
        return Choice(model, quantize, basis, why=ASKED)
    if os.environ.get("T2LOCAL_MODEL"):
        return Choice(paths.default_model(), quantize, basis, why=FROM_ENVIRONMENT)
    last = last_choice()
    if last is None:
        return default(quantize, basis)
    given = {"quantize": quantize, "basis": basis}
    return replace(last, **{name: value for name, value in given.items() if value != AUTO})


def default(quantize: str = AUTO, basis: str = AUTO) -> Choice:
    """The embedded model, whatever was chosen before."""
    return Choice("embedded", quantize, basis, why=DEFAULT)


def remember(choice: Choice) -> None:
    """Open with this model next time. Raises `T2LocalError` when the disk does not take it."""
    with paths.atomic_write(_file()) as temporary:
        temporary.write_text(json.dumps(asdict(choice), indent=1), encoding="utf-8")


def last_choice() -> Choice | None:
    """What was remembered, None where nothing readable is."""
    try:
        values = json.loads(_file().read_text(encoding="utf-8"))
        return Choice(**{n: str(v) for n, v in known(Choice, values).items()} | {"why": LAST})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _file() -> Path:
    return paths.home() / "model.json"
