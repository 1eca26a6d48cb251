"""Words for a person: a user's mistakes as messages, the paper's terms, prompts to begin with."""

import functools
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from markupsafe import escape

from t2local.adapt.dispatch import STRATEGIES
from t2local.errors import T2LocalError
from t2local.plots import theme
from t2local.untrusted import encodes, typed


def _who_decides() -> str:
    *first, last = (f"{s.explanation} ({s.name})" for s in STRATEGIES.values())
    return f"Who decides on the mixture: {', '.join(first)}, or {last}."


# What `terms.html` says of a term of the paper; a list that may grow is read when it is asked for.
TERMS: dict[str, str | Callable[[], str]] = {
    "expert": "A small set of numbers, trained by reinforcement learning for one skill. It does "
    "not replace the model: it turns some of the model's own directions up and others down.",
    "SVF": "Singular Value Fine-tuning. Every weight matrix is a sum of independent directions; an "
    "expert only learns how strongly each one counts. Nothing else in the model changes.",
    "z": "The expert's numbers: one factor for each direction of a matrix. 1 leaves a direction as "
    "it is, 1.1 makes it a tenth stronger, 0.9 a tenth weaker. z = 1 everywhere is the base model.",
    "α": "How much of an expert is mixed in. 0 is none, 1 all of it, 2 twice as much; below 0 "
    "pushes the model away from what that expert learned.",
    "σ": "Singular values: how strong each direction of a weight matrix is, the largest first.",
    "similarity": "The way of deciding who answers that knows every expert at once: your message, "
    "as the plain model reads it, is compared with prompts that each expert was trained on.",
    "pass 1": "The model reads your prompt once and decides what kind of task it is. Nothing is "
    "written yet; it takes a fraction of a second.",
    "pass 2": "The model, now adapted with the chosen mixture of experts, writes the answer.",
    "dispatch": "The decision of pass 1: how likely each kind of task is, and which experts are "
    "mixed in as a result.",
    "mixture": "The experts that answer together, each with its weight α. What is left over to 1 "
    "goes to the unchanged base model.",
    "strategy": _who_decides,
    "soft": "Soft: every expert counts by its probability. Hard: the likeliest one answers alone.",
    "threshold": "How far from chance (0) to certain (1) pass 1 has to be, or the base model "
    "answers: 0.1 among four kinds is a probability of 0.33, among twenty of 0.15.",
    "strength": "Scales the whole mixture at once: 0 is the base model, 1 as trained, 2 doubled.",
    "gains": "Finer hands: scale the change in one part of the model only, by kind of layer, by "
    "depth, or by large and small directions.",
    "next token": "The pieces of words the model would most likely say next, without and with the "
    "experts. Move a slider and watch them change.",
    "base": "The model as it was downloaded, every z = 1.",
    "heat map": "How far z is from 1 in each matrix. Bright: this part of the model was changed "
    "most. The scale ends at the largest value.",
    "held out": "Questions the expert never saw in training. Right answers before and after, and "
    "the range in which the true difference lies with 95 % confidence.",
    "forgetting": "The same kind of measurement on what the expert was not trained for: whether it "
    "lost, or gained, something there.",
    "reward": "What an answer earns: +1 is right, −1 wrong, between them partly right. Training "
    "makes what earns more likelier.",
    "policy gradient": "Learning by reward (the paper's way): the model tries several answers, and "
    "those that earn more than the others become likelier. It never copies your answers.",
    "imitation": "Next-token training, the usual way: your answers, word by word, become likelier. "
    "It needs answers worth copying; the paper compares it with learning by reward.",
    "LoRA": "The usual small adapter: two thin matrices beside each weight matrix. It has more "
    "numbers than z and cannot be mixed in the chat; it is here to compare.",
    "KL": "How far the model's choice of words has moved from the base model's, in nats: 0 is not "
    "at all; above 1 it may forget other things.",
    "entropy": "How open the next choice is, in nats: near 0 it nearly always says the same, and "
    "then there is nothing left to try out.",
    "equal groups": "The share of prompts whose answers all earned the same: nothing can be learnt "
    "from those.",
    "checked": "Rows that are not learnt from but answered every few steps: the step that does "
    "best on them is the one that is kept.",
    "Bradley–Terry": "A model of who wins against whom: each contender has one strength, and the "
    "difference of two says how often the one is preferred. So votes on other pairs count too. An "
    "interval is right for a number of votes that was fixed before; whether a pair is clear is "
    "told by a stricter rule, which may be looked at after every vote and counts how many pairs "
    "there are.",
    "oracle": "For each question the base model or the single expert that was right, if any was: "
    "what a dispatcher that never errs would reach.",
    "95 % interval": "The range in which the true share lies with 95 % confidence. Two strategies "
    "whose ranges overlap much may be equally good.",
    "rms": "Root mean square: the typical size of z − 1 over all directions. 0 is the base model; "
    "experts have a few hundredths.",
    "quantisation": "Weights rounded to 4 or 8 bits take a quarter or half of the memory. Experts "
    "still work exactly: their change is added beside the rounded weights, never rounded itself.",
    "bases": "The directions of each weight matrix, kept beside it so that sliders act at once. "
    "int8 takes a quarter of fp32; the base model stays exact with any of them. int4 takes half of "
    "int8 and rounds a sixth of an expert's change away: only where nothing else fits.",
    "copies": "A small model keeps the matrices of mixtures that are used again and again, and on "
    "a processor a copy of its weights in 8 bits, so that answers come faster. They are made while "
    "you chat and given back with the model.",
    "8-bit weights": "This answer was written from a copy of the weights rounded to 8 bits: "
    "several times as fast, and about two per cent off in what the model finds likely. Switch on "
    "exact answers beside the temperature, or start with \u2011\u2011precision exact, to do "
    "without.",
    "KV cache": "What the model remembers of the chat: it grows with every token.",
    "context length": "How many tokens (pieces of words) of a chat the model can look back on.",
    "gated": "Its maker asks you to accept a licence on the Hugging Face page first.",
    "cosine": "Whether two experts turn the same directions of the model the same way. 1: exactly "
    "the same, 0: nothing in common, −1: the opposite.",
}


