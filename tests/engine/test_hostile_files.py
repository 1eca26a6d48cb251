"""Two thousand spoilt files: each is named in a sentence, the good ones beside it are still there.

What is not refused can be shown: it is drawn, and no markup of the file's own is in what is drawn.
"""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from t2local import paths, plots
from t2local.adapt.cem import CEMConfig
from t2local.adapt.few_shot import Generation
from t2local.engine.chats import ChatStore
from t2local.engine.engine import Engine
from t2local.engine.evaluations import EvaluationPlan, results_path
from t2local.engine.job_record import EVALUATION, SEARCH, JobStatus, Record
from t2local.engine.requests import controls_from_json, sampling_from_json
from t2local.engine.searches import SearchPlan, mixture_path
from t2local.errors import T2LocalError
from t2local.evaluation.measure import Scored
from t2local.evaluation.tally import Evaluation, Result, evaluation_json
from t2local.evaluation.tally import Record as Answered
from t2local.experts.expert import HeldOut
from t2local.experts.library import MixtureFile, MixtureStore, write_mixture
from t2local.models.fit.anatomy import anatomy_of, config_of
from t2local.models.load.loader import local_path
from t2local.progress import FINISHED
from t2local.svf.mixing import Mixture
from t2local.training.reports import Answers, BatchStatistics, Gain, Notice, StepReport, Validation
from t2local.training.runs import Plan, Run
from t2local.ui.adapt.events import status_html
from t2local.ui.chat.chat_list import chat_list_html
from t2local.ui.chat.steering import last_dispatch
from t2local.ui.chat.view import transcript_html
from t2local.ui.evaluate.view import confusion_html, samples_html, table_html
from t2local.ui.experts.view import experts_html
from t2local.ui.jobs_tab import jobs_html
from t2local.ui.page import build_app
from t2local.ui.train.view import answers_html, live_html, runs_html
from tests.hostile_files import no_file, spoilt
from tests.ui.fake_engine import FakeEngine

COUNT = 340  # of each of six kinds
EVERY = 12  # so many spoilt files, then one that is no file at all
MARKUP = "<img src=x"


def told(read: Callable, *arguments):
    """What is read; None where it is refused in one sentence."""
    try:
        return read(*arguments)
    except T2LocalError as error:
        said = str(error)
    assert "\n" not in said.strip(), said
    return None


def spoil(path: Path, text: str, number: int, rng: random.Random) -> None:
    if number % EVERY == 0:
        no_file(path, rng)
    else:
        path.write_bytes(spoilt(text, rng))


def clean(html: str) -> None:
    assert MARKUP not in html


def a_chat(store: ChatStore) -> str:
    chat = store.new().ask("What is 2 + 2?")
    asked = chat.messages[0]
    mixture = {"alpha": {"math": 0.5}, "strength": 1.0, "gains": {"mlp": 1.2}}
    answer = replace(
        asked,
        role="assistant",
        content="It is four.",
        dispatch={"strategy": "prompt", "probabilities": {"math": 0.9, "other": 0.1},
                  "seconds": 0.2, "chosen": "math", **mixture, "note": "", "override": None},
        timing={"first_pass_s": 0.1, "second_pass_s": 1.0, "tokens": 4, "tokens_per_s": 4.0,
                "finish": "stop", "packed_tokens": 0, "context_used": 9, "context_length": 99},
        base_content="4",
        steered=((3, mixture),),
    )  # fmt: skip
    controls = {"strategy": "prompt", "soft": True, "threshold": 0.4, "mixture": mixture}
    sampling = {"temperature": 0.5, "seed": 3}
    full = replace(chat, messages=(asked, answer), controls=controls, sampling=sampling)
    return store.save(full).id


def test_chats():
    store, rng = ChatStore(), random.Random(1)
    good = a_chat(store)
    text = (store.folder / f"{good}.json").read_text(encoding="utf-8")
    for number in range(COUNT):
        name = f"{number:032x}"
        spoil(store.folder / f"{name}.json", text.replace(good, name), number, rng)
    chats = store.list()
    assert good in [chat.id for chat in chats]
    assert len(chats) + len(store.damaged) == COUNT + 1
    assert len(store.damaged) > COUNT / 2
    clean(chat_list_html(chats, good))
    for summary in chats:
        chat = store.load(summary.id)
        clean(transcript_html(chat, ["math"]))
        plots.plot_dispatch(last_dispatch(chat).get("probabilities") or {}).to_json()
        controls_from_json(chat.controls), sampling_from_json(chat.sampling)
    assert build_app(FakeEngine(chats=store)), "the page can be opened"


