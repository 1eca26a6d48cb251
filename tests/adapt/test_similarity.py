from dataclasses import replace

import pytest
import torch

from t2local.adapt import two_pass
from t2local.adapt.dispatch import (
    OTHER,
    SIMILARITY,
    Available,
    Controls,
    Dispatched,
    Done,
    Reading,
    first_pass,
    offered,
)
from t2local.adapt.similarity import Discriminant, shares_of
from t2local.adapt.two_pass import answer, dispatch
from t2local.errors import T2LocalError
from t2local.models.decode.embedding import embed
from t2local.models.decode.sampling import Sampling
from t2local.progress import CancelToken
from t2local.svf import Mixture

WIDTH = 24
GREEDY = Sampling(temperature=0.0, max_new_tokens=8, repetition_penalty=1.0, seed=0)


def around(centre, n, spread=0.3, seed=0):
    """`n` points `[n, d]` near one that `centre` chooses."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.zeros(WIDTH)
    axis[centre] = 2.0
    return 1.0 + axis + spread * torch.randn(n, WIDTH, generator=generator)


def spread_out(n, seed=9):
    return 1.0 + torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))


PRINTS = {"mails": around(0, 30), "poems": around(1, 64), OTHER: spread_out(200)}


def likeliest(found):
    return [max(each, key=each.get) for each in found]


# --- The discriminant.


def test_fresh_points_go_to_their_class_and_probabilities_sum_to_one():
    found = Discriminant(PRINTS).probabilities(around(0, 40, seed=5))
    assert likeliest(found).count("mails") >= 38
    assert all(sum(each.values()) == pytest.approx(1) for each in found)
    assert all(tuple(each) == ("mails", "poems", OTHER) for each in found)


def test_points_like_no_print_are_others():
    found = Discriminant(PRINTS).probabilities(spread_out(100, seed=3))
    assert likeliest(found).count(OTHER) >= 95


def test_the_probabilities_are_calibrated():
    """Of fresh messages to which some p is given, about that share is right."""
    prints = {name: 1 + 0.5 * (rows - 1) for name, rows in PRINTS.items()}  # they overlap
    prints |= {"mails": around(0, 30, 1.6), "poems": around(1, 64, 1.6)}
    fresh = {"mails": around(0, 200, 1.6, 5), "poems": around(1, 200, 1.6, 6)}
    told = Discriminant(prints)
    winners = [
        (max(each.values()), max(each, key=each.get) == label)
        for label, rows in fresh.items()
        for each in told.probabilities(rows)
    ]
    mean_p = sum(p for p, _ in winners) / len(winners)
    right = sum(ok for _, ok in winners) / len(winners)
    assert mean_p == pytest.approx(right, abs=0.1)


def test_the_size_of_an_embedding_tells_nothing():
    points = around(0, 5, seed=5)
    near, far = (Discriminant(PRINTS).probabilities(k * points) for k in (1.0, 50.0))
    assert [list(a.values()) for a in near] == [pytest.approx(list(b.values())) for b in far]


def test_a_new_expert_takes_its_own_and_leaves_the_others_theirs():
    before, new = Discriminant(PRINTS), {"recipes": around(2, 30), **PRINTS}
    after = Discriminant(new)
    assert likeliest(after.probabilities(around(2, 40, seed=7))).count("recipes") >= 36
    poems = around(1, 40, seed=8)
    assert likeliest(before.probabilities(poems)) == likeliest(after.probabilities(poems))


def test_a_point_that_is_not_finite_has_no_probabilities_and_its_neighbours_do():
    rows = torch.cat([around(0, 1), torch.full((1, WIDTH), torch.nan), around(1, 1)])
    first, broken, last = Discriminant(PRINTS).probabilities(rows)
    assert broken == {}
    assert likeliest([first, last]) == ["mails", "poems"]


@pytest.mark.parametrize("rows", [1, 2, 200])
def test_one_print_of_any_size_beside_others_is_enough(rows):
    found = Discriminant({"mails": around(0, rows), OTHER: spread_out(64)})
    probabilities = found.probabilities(around(0, 3, seed=4))
    assert all(0 <= p <= 1 for each in probabilities for p in each.values())


def test_equal_prints_share_a_message_and_are_told_as_overlapping():
    twice = Discriminant({"mails": around(0, 40), "again": around(0, 40, seed=2), **PRINTS})
    (each,) = twice.probabilities(around(0, 1, seed=5))
    assert each["mails"] + each["again"] > 0.8
    told = {(overlap.expert, overlap.other) for overlap in twice.overlaps()}
    assert told & {("mails", "again"), ("again", "mails")}
    assert all(overlap.share >= 0.3 for overlap in twice.overlaps())


def test_prints_far_apart_do_not_overlap():
    assert Discriminant(PRINTS).overlaps() == []


def test_a_trained_prompt_is_its_own_nearest_neighbour():
    nearest = Discriminant(PRINTS).nearest(PRINTS["poems"][7])
    assert (nearest[0].label, nearest[0].place) == ("poems", 7)
    assert nearest[0].similarity == pytest.approx(1)
    assert [n.similarity for n in nearest] == sorted((n.similarity for n in nearest), reverse=True)
    assert sum(shares_of(nearest).values()) == len(nearest) == 10
    assert next(iter(shares_of(nearest))) == "poems"


def test_a_copy_of_an_expert_changes_nothing_for_the_others():
    """The temperature and the bias are not those of the copy's rows alone."""
    alone = Discriminant(PRINTS)
    copied = Discriminant({"again": PRINTS["mails"], **PRINTS})
    asked = torch.cat([around(1, 40, seed=8), spread_out(60, seed=4)])
    before, after = (likeliest(told.probabilities(asked)) for told in (alone, copied))
    same = sum(a == b or {a, b} == {"mails", "again"} for a, b in zip(before, after, strict=True))
    assert same >= 98


