"""A second model of the same shapes: the loaded one, fine-tuned on something else.

For want of a second real model beside the embedded one: LoRA by next-token prediction on the
arithmetic set, merged into the weights, so that every σ and basis is the copy's own.
"""

import copy
from dataclasses import replace

from t2local.experiments.laboratory import Laboratory
from t2local.proof.book import Book
from t2local.proof.measured_sets import ARITHMETIC
from t2local.tasks.datasets import curriculum
from t2local.training.config import LORA, NEXT_TOKEN, TrainConfig

RATE = 2e-3


def fine_tuned(lab: Laboratory, steps: int) -> Laboratory:
    """A laboratory around the fine-tuned copy."""
    from t2local.training.lora import ADAPTER  # PEFT alone takes 60 MB of memory

    source = curriculum("svamp-equations")
    config = TrainConfig(
        method=LORA, objective=NEXT_TOKEN, learning_rate=RATE, steps=steps, validate_every=steps
    )
    with lab.attached():
        learnt = lab.learn(f"a copy on {ARITHMETIC}", source, config, last=True)
        learnt.holding()  # points PEFT's layers at what was learnt
        layers = learnt.method.layers.items()
        changes = {n: layer.get_delta_weight(ADAPTER).detach().clone() for n, layer in layers}
    model = copy.deepcopy(lab.loaded.model)
    for name, change in changes.items():
        weight = model.get_submodule(name).weight
        weight.data = (weight.float() + change.float()).to(weight.dtype)
    loaded = replace(lab.loaded, model=model)
    book = Book(lab.book.folder, (*lab.book.about, "fine-tuned copy", steps))
    return Laboratory(loaded, book, lab.report)
