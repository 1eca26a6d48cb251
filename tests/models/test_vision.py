"""Pictures as token ids: the same numbers as the model's own forward, wherever ids are read."""

import shutil

import pytest
import torch
from PIL import Image

from t2local.errors import T2LocalError
from t2local.experiments.vision_proof import IMAGE_TOKEN, Tower, save_small_llava
from t2local.models import vision
from t2local.models.chat_format import render_chat, render_prompt
from t2local.models.decode.generate import Decoder, Sampling, generate_batch
from t2local.models.decode.scoring import choice_log_likelihoods
from t2local.models.load.loader import count_parameters, describe, load_model
from t2local.models.vision import FIRST_ID, PROVEN, sees_as_itself
from t2local.progress import drain
from t2local.svf import attach
from tests.conftest import build_tiny, byte_tokenizer
from tests.models.vision_families import build
from tests.pictures import painted

GREEDY = Sampling(temperature=0.0, max_new_tokens=6, repetition_penalty=1.3, seed=0)

# Pictures are read one by one here and all at once there: on some processors the last bit differs.
SAME = {"atol": 1e-5, "rtol": 1e-5}


def asked(text, *pictures):
    return [{"role": "user", "content": text, "images": pictures}]


def as_transformers_would(loaded, text, *pictures):
    """What the model's processor makes of the same chat: ids and pixels for its own forward."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(loaded.model.config.name_or_path)
    places = f"{IMAGE_TOKEN}\n" * len(pictures)
    said = f"<|im_start|>user\n{places}{text}<|im_end|>\n<|im_start|>assistant\n"
    images = [Image.open(p).convert("RGB") for p in pictures]
    return processor(images=images, text=[said], return_tensors="pt", add_special_tokens=False)


@pytest.mark.parametrize("anyres", [False, True], ids=["llava", "llava_next"])
@torch.no_grad()
def test_pictures_give_the_logits_of_the_models_own_forward(tmp_path, anyres):
    text = describe(build_tiny("llama"), byte_tokenizer(), "tiny-llama")
    folder = save_small_llava(text, tmp_path, Tower(image=32, patch=8, hidden=32), anyres)
    loaded = drain(load_model(str(folder), "none"))
    pictures = painted(tmp_path, "red"), painted(tmp_path, "blue", (20, 60))
    ids = render_prompt(loaded, asked("two?", *pictures))
    own = as_transformers_would(loaded, "two?", *pictures)
    assert own["input_ids"].shape[1] == len(ids)
    expected = loaded.model(**own).logits
    torch.testing.assert_close(loaded.model(input_ids=torch.tensor([ids])).logits, expected, **SAME)
    swapped = render_prompt(loaded, asked("two?", *reversed(pictures)))
    other = loaded.model(input_ids=torch.tensor([swapped])).logits
    assert (other - expected).abs().max() > 100 * SAME["atol"]


def test_text_alone_is_computed_and_rendered_as_by_the_language_model(llava, tiny_loaded):
    text = tiny_loaded("llama")
    ids = render_prompt(llava, asked("hello"))
    assert ids == render_chat(text.tokenizer, asked("hello"))
    with torch.no_grad():
        ours = llava.model(input_ids=torch.tensor([ids])).logits[..., :320]
        assert torch.equal(ours, text.model(input_ids=torch.tensor([ids])).logits)


def test_a_batch_of_pictures_answers_as_each_alone(llava, tmp_path):
    names = ("red", "blue", "green")
    prompts = [render_prompt(llava, asked("x", painted(tmp_path, n))) for n in names]
    prompts.append(render_prompt(llava, asked("no picture at all")))
    together = generate_batch(llava, prompts, GREEDY)
    assert together == [generate_batch(llava, [prompt], GREEDY)[0] for prompt in prompts]
    choices = [[[70, 71], [80]]] * len(prompts)
    scored = choice_log_likelihoods(llava.model, prompts, choices)
    for prompt, scores in zip(prompts, scored, strict=True):
        (alone,) = choice_log_likelihoods(llava.model, [prompt], choices[:1])
        assert torch.allclose(scores, alone, atol=1e-4)
    assert len({tuple(scores.tolist()) for scores in scored}) == len(prompts)  # it sees them


def test_a_picture_is_read_in_pieces_and_its_cache_is_reused(llava, tmp_path):
    ids = render_prompt(llava, asked("what is this?", painted(tmp_path, "red")))
    whole = Decoder(llava, ids, GREEDY)
    pieces = Decoder(llava, ids, GREEDY)
    while pieces.read(7):
        pass
    assert torch.allclose(whole.logits(), pieces.logits(), atol=1e-4)


def test_the_same_picture_has_the_same_ids_and_another_one_has_others(llava, tmp_path):
    red = painted(tmp_path, "red")
    copy = str(shutil.copy(red, tmp_path / "copy.png"))
    first, again, other = (
        [i for i in render_prompt(llava, asked("x", p)) if i >= FIRST_ID]
        for p in (red, copy, painted(tmp_path, "blue"))
    )
    assert first == again
    assert len(first) == len(other) == 4
    assert not set(first) & set(other)


@torch.no_grad()
def test_features_let_go_are_computed_again(llava, tmp_path, monkeypatch):
    rows = [render_prompt(llava, asked("x", painted(tmp_path, n))) for n in ("red", "blue")]
    batch = torch.tensor(rows)
    expected = llava.model(input_ids=batch).logits
    monkeypatch.setattr(vision, "FEATURE_BYTES", 1)  # room for one picture
    assert torch.equal(llava.model(input_ids=batch.flip(0)).logits.flip(0), expected)


def test_placeholders_in_the_text_say_where_pictures_belong(llava, tmp_path):
    red = painted(tmp_path, "red")
    placed = render_prompt(llava, asked(f"before {IMAGE_TOKEN} after", red))
    first = next(i for i, token in enumerate(placed) if token >= FIRST_ID)
    assert llava.tokenizer.decode(placed[:first]).endswith("before ")
    stray = render_prompt(llava, asked(f"{IMAGE_TOKEN}{IMAGE_TOKEN}x", red))
    assert stray == render_prompt(llava, asked("x", red))


def test_a_template_that_reads_parts_alone_is_given_parts(llava_folder, tmp_path):
    folder = shutil.copytree(llava_folder, tmp_path / "parts")
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ message['role'] }}: "
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    loaded = drain(load_model(str(folder), "none"))
    chat = [*asked("what?", painted(tmp_path, "red")), {"role": "assistant", "content": "a box"}]
    ids = render_prompt(loaded, [*chat, *asked("sure?")])
    text = loaded.tokenizer.decode([i for i in ids if i < FIRST_ID])
    assert text == "user: what?\nassistant: a box\nuser: sure?\nassistant:"
    assert sum(i >= FIRST_ID for i in ids) == 4
    open_end = render_prompt(loaded, chat, continue_last=True)
    assert loaded.tokenizer.decode(open_end).endswith("assistant: a box")


def test_what_is_loaded_says_what_it_holds(llava):
    assert llava.pictures.language_model == "tiny-llama"
    assert llava.context_length == 512
    assert count_parameters(llava.model.config) == llava.model.num_parameters()


def test_a_missing_processor_is_one_sentence(llava_folder, tmp_path):
    folder = shutil.copytree(llava_folder, tmp_path / "half")
    (folder / "processor_config.json").unlink()
    with pytest.raises(T2LocalError, match=r"its processor cannot be loaded.*fetch the whole"):
        drain(load_model(str(folder), "none"))


# --- Families whose pictures merely stand in for embeddings see; the others are found out.

SEEING = ("idefics3", "vipllava")
FEW_GREEDY = Sampling(temperature=0.0, max_new_tokens=5, repetition_penalty=1.0)


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
    torch.testing.assert_close(loaded.model(input_ids=torch.tensor([ids])).logits, expected, **SAME)
    written = loaded.model.generate(**own, do_sample=False, max_new_tokens=5, eos_token_id=-1)
    decoder, said = Decoder(loaded, ids, FEW_GREEDY), []
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
