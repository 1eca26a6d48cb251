"""`ask`: one prompt, both passes, the answer on stdout."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from t2local.adapt.dispatch import FEW_SHOT, MANUAL, STRATEGIES, Dispatch, Dispatched, Done, Token
from t2local.cli import add_model_arguments, log, log_progress
from t2local.cli.recipe_files import recipe_named
from t2local.engine.engine import Engine
from t2local.engine.recipes import Recipe, mixable
from t2local.engine.requests import ChatRequest, Controls
from t2local.errors import T2LocalError
from t2local.experts.library import read_mixture
from t2local.models.decode.sampling import Sampling
from t2local.svf import Mixture
from t2local.untrusted import check_encodes

LENGTH = 256  # tokens of an answer, where nobody says


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("ask", help="answer one prompt in two passes")
    parser.add_argument("prompt", nargs="?", help="may be left out where a recipe brings one")
    parser.add_argument(
        "--recipe", metavar="FILE|NAME|LINK",
        help="settings as the page or somebody else saved them; a flag beside it counts more",
    )  # fmt: skip
    parser.add_argument("--strategy", default=None, choices=tuple(STRATEGIES))
    parser.add_argument("--alpha", default="", metavar="math=0.6,code=0.4", help="implies manual")
    parser.add_argument("--mixture", type=Path, metavar="FILE", help="a file made by `adapt`")
    parser.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="a picture; may be repeated"
    )
    parser.add_argument("--hard", action="store_true", help="the likeliest expert alone, α = 1")
    parser.add_argument(
        "--write", action="store_true", help="also an expert that was trained to choose a label"
    )
    parser.add_argument(
        "--threshold", type=float, default=None, metavar="SHARE",
        help="of the way from chance to certain; where pass 1 is less sure, the base model answers",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--temperature", type=float, default=None)
    parser.add_argument("--max-new-tokens", type=int, default=None, help=f"default: {LENGTH}")
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "exact"),
        help="exact: no 8-bit copy of the weights, however long the answer",
    )
    add_model_arguments(parser)
    parser.set_defaults(run=run, misused=parser.error)


def run(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
    """Answer, and report DESIGN's `ask --json` object (or stream the text)."""
    if arguments.strategy == FEW_SHOT and not (arguments.mixture or arguments.recipe):
        raise T2LocalError("few-shot needs --mixture FILE; `adapt` finds one from a few examples.")
    recipe = recipe_named(arguments.recipe) if arguments.recipe else None
    prompt, mixture = _prompt(arguments, recipe), _mixture(arguments)
    sampling = _sampling(arguments, recipe)
    opening = (arguments.model, arguments.quantize, arguments.basis)
    engine = Engine(*opening, precision=arguments.precision).load(log_progress)
    names = mixable(engine.experts())
    if arguments.mixture is not None:
        read_mixture(arguments.mixture).check(engine.status.model_name, names)
    missing: tuple[str, ...] = ()
    if recipe is not None:
        missing, strategies = recipe.missing(names), engine.strategies()
        for remark in recipe.remarks(names, strategies, engine.status.model_name):
            log(remark)
        recipe = recipe.without(missing).with_strategy(strategies)
    controls = _controls(arguments, recipe, mixture, engine.strategies()[0])
    images = [str(Path(image).expanduser().resolve()) for image in arguments.image]
    system = recipe.system_prompt if recipe else ""
    spoken = [{"role": "system", "content": system}] if system else []
    spoken.append({"role": "user", "content": prompt, "images": images})
    request = ChatRequest(tuple(spoken), controls, sampling)
    dispatch, done = _listen(engine, request, speak=not arguments.json)
    if arguments.json:
        report(
            {
                "answer": done.texts[0],
                "dispatch": {
                    "strategy": dispatch.strategy,
                    "probabilities": dict(dispatch.probabilities),
                    "chosen": dispatch.chosen,
                    "alpha": dict(dispatch.mixture.alpha),
                    **({"choice": dict(dispatch.choice.shares)} if dispatch.choice else {}),
                },
                "timing": {
                    "first_pass_s": done.first_pass_s,
                    "second_pass_s": done.second_pass_s,
                    "tokens": done.tokens,
                    "tokens_per_s": done.tokens_per_s,
                },
                "model": engine.status.model_name,
                "seed": sampling.seed,
                **({"missing": list(missing)} if recipe else {}),
            }
        )


