import pytest

from t2local.adapt import context
from t2local.adapt.context import TooLong, check_length, check_messages, fit
from t2local.errors import T2LocalError


def user(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


def text_of(loaded, fitted):
    return loaded.tokenizer.decode(fitted.ids)


def test_a_chat_that_fits_is_left_alone(tiny_loaded):
    fitted = fit(tiny_loaded(), [user("hello")], 64)
    assert fitted.cut_tokens == 0
    assert "hello" in text_of(tiny_loaded(), fitted)


def test_the_oldest_turns_go_first_and_the_system_prompt_stays(tiny_loaded):
    loaded = tiny_loaded()
    turns = [
        {"role": "system", "content": "be kind"},
        user("a" * 200),
        said("b" * 200),
        user("now"),
    ]
    fitted = fit(loaded, turns, 64)
    text = text_of(loaded, fitted)
    assert "be kind" in text
    assert "now" in text
    assert "aaa" not in text
    assert fitted.cut_tokens > 300


def test_a_hundred_thousand_characters_keep_both_ends_and_say_what_was_cut(tiny_loaded):
    loaded = tiny_loaded()
    fitted = fit(loaded, [user("BEGIN" + "x" * 100_000 + "END")], 64)
    text = text_of(loaded, fitted)
    assert len(fitted.ids) <= loaded.context_length - 64
    assert "BEGIN" in text
    assert "END" in text
    assert fitted.cut_tokens > 99_000
    assert "tokens fit; the middle of a long message" in fitted.note


@pytest.mark.parametrize("messages", [[], [user("   ")], [{"role": "system", "content": "hi"}]])
def test_an_empty_message_is_refused(messages):
    with pytest.raises(T2LocalError, match="message is empty"):
        check_messages(messages)


@pytest.mark.parametrize("times", [2.5, 100])
def test_a_question_of_which_most_would_not_be_read_is_refused(tiny_loaded, times):
    loaded = tiny_loaded()
    text = "x" * int(times * loaded.context_length)
    with pytest.raises(TooLong, match=r"more than 896 tokens, and tiny-llama reads 448 at most"):
        check_length(loaded, [user(text)], 64)
    check_length(loaded, [user(text), said("yes"), user("short")], 64)
    check_length(loaded, [user("x" * 890)], 64)


@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "be kind"}]])
@pytest.mark.parametrize("last", [[user("now")], [user("now"), said("go on")]])
def test_a_chat_of_hundreds_of_messages_is_cut_as_one_by_one_but_written_few_times(
    tiny_loaded, monkeypatch, system, last
):
    loaded, render, times = tiny_loaded(), context.render_prompt, 0

    def counted(*args, **options):
        nonlocal times
        times += 1
        return render(*args, **options)

    turns = [*system]
    for number in range(200):
        turns += [user(f"{number}"), said("x" * (number % 7))]
    turns += last
    monkeypatch.setattr(context, "render_prompt", counted)
    fitted = fit(loaded, turns, 64)
    assert times <= 12
    one_by_one = turns
    while len(render(loaded, one_by_one)) > 448:
        one_by_one = [*system, *one_by_one[len(system) + 2 :]]
    assert fitted.ids == render(loaded, one_by_one)


def test_earlier_thinking_is_not_read_again_and_answers_without_any_are_as_they_were(tiny_loaded):
    loaded = tiny_loaded()
    thought = said("<think>\nsecret\n</think>\n\nYes.")
    unclosed = said("<think>\nsecret, and no end")
    plain = said("No <b> & <thinker> ` <|im_end")
    chat = [user("a"), thought, user("b"), unclosed, user("c"), plain, user("d")]
    text = text_of(loaded, fit(loaded, chat, 64))
    assert "secret" not in text
    assert "Yes." in text
    assert plain["content"] in text
    assert chat[1] is thought
    going_on = text_of(loaded, fit(loaded, chat[:2], 64, continue_last=True))
    assert going_on.endswith(thought["content"])


def test_a_middle_that_is_cut_leaves_whole_characters_and_control_tokens_text(tiny_loaded):
    loaded = tiny_loaded()
    fitted = fit(loaded, [user("東京 <|im_end|>🇩🇪" * 400)], 64)
    text = text_of(loaded, fitted)
    assert "\ufffd" not in text
    assert len(fitted.ids) <= loaded.context_length - 64
    assert fitted.ids.count(loaded.tokenizer.eos_token_id) == 1
    assert len(text) > 100
