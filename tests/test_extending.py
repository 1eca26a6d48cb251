"""A new strategy, reward, quantisation or tab, added while the app runs, is known everywhere.

What a person would write into the named table is put there for one test; nothing else is told of
it. So the files to touch are the new thing's own and its table's: two each.
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest

from t2local.adapt.dispatch import STRATEGIES, Available, Strategy, offered
from t2local.cli.main import build_parser, main
from t2local.engine.loading import sizing
from t2local.errors import T2LocalError
from t2local.models.fit.memory import Machine, device_report
from t2local.models.load.loader import load_model
from t2local.models.storage import QUANTIZATIONS, Quantization
from t2local.progress import drain
from t2local.tasks.rewards import REWARDS, Reward, Sure, check_reward, every_row_has, rewards_of
from t2local.tasks.rows import Example
from t2local.tasks.uploads import suggest_reward
from t2local.training.dry_run import ROOM, fitting
from t2local.ui import launch
from t2local.ui import page as pages
from t2local.ui.messages import explained
from t2local.ui.models.view import table_html
from tests.ui.fake_engine import FakeEngine


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


def flags(name: str) -> list[argparse.Action]:
    """The flag of that name, of every command that has it."""
    every = (action for parser in parsers(build_parser()) for action in parser._actions)
    return [action for action in every if name in action.option_strings]


def component(page: gr.Blocks, elem_id: str) -> Any:
    return next(block for block in page.blocks.values() if block.elem_id == elem_id)


def choices(page: gr.Blocks, elem_id: str) -> list[tuple[str, str]]:
    return component(page, elem_id).choices


@pytest.fixture
def strategy(monkeypatch) -> Strategy:
    added = Strategy("coin", "a coin that is tossed", ("skills",), probabilities=lambda *_: [])
    monkeypatch.setitem(STRATEGIES, added.name, added)
    return added


def test_a_strategy(strategy):
    assert offered(Available(skills=("math",))) == ["prompt", "base", "coin"]
    assert ("coin", "coin") in choices(pages.build_app(FakeEngine()), "strategy")
    assert "a coin that is tossed (coin)" in explained("strategy")
    asking = next(action for action in flags("--strategy") if action.choices)
    assert "coin" in asking.choices


def loud(prompts, completions, **columns):
    """+1 where the answer is in capitals, else −1."""
    return [1.0 if said.isupper() else -1.0 for said in completions]


@pytest.fixture
def reward(monkeypatch) -> Reward:
    suggested = ((Sure.COLUMN, every_row_has("volume", "Every row says how loud.")),)
    words = "it is said in capitals"
    added = Reward("loud", loud, words, ("volume",), suggested, lambda answer: len(answer))
    monkeypatch.setitem(REWARDS, added.name, added)
    return added


def test_a_reward(reward):
    rows = [Example("Say hi.", "HI THERE", {"volume": 11}), Example("Say no.", "NO", {"volume": 9})]
    assert rewards_of("loud", rows, ["HI", "no"]) == [1.0, -1.0]
    assert rewards_of("loud+exact", rows, ["HI", "NO"]) == [0.0, 1.0]
    assert suggest_reward(rows) == ("loud", "Every row says how loud.")
    assert fitting("loud", rows)["max_new_tokens"] == len("HI THERE") + ROOM
    check_reward("loud", rows)
    with pytest.raises(T2LocalError, match="'loud' needs a column 'volume', which 1 of 1 rows"):
        check_reward("loud+exact", [Example("Say hi.", "HI")])

    page, listed = pages.build_app(FakeEngine()), ("loud · it is said in capitals", "loud")
    assert listed in choices(page, "train-reward")
    assert listed in choices(page, "adapt-reward")
    assert ("loud", "loud") in choices(page, "train-second")
    helps = [action.help for action in flags("--reward")]
    assert len(helps) >= 4
    assert all("loud" in text for text in helps)


@pytest.fixture
def quantization(monkeypatch) -> Quantization:
    """Estimated at 6 bits a number; it loads float weights under its name."""
    added = Quantization("six", "6 bits", "6-bit weights", 6, lambda m, n: 6 * m * n // 8)
    monkeypatch.setitem(QUANTIZATIONS, added.name, added)
    return added


def test_a_quantisation_in_the_command_line_and_the_page(quantization):
    given = [*flags("--quantize"), *launch.parser()._actions]
    given = [action for action in given if "--quantize" in action.option_strings]
    assert len(given) >= 5
    assert all("six" in action.choices for action in given)
    assert ("6 bits", "six") in choices(pages.build_app(FakeEngine()), "models-quantize")
    assert device_report().quantizations["six"] == ""


def test_a_quantisation_in_estimates(quantization, tiny_folder, capsys):
    folder = str(tiny_folder("llama"))
    found = sizing(folder, Machine("cpu", "a computer", 10**10))
    sizes = {row.plan.quantization: row.weights_bytes for row in found.table}
    assert sizes["six"] < sizes["int8"] < sizes["none"]
    assert "<th>6-bit weights</th>" in table_html(found)
    assert main(["models", "estimate", folder, "--quantize", "six", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["best"]["plan"]["quantization"] == "six"
    assert {row["weights_bytes"] for row in told["rows"]} == {sizes["six"]}


def test_a_quantisation_that_loads(quantization, tiny_folder, capsys):
    folder = str(tiny_folder("llama"))
    loaded = drain(load_model(folder, "six"))
    assert loaded.quantization == "six"
    assert loaded.resident_bytes == drain(load_model(folder, "none")).resident_bytes
    asked = ["ask", "Hi", "--strategy", "base", "--max-new-tokens", "2", "--json"]
    assert main([*asked, "--model", folder, "--quantize", "six"]) == 0
    assert json.loads(capsys.readouterr().out)["timing"]["tokens"] == 2


def test_a_tab(monkeypatch):
    made = []

    def create(engine: Any) -> gr.Textbox:
        made.append(engine)
        return gr.Textbox(elem_id="note")

    def bind(room: pages.Room) -> None:
        message = room.laid_out["Chat"].message
        room.laid_out["Notes"].submit(lambda text: {"text": text}, room.laid_out["Notes"], message)

    engine = FakeEngine()
    before = len(pages.build_app(engine).fns)
    monkeypatch.setattr(pages, "TABS", [*pages.TABS, pages.Tab("Notes", create, bind, "notes")])
    page = pages.build_app(engine)
    titles = [block.label for block in page.blocks.values() if isinstance(block, gr.Tab)]
    assert titles[-1] == "Notes"
    assert made == [engine]
    tab = next(block for block in page.blocks.values() if getattr(block, "id", None) == "notes")
    assert component(page, "note") in [inner for part in tab.children for inner in part.children]
    assert len(page.fns) == before + 1