def explained(word: str) -> str:
    """What a term means; a list that may grow is read now, not when the app started."""
    told = TERMS[word]
    return told if isinstance(told, str) else told()


# --- One decorator that turns a user's mistake into one message on the page.
#
# A `try` around a generator function catches nothing, so generators get their own branch.
# Anything but a `T2LocalError` is a programmer's mistake and passes through.


OTHER_THAN_A_PAGE = (
    "What was sent is not what this page sends; reload the page and try it again, or send what "
    "`gradio_client` shows with `view_api`."
)


def moment(seconds: float) -> str:
    """Seconds since 1970 as `2026-01-31 09:15`, in this machine's time."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def shown(callback: Callable[..., Any]) -> Callable[..., Any]:
    """A callback whose `T2LocalError` appears as a message on the page."""
    if inspect.isgeneratorfunction(callback):

        @functools.wraps(callback)
        def stream(*args: Any, **kwargs: Any) -> Any:
            try:
                yield from callback(*args, **kwargs)
            except T2LocalError as error:
                raise as_message(error) from error

        return stream

    @functools.wraps(callback)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return callback(*args, **kwargs)
        except T2LocalError as error:
            raise as_message(error) from error

    return call


def sent(event: gr.EventData, name: str, kind: Any = str) -> Any:
    """What an event says under `name`, of the type `kind`.

    Anybody may send any JSON to any event. Raises `T2LocalError` where it is something else.
    """
    try:
        value = typed(kind, getattr(event, name), name)
        if isinstance(value, str) and not encodes(value):
            raise ValueError("half of a character")
    except (AttributeError, TypeError, ValueError) as error:
        raise T2LocalError(OTHER_THAN_A_PAGE) from error
    return value


def as_message(error: T2LocalError) -> gr.Error:
    return gr.Error(as_text(error), duration=12, print_exception=False)


def as_text(sentence: object) -> str:
    """For gradio's messages: a file name or a prompt in the sentence is never read as markup."""
    return str(escape(str(sentence)))


# --- Six prompts for an empty chat: one for each expert, two mixed ones, one for none of them.


@dataclass(frozen=True)
class Example:
    prompt: str
    shows: str
    colour: str


EXAMPLES = (
    Example(
        "A spider has 8 legs. How many legs do 7 spiders have together?",
        "math",
        theme.colour("math"),
    ),
    Example(
        "Write a Python function that returns the even numbers of a list.",
        "code",
        theme.colour("code"),
    ),
    Example(
        "Which object runs electricity best: a wooden spoon, a copper wire or a glass cup?",
        "reasoning",
        theme.colour("reasoning"),
    ),
    Example(
        "Write a Python program that adds up 3.50, 4.25 and 1.75, and tell me the total.",
        "math and code together",
        theme.colour("code"),
    ),
    Example(
        "A plant grows 2 cm a day in the sun and 1 cm in the shade. Why, and how tall is it after "
        "3 days of each?",
        "reasoning and math together",
        theme.colour("reasoning"),
    ),
    Example("Hi! How are you doing today?", "small talk: no expert", theme.colour("other")),
)
