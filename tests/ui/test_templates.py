"""Every template of the page, with values in which every string is hostile."""

import timeit
from dataclasses import replace
from pathlib import Path

import pytest

from t2local.adapt.few_shot import Generation
from t2local.engine.arena import Battle
from t2local.engine.attachments import Attachment
from t2local.engine.chat_content import Chat, Message
from t2local.engine.chat_index import ChatSummary
from t2local.engine.doors import Doors
from t2local.engine.job_record import JobStatus
from t2local.engine.labelling import LabelPlan, LabelReport, LabelSummary
from t2local.engine.lessons import Habit, lessons_of
from t2local.engine.loading import sizing
from t2local.engine.model_slot import Download
from t2local.engine.prompts import SavedPrompt
from t2local.engine.requests import EngineStatus, NextTokens
from t2local.engine.standings import PairStanding, Place, Standings
from t2local.engine.training import RunReport
from t2local.engine.verdicts import Verdict
from t2local.evaluation.bradley_terry import Score, Tally
from t2local.evaluation.measure import Scored
from t2local.evaluation.tally import Confusion, Record, Result
from t2local.experts import Deleted, HeldOut
from t2local.models.fit.automatic import offers
from t2local.models.fit.memory import named_card
from t2local.models.load.hub import LocalModel
from t2local.progress import FAILED, FINISHED, RUNNING
from t2local.tasks.files import DETECTED, BadRow, ExampleFile, Look, Table
from t2local.tasks.rows import Example, Row
from t2local.tasks.unlabelled import AskedRow, Unlabelled
from t2local.tasks.uploads import keep_text, read_draft
from t2local.training.config import TrainConfig
from t2local.training.dry_run import DryRunReport
from t2local.training.dry_run import Sample as Tried
from t2local.training.reports import Check, Curves
from t2local.training.runs import Plan
from t2local.ui import own_rows
from t2local.ui.adapt.events import status_html
from t2local.ui.arena import view as arena
from t2local.ui.chat import cards, chat_list, prompt_library, recipe_panel
from t2local.ui.chat import view as chat
from t2local.ui.evaluate import view as evaluate
from t2local.ui.experts import view as experts
from t2local.ui.jobs_tab import jobs_html
from t2local.ui.label import view as label
from t2local.ui.markdown import marked, render
from t2local.ui.models import view as models
from t2local.ui.page import build_app
from t2local.ui.style import PAGE, header_html, login_html, note_html
from t2local.ui.train import taught
from t2local.ui.train import view as train
from tests.markup import Recorder
from tests.ui.fake_engine import FakeEngine

WITHIN_OTHERS = {"shared.html", "terms.html"}  # parts of parts, in files of their own
TAKES_STYLES = ("page.html", "head")  # our own style sheets, nothing else
CHOSEN_BY = {"del", "ins", "z", "rms", "fits", "tight", "does not fit"}  # a template looks these up
HELD_OUT = {"n": 9, "base": 0.4, "trained": 0.6, "ci95_difference": [0.1, 0.3], "task": "math"}
LLAMA = "meta-llama/Meta-Llama-3-8B-Instruct"


