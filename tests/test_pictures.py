"""A picture as a string: a path, base64, a data URI; what cannot be read is one sentence."""

import base64
from pathlib import Path

import pytest
from PIL import Image

from t2local.errors import T2LocalError
from t2local.pictures import check_picture, data_uri, open_picture, resolved
from tests.pictures import painted


def test_every_form_of_a_picture_opens_to_the_same_pixels(tmp_path):
    path = Path(painted(tmp_path, "red"))
    encoded = base64.b64encode(path.read_bytes()).decode()
    pixels = open_picture(str(path)).tobytes()
    for form in ("red.png", str(path), encoded, data_uri(path.read_bytes())):
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
