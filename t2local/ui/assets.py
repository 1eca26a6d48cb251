"""Reads what ships in `assets/`: style and the small scripts of the page's own components."""

from t2local.paths import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "assets"


def asset(name: str) -> str:
    """The text of one file of `assets/`."""
    return (FOLDER / name).read_text(encoding="utf-8")