def _prompt(arguments: argparse.Namespace, recipe: Recipe | None) -> str:
    """What is asked; that of the recipe where there is no other. Raises `T2LocalError`."""
    if arguments.prompt is None and recipe is None:
        arguments.misused("the following arguments are required: prompt")
    if arguments.prompt is None and not recipe.prompt:
        raise T2LocalError("The recipe brings no prompt; write one behind it.")
    prompt = recipe.prompt if arguments.prompt is None else arguments.prompt
    check_encodes(prompt, "the prompt")
    if not prompt.strip():
        raise T2LocalError("The prompt is empty; write a question or a request.")
    return prompt


def _sampling(arguments: argparse.Namespace, recipe: Recipe | None) -> Sampling:
    """The recipe's, or the usual one, with what was given."""
    names = ("temperature", "max_new_tokens", "seed")
    given = {name: getattr(arguments, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    return replace(recipe.sampling if recipe else Sampling(max_new_tokens=LENGTH), **given)


def _controls(
    arguments: argparse.Namespace, recipe: Recipe | None, mixture: Mixture, best: str
) -> Controls:
    """The recipe's, or those that go with the flags; `best`: the strategy where nobody says."""
    before = recipe.controls if recipe else Controls(best)
    given: dict[str, Any] = {"write": arguments.write}
    if arguments.alpha or arguments.mixture is not None:
        given["mixture"] = mixture
    if mixture.experts:
        given["strategy"] = MANUAL
    if arguments.strategy is not None:
        given["strategy"] = arguments.strategy
    if arguments.hard:
        given["soft"] = False
    if arguments.threshold is not None:
        given["threshold"] = arguments.threshold
    return replace(before, **given)


def _listen(engine: Engine, request: ChatRequest, speak: bool) -> tuple[Dispatch, Done]:
    dispatch = done = None
    for event in engine.answer("ask", request):
        match event:
            case Dispatched():
                dispatch = event.dispatch
                _log_decision(event)
            case Token() if speak:
                print(event.text, end="", flush=True)
            case Done():
                done = event
                if speak:
                    print()
                log(f"{done.tokens_per_s:.1f} tokens/s, {done.tokens} tokens, {done.finish}")
                if done.int8_tokens:
                    log(
                        f"{done.int8_tokens} of them from weights rounded to 8 bits, for speed; "
                        "--precision exact does without"
                    )
    return dispatch, done


def _log_decision(event: Dispatched) -> None:
    decision = event.dispatch
    shares = " ".join(f"{label} {p:.2f}" for label, p in decision.probabilities.items())
    log(f"pass 1 · {decision.strategy} · {decision.seconds:.2f} s · {decision.chosen} {shares}")
    if decision.choice is not None:
        shares = " ".join(f"{label} {p:.2f}" for label, p in decision.choice.shares.items())
        log(f"'{decision.choice.expert}' chooses among its labels (--write: not so): {shares}")
    if decision.note:
        log(decision.note)


def _mixture(arguments: argparse.Namespace) -> Mixture:
    """The mixture of `--alpha` or `--mixture`. Raises `T2LocalError` for garbled ones."""
    if arguments.mixture is not None:
        return read_mixture(arguments.mixture).mixture
    alpha = {}
    for part in filter(None, arguments.alpha.split(",")):
        name, _, value = part.partition("=")
        try:
            alpha[name.strip()] = float(value)
        except ValueError as error:
            raise T2LocalError(
                f"--alpha has '{part}'; write name=number pairs such as math=0.6,code=0.4."
            ) from error
    return Mixture(alpha)
