"""A table labelled by an expert that chooses: whole, resumable, and as right as in training."""

import base64
import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from t2local.adapt.answering import answer_examples
from t2local.adapt.applier import holding
from t2local.adapt.dispatch import MANUAL, Controls, Dispatched
from t2local.engine.engine import Engine
from t2local.engine.job_record import LABELLING
from t2local.engine.labelling import LabelPlan
from t2local.engine.requests import ChatRequest
from t2local.errors import Cancelled, T2LocalError
from t2local.experts import Expert
from t2local.models.decode.sampling import Sampling
from t2local.progress import FINISHED, CancelToken, drain
from t2local.svf import Mixture
from t2local.tasks.rows import Example
from t2local.ui.label.view import table_html
from tests.pictures import painted

LABELS = ("billing", "delivery", "returns")
ROWS = 70


@pytest.fixture
def engine(tiny_folder):
    engine = Engine(str(tiny_folder("llama"))).load()
    engine.adopt(an_expert(engine, "mails", LABELS))
    engine.adopt(an_expert(engine, "writer", ()))
    return engine


def an_expert(engine, name, labels, seed=0):
    _, svf = engine._trained_model()
    generator = torch.Generator().manual_seed(seed)
    z = {n: 1 + 0.5 * torch.randn(r, generator=generator) for n, r in svf.ranks.items()}
    return Expert(name, engine.status.model_name, svf.fingerprint(z), z, labels=labels)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "mails.csv"
    lines = [f"{n},mail {'x' * (n * 7 % 40)} number {n}?" for n in range(ROWS)]
    path.write_text("\n".join(["id,mail", *lines]) + "\n", encoding="utf-8")
    return path


def rows_of(content):
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def labelled(engine, path, **more):
    return drain(engine.labelling.label(LabelPlan(str(path), "mails", **more)))


def test_every_row_gets_the_label_that_training_would_count(engine, table):
    content, summary = labelled(engine, table)
    rows = rows_of(content)
    assert [row["id"] for row in rows] == [str(n) for n in range(ROWS)]
    loaded, svf = engine._trained_model()
    asked = [Example(row["mail"], "", {"choices": list(LABELS), "label": 0}) for row in rows]
    z = engine._shelf.usable["mails"].z
    wanted = answer_examples(loaded, asked, around=holding(loaded, svf, z))
    assert [row["label"] for row in rows] == [answer.text for answer in wanted]
    assert sum(summary.labels.values()) == summary.rows == ROWS
    assert all(1 / 3 <= float(row["probability"]) <= 1 for row in rows)


def test_doubtful_is_what_is_nearer_to_chance_than_asked(engine, table):
    for doubt, bar in ((0.0, 1 / 3 - 1e-3), (0.3, 1 / 3 + 0.2), (1.0, 1.0)):
        content, summary = labelled(engine, table, doubt=doubt)
        rows = rows_of(content)
        wanted = [float(row["probability"]) < bar - 1e-3 for row in rows]
        told = [row["doubtful"] == "yes" for row in rows]
        near = [abs(float(row["probability"]) - bar) < 2e-3 for row in rows]
        assert all(a == b or n for a, b, n in zip(wanted, told, near, strict=True))
        assert summary.doubtful == sum(told)


def test_a_stop_keeps_what_was_labelled_and_the_same_request_goes_on(engine, table, monkeypatch):
    from t2local.engine import labelling

    asked, real = [], labelling.choose_each

    def counting(loaded, expert, labels, prompts, held):
        asked.append(len(prompts))
        return real(loaded, expert, labels, prompts, held)

    monkeypatch.setattr(labelling, "choose_each", counting)
    plan, cancel = LabelPlan(str(table), "mails"), CancelToken()

    def until_30(event):
        if event.done >= 30:
            cancel.cancel()

    with pytest.raises(Cancelled):
        drain(engine.labelling.label(plan, cancel), until_30)
    before = sum(asked)
    assert 0 < before < ROWS
    content, _ = labelled(engine, table)
    assert sum(asked) == ROWS, "none twice"
    monkeypatch.setattr(labelling.paths, "home", lambda: table.parent / "elsewhere")
    assert labelled(engine, table)[0] == content, "as if it had not been stopped"


def test_a_line_that_was_cut_off_costs_its_rows_alone(engine, table, home):
    content, _ = labelled(engine, table)
    (kept,) = (home / "labels").iterdir()
    kept.write_text(kept.read_text()[:-7] + '\nnonsense\n[1, 2]\n[99999, "x", 0.5, ""]\n')
    assert labelled(engine, table)[0] == content


