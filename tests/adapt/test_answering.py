"""One way to answer rows: its callers agree, and a failure is the answer of its own row alone."""

import pytest
import torch

from t2local.adapt.answering import (
    NOT_FINITE,
    TOO_LONG,
    answer_batch,
    answer_examples,
    choices_of,
    prompt_ids,
)
from t2local.adapt.applier import holding
from t2local.evaluation.measure import evaluate
from t2local.evaluation.questions import LIKELIHOOD, Question, QuestionSet
from t2local.evaluation.variants import Subject, mixed
from t2local.experts import Expert
from t2local.progress import drain
from t2local.svf import Mixture, attach
from t2local.tasks.rewards import rewards_of
from t2local.tasks.rows import Example
from t2local.training.validation import score_greedy
from tests.adapt.conftest import random_z

WORDS = ["red", "blue", "dark green"]
CHOICES = [
    Example(f"Colour of {i * i * 37}?", WORDS[i % 3], {"choices": WORDS, "label": i % 3})
    for i in range(37)
]
TEXTS = [Example(f"Say {word}!" * (1 + i % 3), word) for i, word in enumerate("abcdefg" * 5)]
TOKENS = 5


@pytest.fixture
def made(tiny_loaded):
    loaded = tiny_loaded("llama")
    svf = attach(loaded.model)
    return loaded, svf, random_z(svf, 1)


@pytest.mark.parametrize(("rows", "reward"), [(CHOICES, "choice"), (TEXTS, "contains")])
def test_training_and_evaluation_give_the_same_answers_to_the_same_rows(made, rows, reward):
    loaded, svf, z = made
    expert = Expert("math", loaded.name, svf.fingerprint(z), z)
    subject = Subject(loaded, svf, {"math": expert})
    verdict = LIKELIHOOD if reward == "choice" else reward
    asked = QuestionSet("rows", "", tuple(Question(r, r.prompt) for r in rows), verdict, TOKENS)
    variant = mixed(subject, "math", Mixture({"math": 1.0}))
    records = drain(evaluate(subject, [asked], [variant])).records["rows", "math"]
    scored = score_greedy(loaded, holding(loaded, svf, z), rows, reward, TOKENS)
    assert [records[i].answer for i in range(len(rows))] == list(scored.answers)
    assert [float(records[i].right) for i in range(len(rows))] == scored.right
    base = score_greedy(loaded, holding(loaded, svf, {}), rows, reward, TOKENS)
    assert base.answers != scored.answers, "the mixture is in force"


@pytest.mark.parametrize("rows", [CHOICES[:3], TEXTS[:3]], ids=["choice", "text"])
def test_of_rows_with_their_own_z_one_that_gives_nan_fails_alone(made, rows):
    loaded, svf, z = made
    own = {n: torch.stack([row, torch.full_like(row, 1e30), row * 0.9]) for n, row in z.items()}
    prompts = [prompt_ids(loaded, row) for row in rows]
    choices = [choices_of(loaded, row) for row in rows] if rows[0].columns else None

    def hold(kept):
        return svf.using({name: part[list(kept)] for name, part in own.items()})

    found = answer_batch(loaded, prompts, choices, TOKENS, around_rows=hold)
    assert [answer.failed for answer in found] == ["", NOT_FINITE, ""]
    for place in (0, 2):
        z = {name: part[place] for name, part in own.items()}
        (alone,) = answer_batch(
            loaded, prompts[place : place + 1], choices and choices[:1], TOKENS,
            around=lambda z=z: svf.using(z),
        )  # fmt: skip
        assert alone == found[place]


@pytest.mark.parametrize("value", [float("nan"), 1e30])
@pytest.mark.parametrize(
    ("rows", "reward"), [(CHOICES, "choice"), (TEXTS, "length")], ids=["choice", "text"]
)
def test_a_model_that_gives_nan_is_never_right(made, value, rows, reward):
    loaded, svf, z = made
    broken = {name: torch.full_like(row, value) for name, row in z.items()}
    scored = score_greedy(loaded, lambda: svf.using(broken), rows, reward, TOKENS)
    assert set(scored.rewards) == {-1.0}
    assert set(scored.answers) == {""}


def test_a_prompt_that_is_too_long_fails_alone(made):
    loaded, _, _ = made
    long = Example("word " * 600, "")
    first, second = answer_examples(loaded, [long, TEXTS[0]], TOKENS)
    assert first.failed == TOO_LONG
    assert [second] == answer_examples(loaded, TEXTS[:1], TOKENS)
    assert not second.failed


def test_an_empty_message_is_asked_as_it_is(made):
    loaded, _, _ = made
    row = TEXTS[0]
    assert prompt_ids(loaded, row, "") == prompt_ids(loaded, Example("", ""))
    begun = loaded.tokenizer.decode(prompt_ids(loaded, row, "Hi", "Be brief.", "So"))
    assert begun.index("Be brief.") < begun.index("Hi") < begun.index("So")
    assert begun.endswith("So")


R1 = (  # its template opens the thinking itself, so that an answer only closes it
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] <think>\n{% endif %}"
)


def test_thinking_that_the_template_opens_and_nobody_closes_is_no_answer(tiny_loaded, monkeypatch):
    """Where the model was cut off in it, no word of it is right."""
    loaded = tiny_loaded("llama")
    monkeypatch.setattr(loaded.tokenizer, "chat_template", R1)
    (answer,) = answer_examples(loaded, [Example("Say a!", "")], TOKENS)
    assert answer.text.startswith("<think>\n")
    assert rewards_of("regex", [Example("Say a!", ".*")], [answer.text]) == [-1.0]
