"""A real engine on a two-layer random model, with a classifier and two skills of random z."""

import pytest
import torch

from t2local.adapt.dispatch import LABELS
from t2local.engine.engine import Engine
from t2local.experts import Expert, ExpertStore
from t2local.experts.expert import CLASSIFIER, SKILL
from t2local.models.load.loader import load_model
from t2local.progress import drain
from t2local.svf import attach


@pytest.fixture
def model_folder(tiny_folder):
    return tiny_folder("llama")


@pytest.fixture
def engine(model_folder):
    loaded = drain(load_model(str(model_folder)))
    svf = attach(loaded.model)
    store = ExpertStore(loaded.slug)
    for seed, name in enumerate(("math", "code", "reader")):
        kind = CLASSIFIER if name == "reader" else SKILL
        labels = LABELS if name == "reader" else ()
        generator = torch.Generator().manual_seed(seed)
        z = {n: 1 + 0.3 * torch.randn(r, generator=generator) for n, r in svf.ranks.items()}
        store.save(Expert(name, loaded.name, svf.fingerprint(z), z, kind=kind, labels=labels))
    return Engine(str(model_folder)).load()
