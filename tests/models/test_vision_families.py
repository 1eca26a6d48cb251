"""Families whose pictures merely stand in for embeddings see; the others are found out."""

import pytest
import torch
from PIL import Image

from t2local.models import vision
from t2local.models.chat_format import render_prompt
from t2local.models.decode.generate import Decoder, Sampling
from t2local.models.load.loader import count_parameters, load_model
from t2local.models.vision import FIRST_ID, PROVEN, sees_as_itself
from t2local.progress import drain
from t2local.svf import attach
from tests.models.vision_families import build
from tests.pictures import painted

SEEING = ("idefics3", "vipllava")
GREEDY = Sampling(temperature=0.0, max_new_tokens=5, repetition_penalty=1.0)


@pytest.fixture
def folder(tmp_path):
    """`folder(family)`: a checkpoint with its processor."""

    def save(family):
        model, processor = build(family)
        model.save_pretrained(tmp_path / family)
        processor.save_pretrained(tmp_path / family)
        return str(tmp_path / family)

    return save


@pytest.mark.parametrize("family", SEEING)
@torch.no_grad()
def test_two_pictures_give_the_logits_and_words_of_the_models_own_forward(family, folder, tmp_path):
    loaded = drain(load_model(folder(family), "none"))
    paths = painted(tmp_path, "red"), painted(tmp_path, "blue", (20, 60))
    chat = [{"role": "user", "content": "two?", "images": paths}]
    ids = render_prompt(loaded, chat)
    _, processor = build(family)
    token = loaded.pictures.token
    own = processor(
        images=[[Image.open(p).convert("RGB") for p in paths]],
        text=[f"<|im_start|>user\n{token}\n{token}\ntwo?<|im_end|>\n<|im_start|>assistant\n"],
        add_special_tokens=False,
        return_tensors="pt",
    )
    assert own["input_ids"].shape[1] == len(ids)
    assert sum(i >= FIRST_ID for i in ids) == int(
        (own["input_ids"] == loaded.tokenizer.convert_tokens_to_ids(token)).sum()
    )
    expected = loaded.model(**own).logits
    assert torch.equal(loaded.model(input_ids=torch.tensor([ids])).logits, expected)
    written = loaded.model.generate(**own, do_sample=False, max_new_tokens=5, eos_token_id=-1)
    decoder, said = Decoder(loaded, ids, GREEDY), []
    for _ in range(5):
        said.append(int(decoder.logits().argmax()))
        decoder.push(torch.tensor(said[-1:]))
    assert said == written[0, len(ids) :].tolist()


@pytest.mark.parametrize("family", SEEING)
def test_parameters_are_counted_from_the_config(family):
    model, _ = build(family)
    assert count_parameters(model.config) == model.num_parameters()


@pytest.mark.parametrize("family", SEEING)
def test_only_the_language_model_is_adapted(family, folder):
    svf = attach(drain(load_model(folder(family), "none")).model)
    assert len(svf.matrix_names) == 14
    assert not [name for name in svf.matrix_names if "vision" in name or "connector" in name]


@pytest.mark.parametrize("family", SEEING)
def test_the_trial_at_loading_finds_out_that_it_sees(family, folder, monkeypatch):
    monkeypatch.setattr(vision, "PROVEN", {})
    loaded = drain(load_model(folder(family), "none"))
    assert family in PROVEN
    assert loaded.pictures is not None
    assert not loaded.notes


def test_a_family_that_masks_by_the_picture_answers_text_only_and_is_left_as_it_was():
    model, processor = build("gemma3")
    tokenizer, template = processor.tokenizer, processor.tokenizer.chat_template
    ids = torch.tensor([[5, 80, 81]])
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        pictures, why = vision.seeing(model, tokenizer, processor)
        assert torch.equal(model(input_ids=ids).logits, expected)
    assert pictures is None
    assert why == "This model answers text only: t2local cannot show pictures to 'gemma3' models."
    assert tokenizer.chat_template == template
    assert "forward" not in vars(model.get_input_embeddings())


def test_a_processor_that_cannot_be_had_is_said_and_the_model_answers_text(
    folder, monkeypatch, tmp_path
):
    where = folder("idefics3")
    (tmp_path / "idefics3" / "processor_config.json").unlink()
    monkeypatch.setattr(vision, "PROVEN", {})
    loaded = drain(load_model(where, "none"))
    assert loaded.pictures is None
    assert "answers text only: its processor cannot be loaded" in loaded.notes[0]


def test_a_family_that_reads_two_pictures_otherwise_than_one_is_found_out(folder, monkeypatch):
    """As one that tiles a picture only where it is alone."""
    loaded = drain(load_model(folder("vipllava"), "none"))
    _, processor = build("vipllava")
    plain = type(loaded.model).forward

    def forward(self, *args, pixel_values=None, **inputs):
        if pixel_values is not None and len(pixel_values) > 1:
            pixel_values = pixel_values.flip(-1)
        return plain(self, *args, pixel_values=pixel_values, **inputs)

    monkeypatch.setattr(type(loaded.model), "forward", forward)
    found = loaded.model, loaded.tokenizer, processor, loaded.pictures
    assert not sees_as_itself(*found)
    monkeypatch.setattr(type(loaded.model), "forward", plain)
    assert sees_as_itself(*found)
