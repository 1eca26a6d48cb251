"""What is shown of an answer grows only, and never ends in half of anything."""

from copy import deepcopy
from itertools import pairwise

import pytest

from t2local.models.chat_format import answer_text, decoded, whole
from t2local.models.decode.generate import Decoder, Sampling, generate_batch
from t2local.models.load.loader import BASE_NOTE, describe
from tests.conftest import build_tiny, byte_tokenizer

FLAG, FAMILY, ENGLAND = (
    "🇩🇪",
    "👨‍👩‍👧",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
)
LONG = Sampling(temperature=0.0, repetition_penalty=1.0, max_new_tokens=60)


def ids_of(text: str) -> list[int]:
    return byte_tokenizer().encode(text, add_special_tokens=False)


@pytest.fixture
def base():
    """A model without a chat template."""
    tokenizer = deepcopy(byte_tokenizer())
    tokenizer.chat_template = None
    return describe(build_tiny("llama"), tokenizer, "tiny-base")


@pytest.fixture
def says(monkeypatch):
    """`says(loaded, text)`: whatever the model is asked, its tokens spell `text`."""

    def scripted(loaded, text: str, ends: bool = True) -> None:
        script = [*ids_of(text), *([loaded.tokenizer.eos_token_id] if ends else [])]
        n_prompt, forward = [], type(loaded.model).forward

        def speak(self, *args, **kwargs):
            outputs = forward(self, *args, **kwargs)
            seen = kwargs["past_key_values"].get_seq_length()
            n_prompt.append(seen)
            outputs.logits[:, -1, script[min(seen - n_prompt[0], len(script) - 1)]] = 1000.0
            return outputs

        monkeypatch.setattr(type(loaded.model), "forward", speak)

    return scripted


def spoken(decoder: Decoder) -> list[str]:
    """The text after each token, and in the end."""
    shown = [decoder.texts()[0]]
    while not decoder.done:
        decoder.push(decoder.sample(decoder.logits()))
        shown += decoder.texts()
    return shown


def batch_text(loaded, sampling: Sampling) -> str:
    (said,) = generate_batch(loaded, [ids_of("hi")], sampling)
    return answer_text(loaded.tokenizer, said, complete=len(said) < sampling.max_new_tokens)


