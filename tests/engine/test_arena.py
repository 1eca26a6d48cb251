"""Blind pairs: nothing tells whose an answer is before the vote; a vote is a row, once."""

import csv
import io
import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

from t2local.adapt.dispatch import BASE, MANUAL, Controls
from t2local.engine.arena import Arena, BlindPairWork
from t2local.engine.contenders import Contender, contenders_of
from t2local.engine.lessons import lessons_of
from t2local.engine.standings import standings
from t2local.engine.verdicts import BAD, KEPT_S, SAME, TIE, A, B, Verdict, Verdicts, Vote, pair_id
from t2local.errors import T2LocalError
from t2local.experts import Expert
from t2local.models.decode.sampling import Sampling
from t2local.progress import FINISHED, CancelToken
from t2local.svf import Mixture
from tests.ui.fake_engine import FakeEngine

BOTH = (BASE, "math@00000000")
QUICK = Sampling(max_new_tokens=5)


@pytest.fixture
def engine(home):
    return FakeEngine(delay_s=0.0)


def written(engine, prompt="differ, please", keys=BOTH):
    """A pair that waits for its vote."""
    id = engine.arena.start(prompt, keys, QUICK)
    assert engine.jobs.wait(id, 20).stage == FINISHED
    return engine.arena.battle(id)


def vote_of(engine, winner, **asked):
    """A pair on which `winner` (a key, or a saying) was voted."""
    battle = written(engine, **asked)
    sides = engine.verdicts.pair(battle.id).vote.sides
    said = {sides[0]: A, sides[1]: B}.get(winner, winner)
    return engine.arena.vote(battle.id, said)


def test_names_and_mixtures_come_with_the_vote(engine):
    battle = written(engine)
    assert len(set(battle.texts)) == 2
    assert (battle.names, battle.mixtures, battle.kind, battle.said) == (None, None, "", "")
    assert "math" not in json.dumps(asdict(battle))
    voted = engine.arena.vote(battle.id, A)
    assert set(voted.names) == {BASE, "math"}
    assert voted.texts == battle.texts
    alpha = dict(zip(voted.names, (m["alpha"] for m in voted.mixtures), strict=True))
    assert alpha == {BASE: {}, "math": {"math": 1.0}}
    said = dict(zip(voted.names, voted.texts, strict=True))
    assert said[BASE].startswith("Variant 0."), "each answer beside its own name"


def test_neither_jobs_nor_the_list_in_train_tell_who_answers(engine):
    id = engine.arena.start("very slowly differ", BOTH, QUICK)
    assert "math" not in json.dumps([asdict(status) for status in engine.jobs.history()])
    assert engine.arena.battle(id).texts is None, "both at once, or none"
    engine.arena.stop(id)
    engine.jobs.wait(id, 20)
    assert engine.verdicts.awaited() == []
    written(engine)
    assert engine.verdicts.all() == []


def test_a_coin_chooses_the_sides_and_who_begins(engine):
    sides = {engine.verdicts.pair(written(engine).id).vote.sides for _ in range(24)}
    assert sides == {BOTH, BOTH[::-1]}
    begins = {tuple(engine.requests[n][1].controls.mixture.alpha) for n in range(0, 48, 2)}
    assert begins == {(), ("math",)}


def test_both_sides_draw_the_same_random_numbers_for_the_same_prompt(engine):
    written(engine)
    (_, one), (_, other) = engine.requests
    assert one.messages == other.messages
    assert one.sampling == other.sampling
    assert one.sampling.seed is not None


@pytest.mark.parametrize("preferred", [0, 1])
def test_the_preferred_answer_is_learnt_over_the_other(engine, preferred):
    battle = written(engine)
    engine.arena.vote(battle.id, (A, B)[preferred])
    (row,) = lessons_of(engine.verdicts.all()).choices
    assert row.columns["choices"] == [battle.texts[preferred], battle.texts[1 - preferred]]
    assert row.prompt == "differ, please"


@pytest.mark.parametrize("said", [TIE, BAD])
def test_a_tie_teaches_nothing_and_counts_half(engine, said):
    vote_of(engine, said)
    assert lessons_of(engine.verdicts.all()).choices == ()
    (pair,) = engine.arena.standings().pairs
    assert (pair.tally.ties, pair.score.value) == (1, 0.5)


