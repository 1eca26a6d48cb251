"""A picture as a string: a path, base64, a data URI; what cannot be read is one sentence."""

import base64
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from t2local.errors import T2LocalError
from t2local.pictures import (
    MOST_BYTES,
    check_picture,
    data_uri,
    open_picture,
    picture_bytes,
    resolved,
)
from tests.pictures import painted


def test_every_form_of_a_picture_opens_to_the_same_pixels(tmp_path):
    path = Path(painted(tmp_path, "red"))
    encoded = base64.b64encode(path.read_bytes()).decode()
    pixels = open_picture(str(path)).tobytes()
    for form in ("red.png", "./red.png", encoded, data_uri(path.read_bytes())):
        picture = resolved(form, tmp_path)
        check_picture(picture)
        assert open_picture(picture).tobytes() == pixels


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "BMP"])
def test_usual_kinds_are_read_as_rgb(tmp_path, kind):
    path = tmp_path / "picture"
    Image.new("L", (9, 7), 200).save(path, kind)
    check_picture(str(path))
    assert (open_picture(str(path)).mode, open_picture(str(path)).size) == ("RGB", (9, 7))
    assert kind.lower() in data_uri(path.read_bytes())[:16]


def test_a_photo_is_turned_upright(tmp_path):
    image = Image.new("RGB", (20, 10), "blue")
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was held sideways
    image.save(tmp_path / "photo.jpg", exif=exif)
    assert open_picture(str(tmp_path / "photo.jpg")).size == (10, 20)


@pytest.mark.parametrize("form", ["nowhere.png", "note.txt", "cut.png", "data:image/png;base64,!!"])
def test_what_cannot_be_read_is_named(tmp_path, form):
    (tmp_path / "note.txt").write_text("no picture")
    whole = Path(painted(tmp_path, "green", (200, 200))).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(T2LocalError, match="; ") as error:
        check_picture(resolved(form, tmp_path))
    assert form.startswith("data:") or f"'{form}'" in str(error.value)


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (9000, 9000)).save(tmp_path / "huge.png")
    with pytest.raises(T2LocalError, match="9000 × 9000 pixels"):
        check_picture(str(tmp_path / "huge.png"))


# --- A row may not find out what lies on this machine, nor hold it up.


def refusal(form, folder):
    with pytest.raises(T2LocalError) as error:
        resolved(form, folder)
    return str(error.value).replace(f"'{Path(form).name}'", "'NAME'")


@pytest.mark.skipif(sys.platform == "win32", reason="has no such links and devices")
def test_what_lies_elsewhere_is_refused_in_one_sentence_there_or_not(tmp_path):
    folder, outside = tmp_path / "data", tmp_path / "outside"
    folder.mkdir(), outside.mkdir()
    painted(outside, "red")
    (folder / "link.png").symlink_to(outside / "red.png")
    (folder / "dangling.png").symlink_to(outside / "gone.png")
    (folder / "way").symlink_to(outside)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    os.mkfifo(folder / "pipe.png")  # opened to be read, it would wait for a writer
    with (folder / "huge.png").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    forms = [
        str(outside / "red.png"), str(outside / "gone.png"), "../outside/red.png",
        "../outside/gone.png", "link.png", "dangling.png", "way/red.png", "way/gone.png",
        "loop.png", "pipe.png", "huge.png", "gone.png", ".", "/etc/passwd", "/dev/zero",
        "/dev/stdin", "~/.ssh/id_rsa", f"file://{outside}/red.png", "http://127.0.0.1:1/red.png",
        "\0", "a" * 5000,
        f"{outside}/../data/pipe.png",
    ]  # fmt: skip
    sentences = {refusal(form, folder) for form in forms if Path(form).name.isprintable()}
    shown = {sentence.replace("a" * 40 + "…", "NAME") for sentence in sentences}
    assert len(shown) <= 2, "one sentence, the empty name aside"
    assert all("is not taken" in sentence for sentence in shown)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such links")
def test_nothing_outside_is_opened(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    painted(tmp_path, "red")
    (folder / "link.png").symlink_to(tmp_path / "red.png")
    opened, real = [], os.open
    monkeypatch.setattr(
        os, "open", lambda path, *more: opened.append(str(path)) or real(path, *more)
    )
    for form in ("link.png", "../red.png", str(tmp_path / "red.png")):
        refusal(form, folder)
    assert opened == []


@pytest.mark.skipif(sys.platform == "win32", reason="has no such links")
def test_a_link_inside_the_folder_is_followed(tmp_path):
    painted(tmp_path, "red")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "link.png").symlink_to(tmp_path / "red.png")
    assert open_picture(resolved("deeper/link.png", tmp_path)).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such links")
def test_what_is_put_in_the_place_of_a_picture_later_is_refused(tmp_path):
    painted(tmp_path, "red")
    picture = resolved("red.png", tmp_path)
    for put in (lambda path: path.symlink_to("/etc/passwd"), os.mkfifo, Path.mkdir):
        Path(picture).unlink()
        put(Path(picture))
        with pytest.raises(T2LocalError, match="cannot be read"):
            picture_bytes(picture)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="needs a second owner")
def test_a_third_persons_file_is_refused(tmp_path):
    path = Path(painted(tmp_path, "red"))
    os.chown(path, 12345, 12345)
    assert "is not taken" in refusal("red.png", tmp_path)
