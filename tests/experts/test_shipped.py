"""The experts that ship, on the real embedded model."""

import pytest

from t2local.adapt.applier import Applier, adapting
from t2local.adapt.dispatch import label_probabilities
from t2local.experts import ExpertStore, read_expert
from t2local.experts.expert import CLASSIFIER
from t2local.experts.store import check_fits
from t2local.models.fit.catalogue import EMBEDDED
from t2local.models.load.loader import load_model, model_slug
from t2local.progress import drain
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


@pytest.fixture(scope="module", params=["floats", "the file's own bits"])
def opened(request, embedded, embedded_file):
    """The model and what adapts it, in both of the ways in which it is loaded on a CPU."""
    if request.param == "floats":
        svf = attach(embedded.model)
        yield embedded, svf
        svf.detach()
    else:
        yield drain(adapting(drain(load_model(str(embedded_file))), "all", "int8"))


@pytest.fixture(scope="module")
def experts():
    files = sorted(ExpertStore(model_slug(EMBEDDED)).shipped_folder.glob("*.safetensors"))
    return {path.stem: read_expert(path) for path in files}


def test_those_that_the_readme_names_are_there(experts):
    assert set(experts) == {"math", "code", "reasoning", "classifier"}


def test_every_shipped_expert_fits_the_embedded_model_without_a_warning(experts, opened):
    loaded, svf = opened
    for expert in experts.values():
        assert check_fits(expert, svf, loaded.name, loaded.quantization) == ""


def test_every_card_says_what_was_measured_and_how_to_repeat_it(experts):
    for expert in experts.values():
        card = expert.training
        assert expert.held_out.n >= 200
        assert card["command"].startswith("python -m t2local train")
        assert {"seed", "steps", "data", "data_sha256", "train_s"} <= set(card)
        assert expert.license


def test_the_classifier_tells_the_subjects_apart(experts, opened):
    loaded, svf = opened
    reader = next(e for e in experts.values() if e.kind == CLASSIFIER)
    applier = Applier(svf, {reader.name: reader.z})
    questions = [(text, label) for label, texts in ASKED.items() for text in texts]
    questions += [(text, "other") for text in small_talk("held_out")[:14]]
    with applier.using(Mixture({reader.name: 1.0})):
        shares = [label_probabilities(loaded, [t], reader.labels)[0] for t, _ in questions]
    right = [max(s, key=s.get) == label for s, (_, label) in zip(shares, questions, strict=True)]
    assert sum(right) >= 0.9 * len(right), [
        q for q, ok in zip(questions, right, strict=True) if not ok
    ]
