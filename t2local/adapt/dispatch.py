"""Pass 1: which experts fit this prompt?

*Prompt* asks the unadapted model to classify the message (paper, section 3.2, strategy A);
*classifier* asks the same question of the model adapted by an expert that was trained to classify
(strategy B). Both score every label in one forward. Departures: the repository lets the model write
the label and parses it; here the labels' likelihoods give a probability each, at the temperature
under which a classifier expert is trained, for soft mixing and the threshold need one. *Other* and
anything below the threshold are answered by the base model.
"""

from collections.abc import Mapping, Sequence

import torch

from t2local.adapt.events import BASE, FEW_SHOT, MANUAL, OTHER, Dispatch
from t2local.models.chat_format import render_chat
from t2local.models.load import LoadedModel
from t2local.models.scoring import choice_scores
from t2local.svf import Mixture

LABELS = ("math", "code", "reasoning", OTHER)
LABEL_TEMPERATURE = 4.0  # scores of single tokens lie far apart; at 1 every answer is 0 or 1
HEAD_CHARACTERS, TAIL_CHARACTERS = 360, 120  # what pass 1 reads of a long message


def classification_prompt(message: str, labels: Sequence[str] = LABELS) -> str:
    """The question of pass 1 about a user's message: its beginning and end, if it is long."""
    text = message.strip()
    if len(text) > HEAD_CHARACTERS + TAIL_CHARACTERS:
        text = f"{text[:HEAD_CHARACTERS]} … {text[-TAIL_CHARACTERS:]}"
    names = ", ".join(labels[:-1]) + f" or {labels[-1]}"
    return f"Classify the following message as {names}.\n\nMessage: {text}\n\nClass:"


@torch.no_grad()
def label_probabilities(
    loaded: LoadedModel, message: str, labels: Sequence[str] = LABELS
) -> dict[str, float]:
    """Label -> p, summing to 1, under the `z` in force. One forward for all labels."""
    turn = {"role": "user", "content": classification_prompt(message, labels)}
    prompt = render_chat(loaded.tokenizer, [turn])
    choices = [loaded.tokenizer.encode(label, add_special_tokens=False) for label in labels]
    (scores,) = choice_scores(loaded.model, [prompt], [choices])
    shares = (scores / LABEL_TEMPERATURE).softmax(dim=0).tolist()
    return dict(zip(labels, shares, strict=True))


def decide(
    strategy: str,
    probabilities: Mapping[str, float],
    experts: Sequence[str],
    soft: bool,
    threshold: float,
    mixture: Mixture,
) -> Dispatch:
    """The mixture that follows from label probabilities. A pure function.

    `soft`: each expert's α is its label's probability, and what *other* holds stays with the base
    model; else the likeliest label's expert gets α = 1. `mixture` gives strength and gains.
    """
    chosen = max(probabilities, key=probabilities.__getitem__)
    note, alpha = "", {}
    if chosen == OTHER:
        note = "No expert's subject: the base model answers."
    elif chosen not in experts:
        note = f"There is no expert for {chosen} here: the base model answers."
    elif probabilities[chosen] < threshold:
        note = f"Below the threshold of {threshold:.2f}: the base model answers."
    elif soft:
        alpha = {name: probabilities[name] for name in experts if name in probabilities}
    else:
        alpha = {chosen: 1.0}
    return Dispatch(strategy, dict(probabilities), chosen, mixture.with_alpha(alpha), note=note)


def without_question(strategy: str, mixture: Mixture, override: str | None = None) -> Dispatch:
    """Dispatch without pass 1: the base model, the sliders, a mixture, or one expert."""
    if override == BASE or (override is None and strategy == BASE):
        return Dispatch(strategy, {}, BASE, mixture.with_alpha({}))
    if override is not None:
        note = "Chosen by hand." if strategy != MANUAL else ""
        return Dispatch(strategy, {}, override, mixture.with_alpha({override: 1.0}), note=note)
    if strategy.partition(":")[0] == FEW_SHOT:
        return Dispatch(strategy, {}, FEW_SHOT, mixture)
    return Dispatch(strategy, {}, MANUAL, mixture)
