"""A page that is used for hours takes no more memory than one that is used for minutes.

The page's own handlers on a real engine, in two tabs; a browser is left out.
"""

import gc
import json
import random
from dataclasses import dataclass
from types import SimpleNamespace

import gradio as gr
import psutil
import pytest

from t2local.engine.chat_content import Chat
from t2local.engine.evaluations import Growing
from t2local.engine.jobs import ENDED_KEPT
from t2local.evaluation.measure import Scored
from t2local.training.config import TrainConfig
from t2local.training.runs import Plan
from t2local.ui.chat.events import ChatEvents
from t2local.ui.chat.layout import create_chat_tab
from t2local.ui.chat.steering import WheelEvents

NO_OTHERS = "t2local.training.runner.other_tasks"


class BrowserTab:
    """A tab of the page, with what its browser would send."""

    def __init__(self, engine, name):
        with gr.Blocks():
            self.tab = create_chat_tab(engine.status)
            self.chat, self.wheel = ChatEvents(engine, self.tab), WheelEvents(engine, self.tab)
        self.request = SimpleNamespace(session_hash=name)
        sent = self.chat.inputs | self.wheel.inputs | {self.tab.following, self.tab.listed}
        self.values = {component: component.value for component in sent}
        self.values[self.tab.wheel.strategy] = "prompt"
        self.values[self.tab.wheel.sampling.components["max_new_tokens"]] = 4
        self.open()

    def open(self):
        self.take(self.chat.new(self.values, self.request))

    def take(self, update):
        """Of what comes back, the states: sliders stay where this test put them."""
        states = (self.tab.chat_id, self.tab.following, self.tab.listed)
        self.values |= {state: update[state] for state in states if state in update}

    def ask(self, text, stopped=False):
        self.values[self.tab.message] = {"text": text, "files": []}
        self.take(self.chat.send(self.values, self.request))
        for frame in self.chat.follow(self.values, self.request):
            self.take(frame)
            if stopped:
                self.chat.stop(self.values)

    def slide(self, chance):
        alpha = {name: round(chance.uniform(-1, 2), 2) for name in ("math", "code")}
        self.values[self.tab.wheel.mixer] = alpha
        self.wheel.steer(self.values)
        self.wheel.bars(self.values)


def use(tabs, chance, answers):
    """Each tenth question is in a new chat, and one more answer is stopped."""
    for number in range(answers):
        tab = tabs[number % 2]
        if number % 10 < 2:
            tab.open()
            tab.ask("a question whose answer is not waited for", stopped=True)
        tab.ask(f"How many legs have {number} spiders?")
        tab.slide(chance)


def resident():
    gc.collect()
    return psutil.Process().memory_info().rss


@pytest.mark.timeout(240)
def test_memory_after_many_answers_is_that_after_the_first(engine, tmp_path, monkeypatch):
    """The bar: 5 %. (Three hundred answers beside a run were measured so; these are fewer.)"""
    monkeypatch.setattr(NO_OTHERS, lambda *_: ())
    path = tmp_path / "rows.jsonl"
    row = {"answer": "red", "choices": ["blue", "red"]}
    path.write_text("\n".join(json.dumps({"prompt": f"{i}?", **row}) for i in range(12)))
    config = TrainConfig(steps=6, prompts_per_step=4, validate_every=3)

    def train(name):
        plan = Plan(name, str(path), "choice", config, **engine.training.loading)
        return engine.training.queue(plan)

    tabs, chance = [BrowserTab(engine, name) for name in ("one", "two")], random.Random(0)
    use(tabs, chance, 20)
    engine.jobs.wait(train("first"))
    before, run = resident(), train("second")
    use(tabs, chance, 40)
    engine.jobs.wait(run)
    assert resident() <= 1.05 * before


def chats_in_memory():
    gc.collect()
    return sum(type(each) is Chat for each in gc.get_objects())


def test_chats_that_were_answered_are_let_go(engine):
    tab = BrowserTab(engine, "one")
    for number in range(2 * ENDED_KEPT):
        tab.open()
        tab.ask(f"question {number}")
    assert len(engine.jobs.history()) <= ENDED_KEPT + 1
    assert chats_in_memory() <= 3 * (ENDED_KEPT + 1)
    assert len(engine.chats.list()) == 2 * ENDED_KEPT


@dataclass
class Counted:
    """A record that counts how often it is looked at."""

    tokens: int = 1
    second_pass_s: float = 0.25
    looks: int = 0

    @property
    def first_pass_s(self):
        self.looks += 1
        return 0.5


def test_an_evaluation_that_grows_looks_at_each_answer_once():
    growing, records = Growing(), [Counted() for _ in range(300)]
    for number, record in enumerate(records, 1):
        growing.take(Scored("task", "base", number, 300, 0, (record,)))
    (result,) = growing.results.values()
    assert (result.n, result.tokens) == (300, 300)
    assert (result.first_pass_s, result.second_pass_s) == (150.0, 75.0)
    assert {record.looks for record in records} == {1}