def test_the_same_file_read_otherwise_takes_no_label_of_another_row(engine, table):
    """Without a header every row stands one place further down."""
    lines = [f"mail {'x' * (n * 7 % 40)} number {n}?" for n in range(20)]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    plan = LabelPlan(str(table), "mails")
    first = rows_of(drain(engine.labelling.label(plan))[0])
    all_of_them = rows_of(drain(engine.labelling.label(replace(plan, without_header=True)))[0])
    assert len(all_of_them) == len(first) + 1
    assert [row["probability"] for row in all_of_them[1:]] == [row["probability"] for row in first]


def test_another_expert_or_table_is_labelled_anew(engine, table, home):
    labelled(engine, table)
    engine.adopt(an_expert(engine, "mails", LABELS, seed=1))
    labelled(engine, table)
    table.write_text("id,mail\n1,another mail?\n", encoding="utf-8")
    assert labelled(engine, table)[1].rows == 1
    assert len(list((home / "labels").iterdir())) == 3


def test_rows_that_ask_nothing_or_too_much_have_no_label_and_say_why(engine, table):
    text = "id,mail\n1,short one?\n2,\n3," + "y" * 9000 + "\n"
    table.write_text(text, encoding="utf-8")
    content, summary = labelled(engine, table)
    rows = rows_of(content)
    assert [bool(row["label"]) for row in rows] == [True, False, False]
    assert "empty" in rows[1]["doubtful"]
    assert "too long" in rows[2]["doubtful"]
    assert (summary.unlabelled, summary.doubtful) == (2, rows[0]["doubtful"] == "yes")


def always(monkeypatch, label):
    """Every row gets `label`."""
    from t2local.adapt.choosing import Choice

    def chosen(loaded, expert, labels, prompts, held):
        return [Choice(expert, {label: 0.9})] * len(prompts)

    monkeypatch.setattr("t2local.engine.labelling.choose_each", chosen)


def test_an_expert_that_says_the_same_of_all_is_not_told_to_agree(engine, table, monkeypatch):
    always(monkeypatch, "billing")
    lines = [f"mail number {n}?,{LABELS[n % 2]},{n}" for n in range(20)]
    table.write_text("\n".join(["mail,team,n", *lines]) + "\n", encoding="utf-8")
    _, summary = labelled(engine, table, column="mail")
    assert (summary.known, summary.answered, summary.agreed) == ("team", 20, 10)


