"""The experts that ship, on the real embedded model."""

import pytest

from t2local.adapt.applier import Applier
from t2local.adapt.dispatch import label_probabilities
from t2local.experts import ExpertStore, read_expert
from t2local.experts.expert import CLASSIFIER
from t2local.experts.store import check_fits
from t2local.models.load.embedded import NAME
from t2local.svf import Mixture, attach
from t2local.tasks.datasets import small_talk

pytestmark = pytest.mark.model
ASKED = {
    "math": [
        "Tom has 3 boxes with 12 pencils each and gives 7 pencils away. How many are left?",
        "A ticket costs 8 dollars. How much do 5 tickets cost with 4 dollars off in total?",
    ],
    "code": [
        "Write a function to count the vowels in a string.",
        "Write a python function to reverse a list without slicing.",
    ],
    "reasoning": [
        "Which part of a plant takes in most of the water it needs?",
        "Which change is caused by the tilt of Earth's axis?",
    ],
}


@pytest.fixture(scope="module")
def svf(embedded):
    attached = attach(embedded.model)
    yield attached
    attached.detach()


@pytest.fixture(scope="module")
def experts():
    files = sorted(ExpertStore(NAME).shipped_folder.glob("*.safetensors"))
    return {path.stem: read_expert(path) for path in files}


def test_those_that_the_readme_names_are_there(experts):
    assert set(experts) == {"math", "code", "reasoning", "classifier"}


def test_every_shipped_expert_fits_the_embedded_model_without_a_warning(experts, svf, embedded):
    for expert in experts.values():
        assert check_fits(expert, svf, embedded.name, embedded.quantization) == ""


def test_every_card_says_what_was_measured_and_how_to_repeat_it(experts):
    for expert in experts.values():
        card = expert.training
        assert expert.held_out.n >= 200
        assert card["command"].startswith("python -m t2local train")
        assert {"seed", "steps", "data", "data_sha256", "train_s"} <= set(card)
        assert expert.license


def test_the_classifier_tells_the_subjects_apart(experts, svf, embedded):
    reader = next(e for e in experts.values() if e.kind == CLASSIFIER)
    applier = Applier(svf, {reader.name: reader.z})
    questions = [(text, label) for label, texts in ASKED.items() for text in texts]
    questions += [(text, "other") for text in small_talk("held_out")[:14]]
    with applier.using(Mixture({reader.name: 1.0})):
        shares = [label_probabilities(embedded, [t], reader.labels)[0] for t, _ in questions]
    right = [max(s, key=s.get) == label for s, (_, label) in zip(shares, questions, strict=True)]
    assert sum(right) >= 0.9 * len(right), [
        q for q, ok in zip(questions, right, strict=True) if not ok
    ]