def test_equal_answers_are_a_tie_that_nobody_is_asked_about(engine):
    battle = written(engine, prompt="both alike")
    assert (battle.said, set(battle.names)) == (SAME, {BASE, "math"})
    assert engine.arena.standings().pairs[0].tally.ties == 1


def test_a_vote_counts_once_and_is_not_turned_over(engine):
    battle = written(engine)
    engine.arena.vote(battle.id, A)
    again = engine.arena.vote(battle.id, A)
    assert again.said == A
    with pytest.raises(T2LocalError, match="seen the names"):
        engine.arena.vote(battle.id, B)
    assert engine.arena.standings().votes == 1
    engine.verdicts.drop(battle.id)
    assert engine.arena.standings().votes == 0


def test_a_pair_waits_for_its_vote_also_after_a_restart(engine):
    battle = written(engine)
    later = Arena(engine.jobs, engine)
    engine.verdicts = Verdicts(engine.chats.folder)
    assert later.awaited() == battle
    assert later.vote(battle.id, B).said == B
    assert later.awaited() is None


def test_what_nobody_votes_on_goes_after_a_week(engine, monkeypatch):
    written(engine)
    now = engine.verdicts.awaited()[0].given
    monkeypatch.setattr("t2local.engine.verdicts.time.time", lambda: now + KEPT_S + 60)
    fresh = written(engine)
    assert [pair.id for pair in engine.verdicts.awaited()] == [fresh.id]


def test_a_vote_that_comes_while_old_pairs_go_is_kept(engine, monkeypatch):
    battle = written(engine)
    now, cast = engine.verdicts.awaited()[0].given, Verdicts.cast
    other = Verdicts(engine.chats.folder)
    monkeypatch.setattr("t2local.engine.verdicts.time.time", lambda: now + KEPT_S + 60)
    reading = engine.verdicts.awaited

    def voted_meanwhile():
        found = reading()
        if not other.votes():
            with pytest.raises(T2LocalError, match="writing down"):
                cast(other, battle.id, A)
        return found

    monkeypatch.setattr("t2local.engine.verdicts.locks.PATIENCE_S", 0.1, raising=False)
    monkeypatch.setattr(engine.verdicts, "awaited", voted_meanwhile)
    written(engine)


def test_the_same_answers_seen_again_count_once(engine):
    """Their names are known by then; the first vote counts."""
    first = vote_of(engine, BOTH[1])
    for _ in range(7):
        vote_of(engine, BOTH[1])
    assert engine.arena.standings().votes == 1
    vote_of(engine, BOTH[0], prompt="differ about something else")
    (pair,) = engine.arena.standings().pairs
    assert (pair.tally.wins, pair.tally.losses) == (1, 1)
    assert first.said in (A, B)


def test_what_the_page_holds_does_not_tell_whose_is_which(engine):
    battle = written(engine)
    assert battle.id == pair_id(battle.id.split("-")[0], battle.texts)
    assert battle.id == pair_id(battle.id.split("-")[0], battle.texts[::-1])


def test_a_pair_that_is_being_written_is_found_by_a_page_that_is_opened(engine):
    id = engine.arena.start("very slowly differ", BOTH, QUICK)
    assert engine.arena.awaited().id == id
    engine.arena.stop(id)
    engine.jobs.wait(id, 20)
    assert engine.arena.awaited() is None
    engine.arena.stop("nobody's")


def test_another_seat_neither_reads_nor_stops_a_pair(engine):
    mine, other = Arena(engine.jobs, engine, "ann."), Arena(engine.jobs, engine, "ben.")
    id = mine.start("very slowly differ", BOTH, QUICK)
    with pytest.raises(T2LocalError):
        other.battle(id)
    other.stop(id)
    assert engine.jobs.status(id).live
    assert mine.battle(id).prompt == "very slowly differ"
    mine.stop(id)
    engine.jobs.wait(id, 20)


def test_of_several_the_pair_with_the_fewest_votes_comes_next(engine):
    keys = (*BOTH, "code@00000000")
    met = [frozenset(vote_of(engine, TIE, keys=keys).names) for _ in range(6)]
    assert {pair: met.count(pair) for pair in met} == dict.fromkeys(met, 2)
    assert len(set(met)) == 3


