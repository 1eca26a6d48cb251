"""Batches equal one row at a time; caches change nothing; random numbers are common."""

from contextlib import nullcontext

import pytest
import torch

from t2local.errors import Cancelled
from t2local.models.chat_format import render_chat
from t2local.models.decode.generate import Batch, Decoder, PrefixCache, Sampling, generate_batch
from t2local.models.decode.sampling import keep_top_p
from t2local.progress import CancelToken
from tests.conftest import FAMILIES

GREEDY = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=12)
PROMPTS = [[3, 40, 41], [9, 8, 7, 6, 5, 44, 45, 46, 47, 48, 49, 50], [100] * 5]


def speak(decoder: Decoder) -> list[list[int]]:
    while not decoder.done:
        decoder.push(decoder.sample(decoder.logits()))
    return decoder.said


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_equals_one_row_at_a_time_and_plain_forwards(tiny_loaded, family):
    loaded = tiny_loaded(family)
    together = generate_batch(loaded, PROMPTS, GREEDY)
    assert together == [generate_batch(loaded, [p], GREEDY)[0] for p in PROMPTS]
    for prompt, said in zip(PROMPTS, together, strict=True):
        ids = torch.tensor([prompt + said])
        with torch.no_grad():
            best = loaded.model(ids, use_cache=False).logits[0].argmax(-1)
        assert best[len(prompt) - 1 : -1].tolist() == said


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_logits_by_rounding_only(tiny_loaded, family):
    loaded = tiny_loaded(family)
    with torch.no_grad():
        batch = Batch.read(loaded, PROMPTS, share=True)
        for row, prompt in enumerate(PROMPTS):
            alone = loaded.model(torch.tensor([prompt])).logits[0, -1]
            assert torch.allclose(batch.logits[row], alone, atol=1e-4)


def test_a_decoder_equals_a_batch(tiny_loaded):
    loaded = tiny_loaded()
    for prompt in PROMPTS:
        assert speak(Decoder(loaded, prompt, GREEDY)) == generate_batch(loaded, [prompt], GREEDY)


def test_rows_that_end_leave_and_the_others_go_on(tiny_loaded):
    loaded = tiny_loaded()
    lengths = {}
    for first in range(4, 60):  # the end token is whatever each row says fourth: some end early
        lengths[first] = generate_batch(loaded, [[first, 77]], GREEDY)[0]
    loaded.model.generation_config.eos_token_id = [said[3] for said in lengths.values()][:20]
    prompts = [[first, 77] for first in lengths]
    together = generate_batch(loaded, prompts, GREEDY)
    assert together == [generate_batch(loaded, [p], GREEDY)[0] for p in prompts]
    assert together == generate_batch(
        loaded, prompts, GREEDY, around_rows=lambda rows: nullcontext()
    )
    assert len({len(said) for said in together}) > 1


def test_the_end_token_is_not_part_of_the_answer(tiny_loaded):
    loaded = tiny_loaded()
    said = generate_batch(loaded, PROMPTS[:1], GREEDY)[0]
    loaded.model.generation_config.eos_token_id = said[4]
    cut = said[: said.index(said[4])]
    assert generate_batch(loaded, PROMPTS[:1], GREEDY)[0] == cut
    decoder = Decoder(loaded, PROMPTS[0], GREEDY)
    assert speak(decoder) == [cut]
    assert decoder.finished == [True]


def test_a_seed_repeats_and_rows_do_not_disturb_each_other(tiny_loaded):
    loaded = tiny_loaded()
    sampling = Sampling(temperature=1.0, seed=11, max_new_tokens=10)
    first = generate_batch(loaded, [PROMPTS[0]] * 4, sampling)
    assert first == generate_batch(loaded, [PROMPTS[0]] * 4, sampling)
    assert first == generate_batch(
        loaded, [PROMPTS[0]] * 4, sampling, around_rows=lambda rows: nullcontext()
    )
    assert len({tuple(said) for said in first}) > 1  # each row has its own numbers
    mixed = generate_batch(loaded, [PROMPTS[0], PROMPTS[1], PROMPTS[2], PROMPTS[0]], sampling)
    assert (mixed[0], mixed[3]) == (first[0], first[3])


