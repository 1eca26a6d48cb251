"""A subject on a two-layer random model with skills and a reader of random z, and small tasks."""

import os
from pathlib import Path

import pytest
import torch

from t2local.evaluation.questions import LIKELIHOOD, Question, QuestionSet
from t2local.evaluation.variants import Subject
from t2local.experts import Expert
from t2local.experts.expert import CLASSIFIER, SKILL
from t2local.paths import PROJECT_ROOT
from t2local.svf import attach
from t2local.tasks.rows import Example

LABELS = ("math", "code", "other")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    named = os.environ.get("T2LOCAL_DATA")
    folder = Path(named) if named else PROJECT_ROOT.parent / "shared" / "data"
    if not (folder / "gsm8k.test.jsonl").is_file():
        pytest.skip("the benchmark files are not here; name their folder with T2LOCAL_DATA")
    return folder


@pytest.fixture
def subject(tiny_loaded):
    loaded = tiny_loaded("llama")
    svf = attach(loaded.model)
    experts = {}
    for seed, name in enumerate(("math", "code", "reader")):
        generator = torch.Generator().manual_seed(seed)
        z = {n: 1 + 0.3 * torch.randn(r, generator=generator) for n, r in svf.ranks.items()}
        kind, labels = (CLASSIFIER, LABELS) if name == "reader" else (SKILL, ())
        experts[name] = Expert(
            name, loaded.name, svf.fingerprint(z), z, kind=kind, labels=labels
        )  # fmt: skip
    return Subject(loaded, svf, experts)


@pytest.fixture
def choosing():
    """Forty questions with three choices each, in more than two batches."""
    return QuestionSet("colours", "math", tuple(map(_choice, range(40))), LIKELIHOOD)


@pytest.fixture
def writing():
    """Five questions that are answered in words."""
    rows = [Example(f"What is {i} + {i}?", str(2 * i)) for i in range(5)]
    questions = tuple(Question(row, row.prompt) for row in rows)
    return QuestionSet("sums", "code", questions, "last number", 3)


def _choice(i: int) -> Question:
    columns = {"choices": ["red", "green", "blue"], "label": i % 3}
    row = Example(f"Which colour has thing {i * i}?", "", columns)
    return Question(row, row.prompt)