def draw_chat() -> None:
    dispatch = {
        "strategy": "classifier", "probabilities": {"math": 0.86, "other": 0.14}, "chosen": "math",
        "alpha": {"math": 0.86, "code": -0.3}, "strength": 1.0, "seconds": 0.3, "note": "a note",
        "override": "code", "near": [["math", 0], ["math", 1], ["other", 3]],
        "choice": {"expert": "math", "shares": {"blue": 0.9, "red": 0.1}},
    }  # fmt: skip
    timing = {"second_pass_s": 6.1, "tokens": 5, "packed_tokens": 3, "finish": "length"}
    steered = ((3, {"alpha": {"math": 0.5}}),)
    answer = Message("assistant", "It is 56.", dispatch, timing, steered=steered)
    files = (Attachment("a.txt", "text", "9 lines", 5, 9), Attachment("b.txt", "t", "1 line", 1, 1))
    asked = Message("user", "long " * 2000, images=(__file__, "gone.png"), files=files)
    both = replace(answer, base_content="6")
    again = Chat("ab" * 16, "t", (asked, answer)).unanswered()
    redone = replace(again, messages=(*again.messages, both))
    for messages in ((), (asked,), (asked, answer), (asked, both), again, redone):
        shown = messages if isinstance(messages, Chat) else Chat("ab" * 16, "t", messages)
        for at_work in (False, True):
            chat.transcript_html(
                shown, ("math", "code"), at_work, sees=False,
                prompts_of=lambda name: ("one prompt", "another"),
                verdicts={1: Verdict("id", "chat", (), "6", thumb="up", over="It is 56.")},
                first=at_work and len(shown.messages) > 1,
            )  # fmt: skip
        chat.live_html(shown, "reading")
    cards.dispatch_card({}, None)
    cards.dispatch_card({**dispatch, "strength": 0.5}, timing, answer_with=("math", "code"))
    cards.thinking_card("reading")
    chat.next_tokens_html(NextTokens(((" x", 0.5),), (("y", 0.9),), 0.1))
    prompt_library.fields_html(None)
    prompt_library.fields_html(SavedPrompt("a name", "on {{one}} and {{another}}"))
    recipe_panel.told_html([f"sentence {i}" for i in range(5)])
    chats = [ChatSummary(f"{i}", f"chat {i}", 1.0, i < 2, ("a tag",)) for i in range(300)]
    searched = chat_list.Listing(query="#a tag")
    chat_list.chat_list_html(chats, "7", listing=searched)
    chat_list.chat_list_html(chats, "7", judged={"1": 1, "2": 2}, deleted=("9", "a title"))
    chat_list.chat_list_html([], None, listing=chat_list.Listing(query="words"))
    for error, ready in (("broken", False), (None, False), (None, True)):
        about = {"why": "so", "context_length": 99, "beside": "Another one."}
        status = EngineStatus("stage", 0.3, ready, error, "model", **about)
        header_html(status)
        chat.line_html(status, 14.2, 90)
    for password in (None, "a password"):
        header_html(status, Doors(listens=True, password=password, root_path="/t2"), "a name")
    login_html("/login", "said")
    login_html("/login", "said", named=True)
    note_html("a note")
    render("```python\nx = 1\n```\nword")


def draw_train() -> None:
    table = "prompt,answer\n" + "".join(f"What is {i}?,answer {i % 40}\n" for i in range(60))
    for text in (
        "prompt,answer\none,1\ntwo,2\nthree,3\nfour,4\nfive,5\n",
        table + "one,\ntwo,\none,\n",
    ):
        draft = read_draft(str(keep_text(text)))
        train.parts_html(draft, 0.3)
        train.reward_html(draft, draft.suggestion.reward)
        train.reward_html(draft, "none")
    for leave_one_out in (True, False):
        samples = tuple(Tried("prompt", "wanted", "said", reward) for reward in (1.0, None))
        tried = DryRunReport(
            samples=samples, problem="a problem", step_s=1.2, answer_s=0.5, train=9, validation=5,
            held_out=7, leave_one_out=leave_one_out, memory_bytes=2**31, free_bytes=2**30,
            print_s=4.0,
        )  # fmt: skip
        train.tried_html(tried)
        train.estimate_html(tried, TrainConfig())
        train.estimate_html(tried, TrainConfig(), forgetting=False)
    numbers = {name: [0.1] for name in ("reward", "spread", "kl", "entropy", "equal_groups")}
    curves = Curves(
        [1], **numbers, change=[0.1], tokens_per_s=[5.5], checks=[Check(1, 0.5, 9, True)],
        answers=[(0, [("How many?", "4 legs", "56 legs")]), (5, [("How many?", "4", "56")])],
        notices=[(1, "a notice")],
    )  # fmt: skip
    train.answers_html(curves)
    marked("one", "two")
    plan = Plan("sums", "sums.csv", "choice", TrainConfig(method="lora"))
    result = {"held_out": HELD_OUT, "forgetting": [HELD_OUT], "numbers": 9, "train_s": 90.0,
              "found": {"own": 9, "of_own": 10, "taken": 1, "of_others": 40},
              "prefers": True, "since_start": HELD_OUT}  # fmt: skip
    reports = [
        RunReport(
            JobStatus("run", "training", "sums", stage, 7, 20, "said"),
            plan,
            curves,
            ("warned",),
            result,
            offered=stage == FINISHED,
        )
        for stage in (RUNNING, FAILED, FINISHED)
    ]
    for report in reports:
        train.live_html(report)
    train.runs_html(reports)
    train.begin_html("sums", "Its rows are learnt again.")
    turns = ({"role": "user", "content": "How many?"},)
    wrote = [Verdict(f"{n}", "chat", turns, f"{n}", wanted="56") for n in range(120)]
    up = Verdict("up", "chat", turns, "fine", thumb="up")
    for verdicts in ([], [up], wrote):
        taught.taught_html(verdicts, lessons_of(verdicts), ["broken.json"])
    habit = Habit("length", "a reason", ())
    taught.taught_html(wrote, replace(lessons_of(wrote), habit=habit))


