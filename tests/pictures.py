"""Pictures for tests, written where a test wants them."""

from pathlib import Path

from PIL import Image

COLOURS = ("red", "blue", "green", "yellow")


def painted(folder: Path, colour: str, size: tuple[int, int] = (40, 30)) -> str:
    """The path of a PNG of one colour."""
    path = folder / f"{colour}.png"
    Image.new("RGB", size, colour).save(path)
    return str(path)
