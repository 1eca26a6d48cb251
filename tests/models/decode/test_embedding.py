import pytest
import torch

from t2local.errors import T2LocalError
from t2local.models.chat_format import render_chat
from t2local.models.decode.embedding import (
    depth_of_embedding,
    embed,
    listening,
    message_span,
    pooled,
)
from t2local.models.load.loader import load_model
from t2local.progress import drain

LONG = "A train leaves at nine and meets another one. " * 30
ASK = [{"role": "user", "content": "What is 2 + 2?"}]
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi."},
    *ASK,
]


@pytest.fixture(params=["llama", "gpt2", "gemma"])
def loaded(request, tiny_loaded):
    return tiny_loaded(request.param)


@pytest.mark.parametrize("chat", [ASK, CHAT])
def test_the_span_of_a_message_holds_its_words_and_nothing_of_the_template(loaded, chat):
    ids = render_chat(loaded.tokenizer, chat)
    first, end = message_span(loaded, chat, ids)
    assert loaded.tokenizer.decode(ids[first : end or None]).strip() == "What is 2 + 2?"


def test_the_span_counts_from_the_end_so_that_older_turns_may_be_missing(loaded):
    ids = render_chat(loaded.tokenizer, CHAT)
    first, end = message_span(loaded, CHAT, ids)
    assert message_span(loaded, CHAT, ids[5:]) == (first, end)


def test_what_listening_hears_is_the_hidden_state_that_transformers_gives(loaded):
    ids = torch.tensor([render_chat(loaded.tokenizer, ASK)])
    with torch.no_grad(), listening(loaded.model, 1) as heard:
        said = loaded.model(input_ids=ids, output_hidden_states=True)
    assert torch.equal(heard[0], said.hidden_states[1])


def test_nothing_listens_when_the_block_is_over(loaded):
    with listening(loaded.model, 1) as heard:
        pass
    embed(loaded, [ASK])
    assert not heard


def test_an_embedding_is_the_mean_over_the_message_alone(loaded):
    ids = render_chat(loaded.tokenizer, CHAT)
    first, end = message_span(loaded, CHAT, ids)
    depth = depth_of_embedding(loaded)
    with torch.no_grad(), listening(loaded.model, depth) as heard:
        loaded.model(input_ids=torch.tensor([ids]))
    whole = heard[0][0, first : end or None].mean(dim=0)
    torch.testing.assert_close(embed(loaded, [CHAT])[0], whole, rtol=1e-4, atol=1e-5)


def test_reading_in_parts_gives_the_same_mean(loaded):
    states = torch.randn(1, 20, 4)
    parts = list(states.split([3, 9, 8], dim=1))
    torch.testing.assert_close(pooled(parts, 6, -2), states[0, 12:18].mean(dim=0))


def test_a_message_longer_than_the_context_is_embedded_by_what_fits(loaded):
    assert torch.isfinite(embed(loaded, [[{"role": "user", "content": LONG}]])).all()


def test_a_long_message_counts_by_what_it_begins_with(loaded):
    """The mean of pages of text is like no prompt's, whatever they are about."""
    ends = [[{"role": "user", "content": LONG[:400] + end}] for end in ("and so on", "def f(): 0")]
    one, other = embed(loaded, ends)
    torch.testing.assert_close(one, other)


def test_a_model_whose_layers_are_nowhere_says_so(tiny_loaded):
    loaded = tiny_loaded("llama")
    loaded.model.config.num_hidden_layers = 7
    with pytest.raises(T2LocalError, match="another strategy"):
        depth_of_embedding(loaded)


def test_of_a_vision_language_model_it_is_the_language_model_that_is_heard(llava_folder):
    """Its picture tower may have as many layers."""
    loaded = drain(load_model(str(llava_folder)))
    config = loaded.model.config
    assert config.vision_config.num_hidden_layers == config.text_config.num_hidden_layers
    assert embed(loaded, [ASK]).shape == (1, config.text_config.hidden_size)