def test_labels_that_are_numbers_are_compared_and_stay_as_they_are(engine, table, monkeypatch):
    engine.adopt(an_expert(engine, "mails", ("-1", "+1", "0")))
    always(monkeypatch, "-1")
    rows = [{"mail": f"mail number {n}?", "mood": [-1, 0][n % 2]} for n in range(6)]
    path = table.with_name("mails.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    content, summary = labelled(engine, path, column="mail")
    assert (summary.known, summary.answered, summary.agreed) == ("mood", 6, 3)
    assert {json.loads(line)["label"] for line in content.decode().splitlines()} == {"-1"}


def test_an_expert_that_goes_meanwhile_has_labelled_all(engine, table):
    def go(event):
        if event.done >= 16 and "mails" in engine._shelf.usable:
            engine.library.delete("mails")

    plan = LabelPlan(str(table), "mails")
    content, summary = drain(engine.labelling.label(plan), go)
    assert summary.rows == len(rows_of(content)) == ROWS


def test_what_is_looked_at_is_beside_the_file_whatever_stands_in_it(engine, table):
    mails = ["hello\u2028there you?", "y" * 200_000, '=1+1, "quoted; really"?']
    path = table.with_name("mails.jsonl")
    rows = [{"a;b": n, "mail": mail, "label": False} for n, mail in enumerate(mails)]
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    _, summary = labelled(engine, path, column="mail")
    assert summary.columns[:3] == ("label", "probability", "doubtful")
    assert summary.columns[3:] == ("a;b", "mail", "label")
    assert summary.first[0][3:] == ("0", mails[0], "false")
    assert max(len(cell) for row in summary.first for cell in row) <= 300
    table_html(summary)


def test_pictures_are_refused_by_a_model_that_reads_text(engine, table):
    picture = (
        "data:image/png;base64,"
        + base64.b64encode(Path(painted(table.parent, "red")).read_bytes()).decode()
    )
    table.write_text(f'image,question\n"{picture}",What is to be seen here?\n', encoding="utf-8")
    with pytest.raises(T2LocalError, match=r"reads text only|pictures"):
        engine.labelling.start(LabelPlan(str(table), "mails"))


def test_a_very_long_name_is_no_fault(engine, table):
    path = table.with_name("n" * 240 + ".csv")
    path.write_bytes(table.read_bytes())
    id = engine.labelling.start(LabelPlan(str(path), "mails"))
    assert engine.jobs.wait(id, 60).stage == FINISHED


def test_labels_that_were_there_are_compared(engine, table):
    content, _ = labelled(engine, table)
    rows = rows_of(content)
    lines = [f"{r['mail']},{r['label'] if n else 'returns'}" for n, r in enumerate(rows)]
    table.write_text("\n".join(["text,team", *lines]) + "\n", encoding="utf-8")
    _, summary = labelled(engine, table)
    assert summary.answered == ROWS
    assert summary.agreed in (ROWS - 1, ROWS)


@pytest.mark.parametrize(
    ("expert", "said"), [("writer", "writes and does not choose"), ("nobody", "is not there")]
)
def test_who_cannot_label_is_told(engine, table, expert, said):
    with pytest.raises(T2LocalError, match=said):
        engine.labelling.start(LabelPlan(str(table), expert))


def test_a_doubt_beyond_one_is_told():
    with pytest.raises(T2LocalError, match="from 0 to 1"):
        LabelPlan("x.csv", "mails", doubt=1.5)


def test_a_job_leaves_its_file_and_is_found_again(engine, table):
    id = engine.labelling.start(LabelPlan(str(table), "mails"))
    table.unlink()  # what a page uploads goes
    assert engine.jobs.wait(id, 60).stage == FINISHED
    report = engine.labelling.report(id)
    assert report.summary.rows == ROWS
    assert len(rows_of(report.file.read_bytes())) == ROWS
    assert report.file.name == "mails-labelled.csv"
    later = Engine(engine.models.choice.source).load()
    assert later.jobs.newest(LABELLING, later.labelling.report) == id
    assert later.labelling.report(id).summary == report.summary


def test_the_command_writes_beside_the_file_and_over_nothing(engine, table, capsys):
    from t2local.cli.main import main

    command = ["label", str(table), "--expert", "mails", "--model", engine.models.choice.source]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    out = Path(told["out"])
    assert out == table.with_name("mails-labelled.csv")
    assert (told["rows"], sum(told["labels"].values())) == (ROWS, ROWS)
    before = out.read_bytes()
    assert main(command) == 1
    assert "is there already" in capsys.readouterr().err
    assert out.read_bytes() == before
    other = table.with_name("x.jsonl")
    assert main([*command, "--out", str(other)]) == 0
    assert [json.loads(line)["label"] for line in other.read_text().splitlines()] == [
        row["label"] for row in rows_of(before)
    ]
    assert main([*command, "--out", str(table.with_name("x.xlsx"))]) == 1
    assert "end it in" in capsys.readouterr().err


def test_a_plan_is_kept_with_its_job(engine, table):
    plan = LabelPlan(str(table), "mails", "mail", 0.25)
    id = engine.labelling.start(plan)
    engine.jobs.wait(id, 60)
    kept = engine.labelling.report(id).plan
    assert replace(kept, source=plan.source) == plan


def test_texts_have_the_shares_that_the_chat_shows(engine):
    texts = [f"mail number {n} {'x' * n}?" for n in range(20)]
    found = engine.labelling.shares("mails", texts)
    assert all(set(shares) == set(LABELS) for shares in found)
    assert all(abs(sum(shares.values()) - 1) < 1e-5 for shares in found)
    request = ChatRequest(
        ({"role": "user", "content": texts[3]},),
        Controls(MANUAL, mixture=Mixture({"mails": 1.0})),
        Sampling(max_new_tokens=5),
    )
    told = [event for event in engine.answer("c", request) if isinstance(event, Dispatched)]
    choice = told[0].dispatch.choice
    assert dict(choice.shares) == pytest.approx(found[3], abs=1e-4)


@pytest.mark.parametrize(
    ("texts", "said"),
    [(["a"] * 300, "256 at most"), (["fine", "  "], "Text 2 is empty"), (["\ud800"], "Text 1")],
)
def test_texts_that_cannot_be_labelled_are_told(engine, texts, said):
    with pytest.raises(T2LocalError, match=said):
        engine.labelling.shares("mails", texts)