def test_prints_far_apart_leave_room_for_doubt():
    """What they do not decide is not decided: no bias, the greatest temperature that is as good."""
    prints = {"mails": around(0, 30, 0.05), OTHER: around(5, 60, 0.05)}
    temperature, bias = Discriminant(prints)._calibration
    assert bias == 0
    assert temperature > 1


# --- In the two passes.

TEXTS = {
    "math": ["1 + 2 = ?", "3 * 4 + 5", "7 - 2 * 3", "11 + 12 + 13", "9 / 3 + 1", "2 + 2"],
    "code": ["def f(x): return x", "import os", "for i in y: z()", "print(x)", "class A: pass"],
    OTHER: ["Hello there!", "How was your day?", "Tell me a joke.", "I am tired.", "Good night."],
}


def chats(texts):
    return [[{"role": "user", "content": text}] for text in texts]


@pytest.fixture
def printed(workshop):
    """The workshop with prints of the experts' own kinds."""
    told = Discriminant({name: embed(workshop.loaded, chats(t)) for name, t in TEXTS.items()})
    return replace(workshop, available=replace(workshop.available, prints=told))


def test_a_message_of_an_experts_prompts_is_answered_by_it(printed):
    for name in ("math", "code"):
        decision = dispatch(printed, TEXTS[name][0], Controls(SIMILARITY, soft=False))
        assert decision.chosen == name
        assert decision.mixture.alpha == {name: 1.0}
        assert set(decision.probabilities) == {"math", "code", OTHER}
    assert not dispatch(printed, TEXTS[OTHER][0], Controls(SIMILARITY)).mixture.alpha


def test_the_decision_is_the_same_in_an_answer_and_alone_and_says_what_is_near(printed):
    for text in ("def g(y): return y", "5 + 6", "Hello you!"):
        alone = dispatch(printed, text, Controls(SIMILARITY))
        first = next(answer(printed, chats([text])[0], Controls(SIMILARITY), GREEDY))
        assert first.dispatch.probabilities == pytest.approx(alone.probabilities, abs=1e-4)
        assert len(first.dispatch.near) == 10
        assert first.dispatch.seconds > 0


def test_batched_messages_are_decided_like_single_ones(printed):
    reading = Reading(printed.loaded, printed.available, printed.applier.using)
    texts = [texts[0] for texts in TEXTS.values()]
    together = first_pass(reading, texts, Controls(SIMILARITY))
    for text, decision in zip(texts, together, strict=True):
        assert decision.chosen == dispatch(printed, text, Controls(SIMILARITY)).chosen