def draw_rows() -> None:
    columns = {
        "messages": [{"role": "system", "content": "short"}], "choices": ["blue", "red"],
        "answers": ["red", "crimson"], "images": ["a", "b"],
    }  # fmt: skip
    examples = [Example("colour?", "red", columns), *[Example("long " * 2000, "")] * 30]
    bad = [BadRow(number, "a reason") for number in range(30)]
    file = ExampleFile(
        tuple(examples), tuple(bad), ("one", "two"), {"prompt": "one", "answer": "two"}, ((5, 3),),
        "0", "a note", "cp1251", ("context",), ("`label`: 3 kinds", "something else"),
    )  # fmt: skip
    table = Table(
        tuple(f"column {i}" for i in range(20)), (Row(2, {"column 1": "cell"}),) * 9, note="noted"
    )
    path = Path("a file.csv")
    for look in (
        Look(path, DETECTED, file, bad_rows=file.bad_rows),
        Look(path, DETECTED, None, table, file.bad_rows, "a problem", "label_names"),
        Look(path, DETECTED, problem="no table"),
    ):
        own_rows.problem_html(look)
        own_rows.rows_html(look, ["as read"])
    own_rows.trial_html("exact", [Example(f"{i}?", "same") for i in range(6)])
    own_rows.trial_html("numeric", [Example(f"{i}?", f"word {i}") for i in range(6)])
    own_rows.trial_html("choice", [Example(f"{i}?", f"word {i}") for i in range(60)])


def draw_experts() -> None:
    engine = FakeEngine()
    first, *others = engine.experts()
    experts.experts_html([])
    one = replace(first, warning="warned", shipped=False, forgetting=(HELD_OUT,), prompts=9)
    one = replace(one, overlap="shares its ground")
    experts.experts_html([one, replace(first, held_out=None), *others], ["math"])
    deleted = [Deleted(name, Path(name), 1.0) for name in ("one", "two")]
    experts.trash_html(deleted, "one")
    experts.trash_html(deleted)
    names = ["math", "code"]
    compared = engine.library.compare(names)
    measured = HeldOut.from_dict(HELD_OUT)
    told = replace(compared.experts[0], forgetting=(measured, measured), held_out=measured)
    experts.picked_html(names, None)
    experts.picked_html(names, replace(compared, experts=(told, compared.experts[1])))


def draw_models() -> None:
    status = EngineStatus(
        "ready", 1.0, True, None, "model", "bfloat16", "nf4", 9, "cuda", 8192, basis="int8",
        why="chosen", note="a note", remarks=("remarked",), copies_bytes=2,
    )  # fmt: skip
    for one in (status, replace(status, error="broken"), replace(status, ready=False)):
        models.loaded_html(one, has_experts=False)
    models.machine_html("a laptop", "cpu", 8, 4, 3)
    models.progress_html("downloading", 0.5, " of 3 GB")
    local = LocalModel("folder", "model", "folder", 10**9, Path("folder"))
    models.catalogue_html(offers(named_card(12)), (local,), (LLAMA,), LLAMA, "folder")
    offer = offers(named_card(12))[1]
    for stage in (RUNNING, "done", "stopped", FAILED):
        models.offer_html(offer, Download(offer.entry.id, stage, 3, 9, 1e6, "a message"))
    models.offer_html(replace(offer, local=LocalModel("a", "b", "gguf", 9, Path("b"))), None)
    found = sizing(LLAMA, named_card(12))
    models.sizing_html(found, None)
    models.sizing_html(replace(found, source="folder"), local)
    models.table_html(found)
    models.linked("see https://a.test/b, then `run it`")
    models.advice_html("see https://a.test/b, then `run it`", urgent=True)


