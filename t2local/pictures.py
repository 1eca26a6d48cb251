"""A picture as a string that a row, a chat or a JSON file can hold: a path, or a data URI.

Knows nothing of models or of what is asked about a picture. Pillow decodes; nothing is fetched
from the network.
"""

import base64
import binascii
import io
import os
import stat
import sys
from pathlib import Path

from PIL import Image, ImageOps

from t2local.errors import T2LocalError
from t2local.untrusted import OPEN_FLAGS, read_handle, word

COLUMNS = ("image", "images")  # where a row names its picture, or several
MOST_BYTES = 32 * 2**20  # of one file
NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has no such flag
MOST_PIXELS = 64_000_000  # of one picture: three bytes each when it is decoded
_DATA = "data:"
_BASE64_LEAST = 64  # characters; a shorter text without an ending is a file's name
_STARTS = {
    b"\x89PNG": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
}


def picture_kind(content: bytes) -> str:
    """ "png", "jpeg", …; "" where the bytes begin like no picture."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    return next((kind for start, kind in _STARTS.items() if content.startswith(start)), "")


def data_uri(content: bytes) -> str:
    """The bytes of a picture's file as a string."""
    kind = picture_kind(content) or "png"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def resolved(text: str, folder: Path, anywhere: bool = False) -> str:
    """What a row says of its picture as a data URI, or as the path of a file below `folder`.

    Raises `T2LocalError` for whatever else, in the same sentence for a file that is there and one
    that is not: a row must not find out what lies on this machine. Nothing outside is opened.
    `anywhere`: the rows are our own, so an absolute path is taken too, as it stands.
    """
    text = text.strip()
    if text.startswith(_DATA):
        return text
    if len(text) >= _BASE64_LEAST and picture_kind(content := _from_base64(text)):
        return data_uri(content)
    try:
        path = Path(text)
        return str(_plain(path) if anywhere and path.is_absolute() else _below(path, folder))
    except (OSError, ValueError):
        raise _refused(text) from None


def _below(path: Path, folder: Path) -> Path:
    """A plain file below `folder`, without links. Raises `OSError`, `ValueError`."""
    if path.is_absolute() or path.drive or ".." in path.parts or not path.parts:
        raise ValueError("outside")
    real_folder = Path(os.path.realpath(folder))
    real = Path(os.path.realpath(real_folder / path))
    if not real.is_relative_to(real_folder):
        raise ValueError("outside")  # a link led there
    handle = os.open(real, OPEN_FLAGS | NO_LINK)
    try:
        _check_file(os.fstat(handle), folder)
    finally:
        os.close(handle)
    return real


def _plain(path: Path) -> Path:
    """A plain file of a picture's size, no link. Raises `OSError`, `ValueError`."""
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode) or about.st_size > MOST_BYTES:
        raise ValueError(_NO_PICTURE)
    return path


_NO_PICTURE = "no plain file of a picture's size"


def _check_file(about: os.stat_result, folder: Path) -> None:
    """Raise `ValueError` for what is no file, too large, or a third person's."""
    if not stat.S_ISREG(about.st_mode) or about.st_size > MOST_BYTES:
        raise ValueError(_NO_PICTURE)
    if sys.platform != "win32" and about.st_uid not in (os.geteuid(), folder.stat().st_uid):
        raise ValueError("somebody else's")  # through a hard link


def _refused(text: str) -> T2LocalError:
    return T2LocalError(
        f"The picture '{word(_name(text))}' is not taken: a row holds a picture itself, or names a "
        f"file of at most {MOST_BYTES // 2**20} MB below the data file's folder; put it there, and "
        "write it relative to the data file."
    )


def picture_bytes(picture: str) -> bytes:
    """The bytes of the file, `MOST_BYTES` at most. Raises `T2LocalError` where there is none."""
    if picture.startswith(_DATA):
        content = _from_base64(picture.partition(",")[2])
        if not content:
            raise T2LocalError("A picture written into the data is no base64; attach it again.")
        return content
    try:
        return read_handle(os.open(picture, OPEN_FLAGS | NO_LINK), MOST_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise T2LocalError(
            f"The picture '{_name(picture)}' cannot be read ({reason}); "
            "put it where the row says, relative to the data file."
        ) from error


def open_picture(picture: str) -> Image.Image:
    """The decoded picture, RGB, upright. Raises `T2LocalError` for one that is damaged or huge."""
    try:
        image = _opened(picture)
        return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _damaged(picture) from error


def check_picture(picture: str) -> None:
    """Raise `T2LocalError` where `open_picture` would; the cut-off end of a file is found too."""
    try:
        image = _opened(picture)
        image.draft("RGB", (64, 64))  # a JPEG is decoded eight times as fast
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _damaged(picture) from error


def _opened(picture: str) -> Image.Image:
    """Its header is read, its pixels are not."""
    image = Image.open(io.BytesIO(picture_bytes(picture)))
    if image.width * image.height > MOST_PIXELS:
        raise T2LocalError(
            f"The picture '{_name(picture)}' has {image.width} × {image.height} pixels, the most "
            f"is {MOST_PIXELS // 1_000_000} million; make it smaller."
        )
    return image


def _damaged(picture: str) -> T2LocalError:
    return T2LocalError(
        f"'{_name(picture)}' is no picture that can be read; use PNG, JPEG, WebP, GIF or BMP."
    )


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _name(picture: str) -> str:
    return "the attached picture" if picture.startswith(_DATA) else Path(picture).name