@pytest.mark.parametrize(
    ("prompt", "keys", "said"),
    [("  ", BOTH, "empty"), ("hi", BOTH[:1], "at least two"), ("hi", (), "at least two"),
     ("hi", (BASE, BASE), "at least two"), ("hi", (BASE, "gone@11111111"), "not there any more"),
     ("x" * 30_000, BOTH, "shorten it"), ("half a \ud800", BOTH, "prompt")],
)  # fmt: skip
def test_what_cannot_be_asked_is_told(engine, prompt, keys, said):
    with pytest.raises(T2LocalError, match=said):
        engine.arena.start(prompt, keys, QUICK)
    assert engine.verdicts.awaited() == []


@pytest.mark.parametrize("id", ["", "../../etc/passwd", "ab" * 16, "a-b", "answer-x"])
def test_what_is_no_pair_is_told(engine, id):
    for act in (engine.arena.battle, lambda id: engine.arena.vote(id, A)):
        with pytest.raises(T2LocalError):
            act(id)
    with pytest.raises(T2LocalError, match="no vote"):
        engine.arena.vote(id, "mine")


def test_an_answer_that_fails_leaves_no_pair(engine):
    id = engine.arena.start("unanswerable", BOTH, QUICK)
    engine.jobs.wait(id, 20)
    with pytest.raises(T2LocalError, match=r"refused.*ask again"):
        engine.arena.battle(id)
    assert engine.verdicts.awaited() == []


def test_standings_are_of_this_model_against_base_and_by_kind(engine):
    for number in range(6):
        prompt = f"{'math' if number % 2 else 'code'} differ {number}"
        vote_of(engine, BOTH[number != 3], prompt=prompt)
    found = engine.arena.standings()
    assert (found.reference, found.votes, found.decided, found.elsewhere) == (BASE, 6, 6, 0)
    assert [place.label for place in found.places] == ["math", BASE]
    assert found.places[0].score.value == pytest.approx(5 / 6, abs=1e-4)
    (pair,) = found.pairs
    assert (pair.first, pair.tally.wins, pair.tally.losses) == ("math", 5, 1)
    kinds = {kind: (t.wins, t.losses) for kind, t, _ in pair.kinds}
    assert kinds == {"code": (3, 0), "math": (2, 1)}
    assert all(score.low < t.wins / t.n <= score.high for _, t, score in pair.kinds)
    elsewhere = standings(engine.verdicts.votes(), model="another")
    assert (elsewhere.votes, elsewhere.elsewhere) == (0, 6)


def test_votes_belong_to_what_answered_not_to_a_name():
    """An expert that was trained further begins anew; the version before keeps its votes."""
    turns = ({"role": "user", "content": "hi"},)
    vote = Vote(("mails@11111111", BASE), "no", said=A)
    verdict = Verdict("ab" * 8 + "-" + "cd" * 8, "ab" * 8, turns, "yes", model="m", vote=vote)
    now = Contender("mails@22222222", "mails", Controls(MANUAL))
    before = Contender("mails@11111111", "mails until 2026-01-01 09:15", Controls(MANUAL))
    (first, _) = standings([verdict], [now], "m").places
    assert first.label == "mails (another version, 11111111)"
    assert standings([verdict], [now, before], "m").places[0].label == before.label


def test_votes_are_saved_as_they_were_shown(engine):
    prompt = "=differ 1+1"
    first = vote_of(engine, BOTH[1], prompt=prompt)
    vote_of(engine, TIE)
    lines = [json.loads(line) for line in engine.arena.export(as_csv=False).splitlines()]
    assert [line["vote"] for line in lines] == [first.said, TIE]
    assert lines[0]["preferred"] == BOTH[1]
    assert (lines[0]["answer_a"], lines[0]["answer_b"]) == first.texts
    rows = list(csv.DictReader(io.StringIO(engine.arena.export(as_csv=True))))
    assert rows[0]["prompt"] == "'=differ 1+1", "no spreadsheet runs it"
    assert rows[1] == lines[1]


def test_nothing_is_saved_without_a_vote(engine):
    with pytest.raises(T2LocalError, match="no vote yet"):
        engine.arena.export(as_csv=True)