def draw_evaluate() -> None:
    evaluate.status_html(Scored("task", "base", 7, 20, 3, ()), 4, 2)
    evaluate.done_html(7)
    results = [
        Result("task", "base", 50, 20, None, 0.5, 0.5, 1234, None),
        Result("task", "math", 50, 30, (0.1, 0.02, 0.2), trained=97920, failed_prompts=3),
        Result("task", "code", 0, 0, failed="failed"),
        Result("task", "prompt", 0, 0),
    ]
    evaluate.table_html(results)
    evaluate.confusion_html([Confusion("prompt", ("math",), ("math", "other"), ((3, 1),))])
    record = Record(0, "prompt", "answer", "wanted", True, {"math": 0.5}, "math", {"math": 0.5})
    evaluate.samples_html([record, replace(record, right=False)] * 30, evaluate.ALL)


def draw_adapt() -> None:
    status_html(Generation(3, 8, ("math",), (), (), (), (), (0.5,), 0.6, 0.0))


def draw_arena() -> None:
    arena.pair_html(None)
    written = Battle("id", "prompt", progress="half way")
    arena.pair_html(written)
    both = replace(written, texts=("**one**", ""))
    arena.pair_html(both)
    mixtures = {"alpha": {"math": 1.0}}, {"alpha": {}}
    for said in ("a", "tie"):
        arena.pair_html(replace(both, said=said, names=("math", "x"), mixtures=mixtures, kind="y"))
    scored = Score(0.6, 0.4, 0.8)
    places = (
        Place("math@1", "math", 9, scored),
        Place("x", "x", 9, None),
        Place("y", "y", 1, None),
    )
    tallies = (Tally(30, 3, 1), Tally(5, 0, 4), Tally(0, 2, 0), Tally(1, 0, 0), Tally(6, 0, 6))
    pairs = tuple(
        PairStanding("math", "x", t, scored, t.wins > 9, 3, (("kind", t, scored),)) for t in tallies
    )
    arena.standings_html(Standings(places, pairs, "x", 20, 9, 20, 4))
    arena.standings_html(Standings(elsewhere=3))


def draw_label() -> None:
    example = Example("What?", "")
    rows = (AskedRow(Row(2, {"mail": "What?"}), example), AskedRow(Row(3, {}), None, "it is empty"))
    table = Unlabelled(("mail",), rows, "mail", ("subject",), ((4, "broken"),), ",", "a note")
    label.preview_html(table)
    plan, status = LabelPlan("mails.csv", "an expert"), JobStatus("id", "labelling", "m", RUNNING)
    label.status_html(LabelReport(status, plan, None, None))
    failed = JobStatus("id", "labelling", "m", FAILED, message="said")
    label.status_html(LabelReport(failed, plan, None, None))
    summary = LabelSummary(9, {"billing": 5}, 2, 1, "mail", "team", 4, 3, ((7, "broken"),))
    label.status_html(LabelReport(status, plan, Path("x.csv"), summary))
    first = (("billing", "0.9", "yes", "What?"), ("", "", "it is empty", ""))
    label.table_html(replace(summary, columns=("label", "p", "doubtful", "mail"), first=first * 40))


def draw_jobs() -> None:
    jobs_html([JobStatus("id", "download", "some/model", RUNNING, 1, 2, "said")])


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder(PAGE, monkeypatch)
    for draw in (
        draw_chat,
        draw_train,
        draw_rows,
        draw_experts,
        draw_models,
        draw_evaluate,
        draw_adapt,
        draw_arena,
        draw_label,
        draw_jobs,
    ):
        draw()
    build_app(FakeEngine()).get_config_file()
    return recorder


def test_no_string_becomes_markup_in_any_template(recorder):
    drawn = {(file, part) for file, part, _ in recorder.calls}
    takes_values = {part for part, values in PAGE.parts().items() if values}
    missing = {part for part in takes_values - drawn if part[0] not in WITHIN_OTHERS}
    assert missing == {TAKES_STYLES}, "draw these above, so that they are checked too"
    recorder.check(kept=CHOSEN_BY)


def test_an_answer_is_drawn_fast_enough_to_follow_every_token():
    """Ten of them with their questions take 0.9 ms on two slow cores; 25 are drawn a second."""
    asked = Message("user", "How many?")
    dispatch = {"strategy": "prompt", "probabilities": {"math": 0.9}, "alpha": {"math": 0.9}}
    answer = Message("assistant", "It is **56**.", dispatch, {"second_pass_s": 6.1, "tokens": 5})
    one = Chat("ab" * 16, "t", (asked, answer) * 10)
    assert min(timeit.repeat(lambda: chat.transcript_html(one), number=1, repeat=50)) < 0.003
