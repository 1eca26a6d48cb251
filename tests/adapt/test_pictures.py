"""Pictures in a chat: they reach the answer, take room, and are refused where nothing sees them."""

import pytest

from t2local.adapt.context import check_pictures, fit
from t2local.errors import T2LocalError
from t2local.models.vision import FIRST_ID
from tests.pictures import painted


def asked(text, *pictures):
    return {"role": "user", "content": text, "images": pictures}


def n_picture_tokens(fitted):
    return sum(i >= FIRST_ID for i in fitted.ids)


def test_several_pictures_of_several_turns_reach_the_prompt(llava, tmp_path):
    red, blue = painted(tmp_path, "red"), painted(tmp_path, "blue")
    chat = [asked("a?", red, blue), {"role": "assistant", "content": "b"}, asked("c?", red)]
    fitted = fit(llava, chat, 16)
    assert (n_picture_tokens(fitted), fitted.note) == (12, "")


def test_a_text_that_is_too_long_is_cut_and_its_picture_kept(llava, tmp_path):
    fitted = fit(llava, [asked("word " * 300, painted(tmp_path, "red"))], 16)
    assert n_picture_tokens(fitted) == 4
    assert "the middle of a long message" in fitted.note


def test_too_many_pictures_are_one_sentence(llava, tmp_path):
    red = painted(tmp_path, "red")
    with pytest.raises(T2LocalError, match="send fewer"):
        fit(llava, [asked("what?", *[red] * 200)], 16)


def test_pictures_before_a_text_only_model_and_missing_ones_are_refused(
    llava, tiny_loaded, tmp_path
):
    red = painted(tmp_path, "red")
    with pytest.raises(T2LocalError, match="tiny-llama reads text only"):
        check_pictures(tiny_loaded("llama"), [asked("what?", red)])
    with pytest.raises(T2LocalError, match=r"'gone\.png' cannot be read"):
        check_pictures(llava, [asked("what?", str(tmp_path / "gone.png"))])
    check_pictures(llava, [asked("what?", red), asked("and?")])