def test_a_question_from_the_chats_is_one_that_was_asked(engine):
    with pytest.raises(T2LocalError, match="no other question"):
        engine.arena.asked_before()
    engine.chats.save(engine.chats.new().ask("How many legs?").ask("And a spider?"))
    found = {engine.arena.asked_before() for _ in range(40)}
    assert found == {"How many legs?", "And a spider?"}
    assert engine.arena.asked_before(besides="How many legs?") == "And a spider?"


def test_an_answer_of_nothing_can_win_but_teaches_nothing(home):
    verdicts, turns = Verdicts(home), ({"role": "user", "content": "hi"},)
    id = pair_id("ab" * 8, ("", "no"))
    verdicts.lay(Verdict(id, "ab" * 8, turns, "", vote=Vote((BASE, "x"), "no")))
    verdicts.cast(id, A)
    assert lessons_of(verdicts.all()).choices == ()
    assert verdicts.votes()[0].vote.winner == BASE


# --- A real engine.


@pytest.fixture
def trained(tiny_folder):
    from t2local.engine.engine import Engine

    engine = Engine(str(tiny_folder("llama"))).load()
    engine.adopt(an_expert(engine, 0))
    return engine


def an_expert(engine, seed):
    _, svf = engine._trained_model()
    generator = torch.Generator().manual_seed(seed)
    z = {n: 1 + 0.3 * torch.randn(r, generator=generator) for n, r in svf.ranks.items()}
    return Expert("mails", engine.status.model_name, svf.fingerprint(z), z)


def test_two_versions_of_an_expert_are_compared(trained):
    from t2local.experts.store import ExpertStore
    from t2local.experts.versions import Versions

    before = {each.label: each for each in trained.contenders()}
    Versions(ExpertStore(trained.models.opened.loaded.slug)).keep("mails")
    trained.adopt(an_expert(trained, 1))
    found = {each.label: each for each in trained.contenders()}
    (earlier,) = [each for label, each in found.items() if label.startswith("mails until")]
    assert earlier.key == before["mails"].key, "it keeps its votes"
    assert found["mails"].key != earlier.key
    applier = trained.models.opened.workshop.applier
    z = [applier.z_of(each.controls.mixture) for each in (found["mails"], earlier)]
    assert any(not torch.equal(z[0][name], z[1][name]) for name in z[0])
    assert [e.name for e in trained.experts()] == ["mails"], "no slider for what it was"
    assert trained.models.opened.shelf.skills == ("mails",)
    keys = [found["mails"].key, earlier.key]
    id = trained.arena.start("Hello", keys, replace(QUICK, temperature=1.0))
    assert trained.jobs.wait(id, 60).stage == FINISHED
    battle = trained.arena.battle(id)
    pair = trained.verdicts.pair(battle.id)
    assert set(pair.vote.contenders) == set(keys)
    voted = trained.arena.vote(battle.id, A) if not battle.said else battle
    named = {name for mixture in voted.mixtures for name in mixture["alpha"]}
    assert named == set(voted.names), "its alias in mixtures is nobody's business"


def test_an_expert_that_was_changed_meanwhile_gets_no_vote_for_the_other(trained):
    keys = [each.key for each in trained.contenders()]
    work = BlindPairWork(
        "pair-x", trained, "Hello", tuple(trained.contenders()), replace(QUICK, temperature=0.0)
    )
    assert work._write(work.pair[1], 0, SimpleNamespace(cancel=CancelToken())).text is not None
    trained.adopt(an_expert(trained, 1))
    with pytest.raises(T2LocalError, match="'mails' was changed"):
        work._write(work.pair[1], 0, SimpleNamespace(cancel=CancelToken()))
    with pytest.raises(T2LocalError, match="not there any more"):
        trained.arena.start("Hello", keys, QUICK)


def test_a_kept_mixture_is_a_contender_of_its_own_weights(trained):
    shelf = trained.models.opened.shelf
    kept = {"few": Mixture({"mails": 0.4})}
    one = contenders_of(shelf, ["few-shot:few", "manual"], kept.__getitem__)
    assert [each.label for each in one] == [BASE, "mails", "mixture few"]
    kept["few"] = Mixture({"mails": 0.5})
    other = contenders_of(shelf, ["few-shot:few", "manual"], kept.__getitem__)
    assert one[-1].key != other[-1].key
    assert one[:-1] == other[:-1]