def spoken(workshop, strategy, chat, **options):
    first, *_, done = answer(workshop, chat, Controls(strategy), GREEDY, **options)
    assert isinstance(first, Dispatched)
    assert isinstance(done, Done)
    return first.dispatch, done


def tokens_read(model, monkeypatch):
    """A list that grows by the number of tokens of each forward from now on."""
    read, forward = [], model.forward

    def watched(*args, **options):
        read.append(options["input_ids"].shape[1])
        return forward(*args, **options)

    monkeypatch.setattr(model, "forward", watched)
    return read


def test_a_base_answer_goes_on_from_what_pass_one_has_read(printed, monkeypatch):
    chat = chats(["Hello there!"])[0]
    expected = spoken(printed, "base", chat)[1].texts
    printed.forget()
    read = tokens_read(printed.loaded.model, monkeypatch)
    decision, done = spoken(printed, SIMILARITY, chat)
    assert not decision.mixture.alpha
    assert done.texts == expected
    assert read[1:] == [1] * len(read[1:])  # the prompt once, then a token at a time


def test_an_experts_answer_is_the_one_that_it_gives_by_hand(printed):
    chat = chats([TEXTS["code"][0]])[0]
    by_hand = Controls("manual", mixture=Mixture({"code": 1.0}))
    *_, expected = answer(printed, chat, by_hand, GREEDY)
    first, *_, done = answer(printed, chat, Controls(SIMILARITY, soft=False), GREEDY)
    assert first.dispatch.chosen == "code"
    assert done.texts == expected.texts


def test_base_beside_adapted_is_dispatched_too(printed):
    chat = chats([TEXTS["code"][0]])[0]
    decision, done = spoken(printed, SIMILARITY, chat, compare=True)
    assert decision.chosen == "code"
    assert len(done.texts) == 2


def test_a_chat_that_goes_on_reads_only_what_is_new(printed, monkeypatch):
    """Of an expert's answer, the base model's cache is kept beside the expert's."""
    first = chats([TEXTS["code"][0]])[0]
    said = spoken(printed, SIMILARITY, first)[1].texts[0]
    more = [*first, {"role": "assistant", "content": said or "."}, *chats(["And now?"])[0]]
    read = tokens_read(printed.loaded.model, monkeypatch)
    first_event = next(answer(printed, more, Controls(SIMILARITY), GREEDY))
    assert read[0] < first_event.context_tokens - 10


def test_a_stop_in_pass_one_ends_the_answer_without_a_word(printed):
    cancel = CancelToken()
    cancel.cancel()
    chat = chats(["Hello there!"])[0]
    *_, done = answer(printed, chat, Controls(SIMILARITY), GREEDY, cancel=cancel)
    assert done.finish == "cancelled"
    assert done.texts == ("",)


def test_a_state_that_is_not_finite_leaves_the_message_to_the_base_model(printed, monkeypatch):
    monkeypatch.setattr(two_pass, "pooled", lambda *_: torch.full((64,), torch.nan))
    decision, _ = spoken(printed, SIMILARITY, chats(["2 + 2"])[0])
    assert not decision.mixture.alpha
    assert "NaN" in decision.note


def test_without_prints_it_is_not_offered_and_asking_for_it_says_what_to_do(workshop):
    assert SIMILARITY not in offered(workshop.available)
    with pytest.raises(T2LocalError, match="experts print"):
        list(answer(workshop, chats(["2 + 2"])[0], Controls(SIMILARITY), GREEDY))


def test_it_is_the_first_choice_only_where_a_person_has_an_expert_of_their_own(printed):
    shipped = offered(printed.available)
    assert shipped[0] == "classifier"
    assert SIMILARITY in shipped
    own = offered(replace(printed.available, own_prints=True))
    assert own[0] == SIMILARITY
    assert sorted(own) == sorted(shipped)


def test_experts_that_share_a_ground_are_not_below_the_threshold_together():
    prints = {name: around(0, 40, seed=k) for k, name in enumerate("abcd")}
    told = Discriminant({**prints, OTHER: spread_out(200)})
    (each,) = told.probabilities(around(0, 1, seed=77))
    available = Available(tuple("abcd"), tuple("abcd"), prints=told)
    assert max(each.values()) < 0.9
    decision = two_pass.decide(Controls(SIMILARITY), each, available.skills)
    assert sum(decision.mixture.alpha.values()) > 0.6