def with_header(content: bytes, number: int, rng: random.Random, **card: str) -> bytes:
    """A safetensors file with its header, or one of the JSON texts in it, spoilt.

    `card`: what the card says otherwise.
    """
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    card = header["__metadata__"] = header["__metadata__"] | card
    inner = [name for name, text in card.items() if text[:1] in ("{", "[") and len(text) > 2]
    if inner and number % 2:
        name = rng.choice(inner)
        card[name] = spoilt(card[name], rng).decode("utf-8", "replace")
        spoilt_header = json.dumps(header).encode()
    else:
        spoilt_header = spoilt(json.dumps(header), rng)
    return len(spoilt_header).to_bytes(8, "little") + spoilt_header + content[8 + size :]


def test_experts(engine):
    rng, folder = random.Random(2), paths.experts_dir() / engine.models.opened.loaded.slug
    good = {expert.name for expert in engine.experts() if expert.usable}
    whole = (folder / "math.safetensors").read_bytes()
    for number in range(COUNT):
        path = folder / f"e{number}.safetensors"
        if number % EVERY == 0:
            no_file(path, rng)
        else:
            named = {"t2local.name": path.stem}
            path.write_bytes(with_header(whole, number, rng, **named))
    again = Engine(engine.models.choice.source).load()
    found = again.experts()
    assert good <= {expert.name for expert in found if expert.usable}
    assert len({expert.name for expert in found}) == COUNT + len(good)
    assert all(expert.warning for expert in found if not expert.usable)
    clean(experts_html(found))
    assert again.strategies()


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.int64, torch.uint8])
def test_experts_of_other_numbers_are_named(engine, dtype):
    folder = paths.experts_dir() / engine.models.opened.loaded.slug
    store = engine.models.opened.shelf.usable["math"]
    card = {"t2local.schema": "1", "t2local.name": "odd", "t2local.base_model": store.base_model,
            "t2local.basis_fingerprint": "x"}  # fmt: skip
    tensors = {name: torch.ones_like(row).to(dtype) for name, row in store.z.items()}
    (folder / "odd.safetensors").write_bytes(save(tensors, metadata=card))
    (odd,) = [e for e in Engine(engine.models.choice.source).load().experts() if e.name == "odd"]
    assert not odd.usable
    assert "F32" in odd.warning


def test_mixtures():
    store, rng = MixtureStore("tiny"), random.Random(3)
    mixture = Mixture({"math": 0.4}, 1.0, by_matrix={"model.layers.0.mlp.up_proj": {"math": 0.1}})
    task = {"reward": "exact", "shots": 3, "shot_prompts": ["ab"]}
    path = store.save("good", MixtureFile(mixture, "tiny", task))
    text = path.read_text(encoding="utf-8")
    for number in range(COUNT):
        spoil(store.folder / f"m{number}.json", text, number, rng)
    assert len(store.names()) == COUNT + 1
    found = [told(store.load, name) for name in store.names()]
    assert found.count(None) > COUNT / 2
    assert store.load("good").mixture == mixture
    for file in filter(None, found):
        told(file.check, "tiny", ["math"])
        json.dumps(asdict(file.mixture))


def a_run() -> Run:
    run = Run.create(Plan("red", "red.jsonl", "choice"))
    batch = BatchStatistics(0.1, 0.5, 0.01, 1.0, 0.2, 100, {"forward": 0.5})
    for step in range(1, 20):
        run.record(StepReport(step, 20, batch, 0.1, 0.01, (0.1, 0.2)))
    run.record(Validation(10, 0.5, 0.0, 8, True))
    run.record(Answers(10, [("what?", "base says", "now says")]))
    run.record(Notice(10, "Take care."))
    held_out = {"n": 20, "base": 0.2, "trained": 0.5, "ci95_difference": [0.1, 0.3]}
    run.record(Gain(10, HeldOut.from_dict(held_out)))
    result = {"expert": "red", "numbers": 12, "train_s": 3.0, "held_out": held_out,
              "forgetting": [{**held_out, "task": "math"}]}  # fmt: skip
    run.finish(result)
    state = {"step": 3, "best": None, "curve": [0.1], "validations": [], "seconds": {},
             "tokens": 3, "base_answers": ["x"], "rows_per_forward": 4}  # fmt: skip
    rows = {name: torch.ones(4) for name in ("flat", "exp_avg", "exp_avg_sq", "best_flat")}
    content = save(rows, metadata={"format": "pt", "state": json.dumps(state)})
    (run.folder / "state.safetensors").write_bytes(content)
    return run