@pytest.mark.parametrize(
    ("cut", "kept"),
    [
        ("a\ufffd\ufffd", "a"),
        (f"a{FLAG}", f"a{FLAG}"),
        (f"a{FLAG[0]}", "a"),
        (f"{FLAG}{FLAG}{FLAG[0]}", FLAG * 2),
        (FAMILY, FAMILY),
        (FAMILY[:2], FAMILY[0]),
        (FAMILY[:4], FAMILY[:3]),
        (ENGLAND, ENGLAND),
        (f"a {ENGLAND[:-1]}", "a "),
        (f"a {ENGLAND[:3]}", "a "),
        ("a 🏴", "a "),
        ("👍🏽", "👍🏽"),
        ("a 🏽", "a "),
        ("\ufe0f", ""),
        ("❤\ufe0f", "❤\ufe0f"),
        ("press 1\ufe0f", "press 1"),
        (f"❤\ufe0f\u200d{FLAG[0]}\ufffd", "❤\ufe0f"),
        ("e\u0301", "e\u0301"),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_a_cut_text_ends_in_a_whole_sign(cut, kept):
    assert whole(cut) == kept
    assert whole(kept) == kept


@pytest.mark.parametrize("text", [f"ok {FLAG}{FLAG}", f"so {FAMILY}!", f"{ENGLAND} 東京", "é👍🏽"])
def test_at_every_length_an_answer_is_whole_and_only_grows(tiny_loaded, says, text):
    loaded = tiny_loaded()
    says(loaded, text)
    for length in range(1, len(ids_of(text)) + 2):
        sampling = Sampling(temperature=0.0, repetition_penalty=1.0, max_new_tokens=length)
        shown = spoken(Decoder(loaded, ids_of("hi"), sampling))
        assert all(b.startswith(a) for a, b in pairwise(shown))
        assert all(whole(part) == part for part in shown)
        assert text.startswith(shown[-1])
        assert batch_text(loaded, sampling) == shown[-1]
    assert shown[-1] == text


def test_an_answer_that_ends_by_itself_is_kept_as_it_is(tiny_loaded, says):
    loaded = tiny_loaded()
    says(loaded, f"the letter {FLAG[0]}")
    assert spoken(Decoder(loaded, ids_of("hi"), LONG))[-1] == f"the letter {FLAG[0]}"
    assert batch_text(loaded, LONG) == f"the letter {FLAG[0]}"


@pytest.mark.parametrize("name", ["\n\nUser:", "\nUser:", "\n\nAssistant:", "\n\nSystem:"])
def test_the_next_speakers_name_ends_a_base_models_answer(base, says, name):
    says(base, f"Paris.\nUse\n\nUsed: it{name} and more", ends=False)
    decoder = Decoder(base, ids_of("hi"), LONG)
    shown = spoken(decoder)
    assert shown[-1] == "Paris.\nUse\n\nUsed: it"
    assert decoder.finished == [True]
    assert all(b.startswith(a) for a, b in pairwise(shown))
    assert all("it\n" not in text for text in shown)
    assert batch_text(base, LONG) == shown[-1]
    (said,) = generate_batch(base, [ids_of("hi")], LONG)
    assert decoded(base.tokenizer, said) == shown[-1]
    (sampled,) = generate_batch(base, [ids_of("hi")], LONG, keep_end=True)
    assert decoded(base.tokenizer, sampled) == shown[-1] + name


def test_a_part_of_a_name_is_not_shown_where_the_answer_is_cut(base, says):
    says(base, "Paris.\n\nUser: no")
    short = Sampling(temperature=0.0, repetition_penalty=1.0, max_new_tokens=len("Paris.\n\nUse"))
    assert spoken(Decoder(base, ids_of("hi"), short))[-1] == "Paris."
    assert batch_text(base, short) == "Paris."


def test_the_space_after_a_speakers_name_is_no_part_of_the_answer(base, says):
    says(base, " Paris.\n\nUser: no")
    assert spoken(Decoder(base, ids_of("hi"), LONG))[-1] == batch_text(base, LONG) == "Paris."


def test_a_model_with_a_template_may_say_any_name(tiny_loaded, says):
    loaded = tiny_loaded()
    says(loaded, "a\n\nUser: b")
    assert batch_text(loaded, LONG) == "a\n\nUser: b"


def test_rows_of_a_batch_end_by_a_name_each_for_itself(base, says):
    says(base, "a\n\nUser: b", ends=False)
    prompts = [ids_of("hi"), ids_of("hi"), ids_of("ho")]
    together = generate_batch(base, prompts, LONG)
    assert [decoded(base.tokenizer, said) for said in together] == ["a"] * 3


def test_a_base_model_says_so(base, tiny_loaded):
    assert base.is_base
    assert BASE_NOTE in base.notes
    assert not tiny_loaded().is_base
    assert BASE_NOTE not in tiny_loaded().notes


def test_marks_of_thinking_are_kept_though_they_are_special_tokens():
    tokenizer = deepcopy(byte_tokenizer())
    plain = tokenizer.encode("<think>a</think>b", add_special_tokens=False)
    tokenizer.add_tokens(["<think>", "</think>"], special_tokens=True)
    marked = tokenizer.encode("<think>a</think>b<|im_end|>", add_special_tokens=False)
    assert len(marked) == 5 < len(plain)
    assert tokenizer.decode(marked, skip_special_tokens=True) == "ab"
    assert answer_text(tokenizer, marked) == "<think>a</think>b"


def test_the_parts_of_an_answer_with_channels_are_kept():
    said = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Yes"
    tokenizer = deepcopy(byte_tokenizer())
    marks = ["<|channel|>", "<|message|>", "<|start|>", "<|end|>"]
    tokenizer.add_tokens(marks, special_tokens=True)
    ids = tokenizer.encode(said + "<|im_end|>", add_special_tokens=False)
    assert answer_text(tokenizer, ids) == said
