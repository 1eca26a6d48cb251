"""The experts that ship, on the real embedded model."""

import pytest

from t2local.adapt.applier import Applier, adapting
from t2local.adapt.dispatch import OTHER, label_probabilities
from t2local.adapt.similarity import Discriminant
from t2local.bench.dispatching import PRINTED, kinds
from t2local.experts import ExpertStore, read_expert
from t2local.experts.expert import CLASSIFIER, SKILL
from t2local.experts.store import check_fits
from t2local.models.decode.embedding import embed
from t2local.models.fit.catalogue import EMBEDDED
from t2local.models.load.loader import load_model, model_slug
from t2local.progress import drain
from t2local.svf import Mixture, attach
from t2local.tasks.datasets import everyday_messages, small_talk

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


def chats(texts):
    return [[{"role": "user", "content": text}] for text in texts]


@pytest.fixture(scope="module")
def told(experts, opened):
    """The shipped prints, and that of everyday messages."""
    loaded, _ = opened
    prints = {e.name: e.prompt_print for e in experts.values() if e.kind == SKILL}
    assert all(taken.fits(loaded) for taken in prints.values())
    others = ExpertStore(model_slug(EMBEDDED)).print_of_others(loaded)
    rows = {name: taken.embeddings for name, taken in prints.items()}
    return Discriminant({**rows, OTHER: others.embeddings})


def given(told, loaded, texts):
    found = told.probabilities(embed(loaded, chats(texts)))
    return [max(each, key=each.get) for each in found]


def test_similarity_tells_the_subjects_apart(told, opened):
    questions = [(text, label) for label, texts in ASKED.items() for text in texts]
    questions += [(text, OTHER) for text in everyday_messages("held_out")[:24]]
    labels = given(told, opened[0], [text for text, _ in questions])
    wrong = [q for q, label in zip(questions, labels, strict=True) if label != q[1]]
    assert len(wrong) <= 0.1 * len(questions), wrong


def test_a_history_and_a_system_prompt_change_no_clear_decision(told, opened):
    before = [
        {"role": "system", "content": "You are a friendly pirate."},
        {"role": "user", "content": "Which pizza is the best one?"},
        {"role": "assistant", "content": "The one with olives, of course."},
    ]
    questions = [(text, label) for label, texts in ASKED.items() for text in texts]
    asked = [[*before, *chats([text])[0]] for text, _ in questions]
    found = told.probabilities(embed(opened[0], asked))
    right = [max(p, key=p.get) == label for p, (_, label) in zip(found, questions, strict=True)]
    assert sum(right) >= len(right) - 1


def test_a_new_expert_of_thirty_prompts_is_found_and_takes_no_others(told, opened):
    loaded, _ = opened
    prompts = kinds()["sql"]
    joined = told.joined_by("sql", embed(loaded, chats(prompts[:PRINTED])))
    own = given(joined, loaded, prompts[PRINTED : PRINTED + 20])
    assert own.count("sql") >= 0.9 * len(own)
    others = [text for texts in ASKED.values() for text in texts] + everyday_messages("held_out")
    assert given(joined, loaded, others[:40]).count("sql") <= 0.03 * 40