def test_run_folders():
    engine, good, rng = FakeEngine(), a_run(), random.Random(4)
    whole = (good.folder / "state.safetensors").read_bytes()
    assert good.state().step == 3
    for number in range(COUNT):
        folder = good.folder.with_name(f"20250101-{number:06}-red")
        shutil.copytree(good.folder, folder)
        name = rng.choice(["run.json", "metrics.jsonl", "expert.json", "state.safetensors"])
        if name == "state.safetensors" and number % EVERY:
            (folder / name).write_bytes(with_header(whole, number, rng))
        elif name == "metrics.jsonl" and number % EVERY:
            lines = (folder / name).read_text(encoding="utf-8").splitlines()
            line = rng.randrange(len(lines))
            spoilt_line = spoilt(lines[line], rng)
            rest = [text.encode() for text in lines]
            (folder / name).write_bytes(b"\n".join([*rest[:line], spoilt_line, *rest[line:]]))
        else:
            spoil(folder / name, (folder / name).read_text("latin-1"), number, rng)
    assert engine.training.current() == good.name
    clean(jobs_html(engine.jobs.history()))
    for number, folder in enumerate(sorted(paths.runs_dir().iterdir())):
        told(Run(folder).state)
        report = told(engine.training.report, folder.name)
        if report is not None:
            clean(live_html(report) + answers_html(report.curves) + runs_html([report]))
            for draw in (plots.plot_reward, plots.plot_vitals) if number % 8 == 0 else ():
                draw(report.curves).to_json()
    assert engine.training.report(good.name).result["expert"] == "red"


def a_search(id: str) -> None:
    record = Record.of(id)
    plan = SearchPlan("red", "red.jsonl", "exact", CEMConfig())
    record.begin(JobStatus(id, SEARCH.name, "red", FINISHED, 2, 5), {"plan": plan.as_json()})
    cloud, scores = ((0.1,), (0.2,)), (0.5, 0.6)
    record.append(asdict(Generation(1, 5, ("m",), cloud, (0,), scores, scores, (0.2,), 0.5, -1.0)))
    write_mixture(MixtureFile(Mixture({"m": 0.2}), "tiny"), mixture_path(id))


def an_evaluation(id: str) -> None:
    record, plan = Record.of(id), EvaluationPlan(("arc_easy",), ("base",))
    record.begin(JobStatus(id, EVALUATION.name, "e", FINISHED, 1, 1), {"plan": asdict(plan)})
    answered = Answered(0, "what?", "a", "a", True, {"m": 0.5}, "m", {"m": 0.9})
    scored = Scored("arc_easy", "base", 1, 1, 1, (answered,))
    record.append({"event": "Scored", **asdict(scored)})
    result = Result("arc_easy", "base", 1, 1, (0.1, 0.0, 0.2))
    cells = {("arc_easy", "base"): {0: answered}}
    evaluation = Evaluation("tiny", (result,), (), cells, {"arc_easy": "here"})
    results_path(id).write_text(json.dumps(evaluation_json(evaluation)), encoding="utf-8")


def test_job_records():
    engine, rng = FakeEngine(), random.Random(5)
    a_search("20260101-000000-good")
    an_evaluation("20260101-000001-good")
    for number in range(COUNT):
        id = f"20250101-{number:06}-red"
        (a_search if number % 2 else an_evaluation)(id)
        path = rng.choice(sorted(Record.of(id).folder.iterdir()))
        spoil(path, path.read_text(encoding="utf-8"), number, rng)
    statuses = engine.jobs.history(most=10**6)
    assert {"20260101-000000-good", "20260101-000001-good"} <= {s.id for s in statuses}
    clean(jobs_html(statuses))
    for folder in paths.jobs_dir().iterdir():
        search = told(engine.searches.report, folder.name)
        if search is not None and search.generations:
            clean(status_html(search.generations[-1]))
            plots.plot_cloud(search.generations).to_json()
            plots.plot_best(search.generations).to_json()
        report = told(engine.evaluations.report, folder.name)
        if report is not None:
            found = report.evaluation
            clean(table_html(list(found.results if found else report.growing.results.values())))
            clean(confusion_html(found.confusions) if found else "")
            for records in report.growing.records.values():
                clean(samples_html(records, "all"))
    assert engine.jobs.newest(SEARCH, engine.searches.report) == "20260101-000000-good"
    assert engine.jobs.newest(EVALUATION, engine.evaluations.report) == "20260101-000001-good"


def test_model_folders(model_folder, tmp_path):
    rng = random.Random(6)
    names = ["config.json", "config.json", "config.json", "generation_config.json",
             "tokenizer_config.json"]  # fmt: skip
    for number in range(COUNT):
        folder = tmp_path / "spoilt"
        shutil.copytree(model_folder, folder)
        path = folder / rng.choice(names)
        spoil(path, path.read_text(encoding="utf-8"), number, rng)
        told(config_of, str(folder))
        told(local_path, str(folder))
        told(anatomy_of, str(folder))
        shutil.rmtree(folder)
    assert anatomy_of(str(model_folder)).layers == 2