def test_a_part_of_a_batch_says_what_it_says_in_the_whole(tiny_loaded):
    loaded, sampling = tiny_loaded(), Sampling(temperature=1.0, seed=11, max_new_tokens=10)
    whole = generate_batch(loaded, [PROMPTS[0]] * 5, sampling)
    part = generate_batch(loaded, [PROMPTS[0]] * 2, sampling, among=([1, 3], 5))
    assert part == [whole[1], whole[3]]


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_log_mu_is_the_log_probability_of_each_token_that_was_drawn(tiny_loaded, top_p):
    loaded, noted = tiny_loaded(), []
    loaded.model.generation_config.eos_token_id = list(range(0, 256, 4))  # ends soon
    sampling = Sampling(
        temperature=1.5, top_p=top_p, repetition_penalty=1.0, seed=1, max_new_tokens=8
    )
    said = generate_batch(loaded, PROMPTS * 3, sampling, keep_end=True, log_mu=noted)
    plain = generate_batch(loaded, PROMPTS * 3, sampling, keep_end=True)
    assert said == plain
    assert len({len(ids) for ids in said}) > 1
    for prompt, ids, values in zip(PROMPTS * 3, said, noted, strict=True):
        logits = loaded.model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        scores = keep_top_p(logits.float() / 1.5, top_p).log_softmax(-1)
        expected = scores.gather(1, torch.tensor(ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(values), expected, atol=1e-4)


def test_gradients_are_possible_afterwards(tiny_loaded):
    loaded = tiny_loaded()
    decoder = Decoder(loaded, PROMPTS[0], GREEDY)
    weight = torch.ones(decoder.logits().shape[-1], requires_grad=True)  # [V]
    (decoder.logits() * weight).sum().backward()
    assert weight.grad.abs().sum() > 0


def test_cancelling_stops_between_tokens(tiny_loaded):
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        generate_batch(tiny_loaded(), PROMPTS, GREEDY, cancel)


def test_the_context_is_never_overrun(tiny_loaded):
    loaded = tiny_loaded()
    prompt = [50] * (loaded.context_length - 3)
    sampling = Sampling(temperature=0, max_new_tokens=100)
    assert len(generate_batch(loaded, [prompt], sampling)[0]) <= 3
    decoder = Decoder(loaded, prompt, sampling)
    speak(decoder)
    assert decoder.context_used <= loaded.context_length
    with pytest.raises(AssertionError):
        Decoder(loaded, [50] * loaded.context_length, sampling)


def test_two_rows_with_the_same_model_say_the_same(tiny_loaded):
    sampling = Sampling(temperature=1.5, top_p=1.0, seed=5, max_new_tokens=20)
    left, right = speak(Decoder(tiny_loaded(), PROMPTS[0], sampling, rows=2))
    assert left == right


def test_a_row_that_ended_stays_as_it_is(tiny_loaded):
    loaded = tiny_loaded()
    decoder = Decoder(loaded, PROMPTS[0], GREEDY, rows=2)
    end = loaded.model.generation_config.eos_token_id
    decoder.logits()
    decoder.push(torch.tensor([60, end]))
    decoder.logits()
    decoder.push(torch.tensor([61, 62]))
    assert decoder.said == [[60, 61], []]
    assert decoder.finished == [False, True]
    alone = Decoder(loaded, PROMPTS[0], GREEDY)
    for token in (60, 61):
        alone.push(torch.tensor([token]))
    assert torch.allclose(decoder.logits()[0], alone.logits()[0], atol=1e-4)


def test_forgetting_reads_prompt_and_answer_again(tiny_loaded):
    loaded, other = tiny_loaded(seed=0), tiny_loaded(seed=1)
    decoder = Decoder(loaded, PROMPTS[1], GREEDY)
    for _ in range(3):
        decoder.push(decoder.sample(decoder.logits()))
    before = decoder.logits()
    decoder.forget()
    assert torch.allclose(decoder.logits(), before, atol=1e-4)
    loaded.model.load_state_dict(other.model.state_dict())  # what a new z does, only more
    decoder.forget()
    with torch.no_grad():
        whole = loaded.model(torch.tensor([PROMPTS[1] + decoder.said[0]])).logits[:, -1]
    assert torch.allclose(decoder.logits(), whole, atol=1e-4)


def test_an_incomplete_character_is_held_back(tiny_loaded):
    loaded = tiny_loaded()
    decoder = Decoder(loaded, PROMPTS[0], Sampling(max_new_tokens=50))
    seen = []
    for token in loaded.tokenizer.encode("né €", add_special_tokens=False):
        decoder.push(torch.tensor([token]))
        seen.append(decoder.texts()[0])
    assert seen == ["n", "n", "né", "né ", "né ", "né ", "né €"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [1, 2])
def test_a_reused_prefix_gives_the_same_logits(tiny_loaded, family, rows):
    loaded, prefixes = tiny_loaded(family), PrefixCache()
    first = Decoder(loaded, PROMPTS[1], GREEDY, rows=rows)
    said = speak(first)[0]
    prefixes.put("z", first.kept())
    longer = PROMPTS[1] + said[:-2] + [70, 71, 72]
    kept = prefixes.take("z", longer, rows)
    assert [len(ids) for ids in kept.ids] == [len(longer) - 3] * rows
    reused = Decoder(loaded, longer, GREEDY, rows=rows, cache=kept)
    fresh = Decoder(loaded, longer, GREEDY, rows=rows)
    assert torch.allclose(reused.logits(), fresh.logits(), atol=1e-4)
    assert speak(reused) == speak(fresh)


@pytest.mark.model
def test_the_embedded_model_answers(embedded):
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = render_chat(embedded.tokenizer, question)
    sampling = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=24)
    said = generate_batch(embedded, [prompt], sampling)[0]
    assert embedded.tokenizer.decode(said) == "The capital of France is Paris."
