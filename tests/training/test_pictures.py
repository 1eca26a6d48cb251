"""Training, mixing and evaluating on questions that only their picture answers."""

import json
from pathlib import Path

import pytest
import torch

from t2local.adapt.answering import prompt_ids, score_choices
from t2local.adapt.candidates import ShotScorer
from t2local.errors import T2LocalError
from t2local.evaluation.measure import evaluate
from t2local.evaluation.questions import LIKELIHOOD, Question, QuestionSet
from t2local.evaluation.variants import Subject, base
from t2local.models.vision import FIRST_ID
from t2local.progress import drain
from t2local.svf import attach
from t2local.tasks.files import read_examples
from t2local.training.config import TrainConfig
from t2local.training.runner import running
from t2local.training.runs import Plan, Run
from tests.pictures import painted

ROWS = 12


@pytest.fixture
def data(tmp_path) -> Path:
    """One question about red and blue pictures of different sizes; the answer is the colour."""
    rows = []
    for i in range(ROWS):
        colour = ("red", "blue")[i % 2]
        (tmp_path / str(i)).mkdir()
        painted(tmp_path / str(i), colour, (20 + 4 * (i // 2), 30))
        choices = {"choices": ["red", "blue"], "label": i % 2}
        row = {"prompt": "colour?", "answer": colour, "image": f"{i}/{colour}.png"}
        rows.append(json.dumps(row | choices))
    path = tmp_path / "colours.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


@pytest.fixture
def seeing(llava):
    return llava, attach(llava.model)


@pytest.mark.usefixtures("no_other_tasks")
def test_an_expert_learns_what_only_the_picture_tells(seeing, data):
    config = TrainConfig(steps=12, learning_rate=5e-2, validate_every=6, prompts_per_step=6)
    run = Run.create(Plan("colours", str(data), "choice", config))
    trained = drain(running(run, *seeing, lambda expert: None))
    assert all(".language_model." in name for name in trained.expert.z)
    examples = read_examples(data).examples
    with torch.no_grad(), seeing[1].using(trained.expert.z):
        scores = score_choices(seeing[0], examples)
    assert [int(row.argmax()) for row in scores] == [i % 2 for i in range(ROWS)]


def test_training_without_eyes_is_refused(tiny_loaded, data):
    loaded = tiny_loaded("llama")
    run = Run.create(Plan("colours", str(data), "choice", TrainConfig(steps=1)))
    with pytest.raises(T2LocalError, match="8 rows have a picture, but tiny-llama reads text"):
        drain(running(run, loaded, attach(loaded.model), lambda expert: None))


def test_every_row_is_read_with_its_own_picture(seeing, data):
    examples = read_examples(data).examples
    prompts = [prompt_ids(seeing[0], example) for example in examples]
    assert all(sum(i >= FIRST_ID for i in prompt) == 4 for prompt in prompts)
    assert len({tuple(prompt) for prompt in prompts}) == ROWS
    assert ShotScorer(seeing[0], examples[:4], "choice", 8).prompts == prompts[:4]


def test_an_evaluation_looks_at_the_pictures(seeing, tiny_loaded, data):
    examples = read_examples(data).examples
    questions = tuple(Question(example, example.prompt) for example in examples)
    task = QuestionSet("colours", "other", questions, LIKELIHOOD)
    subject = Subject(*seeing, {})
    found = drain(evaluate(subject, [task], [base(subject)]))
    with torch.no_grad():
        likeliest = [int(row.argmax()) for row in score_choices(seeing[0], examples)]
    right = sum(choice == i % 2 for i, choice in enumerate(likeliest))
    assert found.results[0].correct == right
    text = tiny_loaded("llama")
    blind = Subject(text, attach(text.model), {})
    with pytest.raises(T2LocalError, match="reads text only"):
        drain(evaluate(blind, [task], [base(blind)]))
