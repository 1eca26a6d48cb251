"""Recipes: out and in again the same, whatever else comes is one sentence, and presets are kept."""

import base64
import json
import os
import random
import threading
import time
import zlib
from dataclasses import fields, replace

import pytest

from t2local import paths
from t2local.adapt.dispatch import CLASSIFIER, FEW_SHOT, MANUAL
from t2local.engine.answers import Asked, answer, mixture_of
from t2local.engine.chat_content import Chat, Message
from t2local.engine.chats import ChatStore
from t2local.engine.engine import Engine, Seat
from t2local.engine.people import GUEST, OWNER, Account
from t2local.engine.recipes import (
    LONGEST_LINK,
    MARK,
    MOST_UNPACKED,
    VERSION,
    Recipe,
    RecipeStore,
    file_name,
    link_code,
    read_recipe,
    recipe_bytes,
    recipe_from_json,
    recipe_from_link,
    recipe_json,
    recipe_of_answer,
)
from t2local.engine.requests import Controls, controls_json, mixture_json, sampling_json
from t2local.errors import T2LocalError
from t2local.experts.library import MixtureFile, write_mixture
from t2local.models.decode.sampling import Sampling
from t2local.svf.mixing import Gains, Mixture

HALF = Recipe(
    "Half math", "SmolLM2", Controls(MANUAL, mixture=Mixture({"math": 0.5})), prompt="How many?"
)


def some_recipe(seed: int) -> Recipe:
    """Any recipe, numbers of all lengths and texts of all letters among them."""
    draw = random.Random(seed)
    texts = ["", "one", "Wie viele Beine?\n\t\"'\\", "三十一 🕷️ <b>&amp;</b>", "a" * 5000]
    names = ["math", "code", "my-expert.2", "größe"]

    def alphas():
        return {n: draw.uniform(-1, 2) for n in draw.sample(names, draw.randrange(4))}

    gains = Gains(**{f.name: draw.choice([1.0, draw.random()]) for f in fields(Gains)})
    matrices = {f"model.layers.{i}.mlp.up_proj": alphas() for i in range(draw.randrange(5))}
    mixture = Mixture(alphas(), draw.uniform(0, 3), gains, matrices)
    strategy = draw.choice([MANUAL, CLASSIFIER, f"{FEW_SHOT}:sums"])
    sampling = Sampling(
        temperature=draw.choice([0, 1, draw.random()]), top_p=draw.uniform(0.1, 1),
        top_k=draw.randrange(99), max_new_tokens=draw.randrange(1, 999),
        seed=draw.choice([None, 0, 2**53]), exact=draw.random() < 0.5,
    )  # fmt: skip
    return Recipe(
        draw.choice(texts)[:200], draw.choice(texts)[:200],
        Controls(strategy, draw.random() < 0.5, draw.random(), mixture), sampling,
        draw.choice(texts), draw.choice(texts),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(60))
def test_out_and_in_again_is_the_same(seed, tmp_path):
    recipe = some_recipe(seed)
    assert recipe_from_json(recipe_json(recipe)) == recipe
    path = tmp_path / file_name(recipe)
    path.write_bytes(recipe_bytes(recipe))
    assert read_recipe(path) == recipe
    if code := link_code(recipe):
        assert len(f"/?recipe={code}") <= LONGEST_LINK
        assert recipe_from_link(f"http://localhost:7860/?recipe={code}&chat=x") == recipe
        assert recipe_from_link(code) == recipe


def test_a_plain_recipe_is_a_short_link_and_a_long_one_is_none():
    assert 100 < len(link_code(HALF)) < 700
    draw = random.Random(0)
    many = {f"layer.{i}": {"math": draw.random()} for i in range(200)}
    mixture = Mixture({"math": 0.5}, by_matrix=many)
    assert link_code(replace(HALF, controls=Controls(MANUAL, mixture=mixture))) == ""
    assert link_code(replace(HALF, prompt="a" * 99_999)) == ""


def test_missing_experts_are_named_and_the_rest_is_left():
    mixture = Mixture({"math": 0.5, "law": 0.2, "art": 0.0}, by_matrix={"m": {"tax": 1.0}})
    recipe = Recipe(model="A/B", controls=Controls(MANUAL, mixture=mixture))
    assert recipe.missing(["math"]) == ("law", "tax")
    rest = recipe.without(recipe.missing(["math"])).controls.mixture
    assert (rest.alpha, rest.by_matrix) == ({"math": 0.5, "art": 0.0}, {"m": {}})
    said = recipe.remarks(["math"], [MANUAL], "Other")
    assert said[0].startswith("The experts 'law', 'tax' are not here and were left out; import")
    assert "made with A/B, and Other is loaded" in said[1]
    assert recipe.remarks(["math", "law", "tax"], [MANUAL], "A--B") == []


def test_a_strategy_that_is_not_there_is_replaced():
    recipe = Recipe(controls=Controls(CLASSIFIER))
    assert recipe.with_strategy(["prompt", MANUAL]).controls.strategy == "prompt"
    assert "'classifier' is not possible" in recipe.remarks([], ["prompt"], "")[0]
    kept = Recipe(controls=Controls(f"{FEW_SHOT}:x", mixture=Mixture({"math": 1.0})))
    assert kept.with_strategy(["prompt", MANUAL]).controls.strategy == MANUAL
    assert kept.with_strategy([f"{FEW_SHOT}:x"]) == kept


def sound(**changed):
    return {**recipe_json(HALF), **changed}


def mixing(**mixture):
    return sound(controls={**controls_json(HALF.controls), "mixture": mixture})


HOSTILE = [
    None, [], 5, "text", {}, {"alpha": {"math": 1}}, {MARK: "1"}, {MARK: True}, {MARK: None},
    {MARK: 2}, {MARK: 10**30}, sound(title=5), sound(title="x" * 201), sound(prompt=["a"]),
    sound(prompt="a" * 100_001), sound(system_prompt={}), sound(model="m" * 201),
    sound(controls=[]), sound(controls={"strategy": "no such"}), sound(controls={"strategy": 1}),
    sound(controls={"strategy": "x" * 9999}), sound(controls={"soft": "no"}),
    sound(controls={"above_chance": 7}), sound(controls={"above_chance": "0.1"}),
    sound(controls={"mixture": 1}), mixing(alpha=[]), mixing(alpha={"math": "1"}),
    mixing(alpha={"math": 1e9}), mixing(alpha={"math": True}), mixing(alpha={"math": None}),
    mixing(alpha={"a\nb": 1.0}), mixing(alpha={"x" * 201: 1.0}), mixing(strength=99),
    mixing(gains={"mlp": -11}), mixing(gains={"mlp": {}}), mixing(by_matrix={"m": 1}),
    mixing(by_matrix={"m": {"math": 11}}), mixing(by_matrix={"\x1b[2J": {}}),
    mixing(alpha={f"e{i}": 0.1 for i in range(30_001)}),
    sound(sampling=[]), sound(sampling={"temperature": 99}), sound(sampling={"seed": 0.5}),
    sound(sampling={"max_new_tokens": 10**9}), sound(sampling={"exact": 1}),
]  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_anything_else_is_one_sentence_with_a_way_out(content, tmp_path):
    with pytest.raises(T2LocalError) as told:
        recipe_from_json(content, "The recipe 'x.json'")
    said = str(told.value)
    assert said.startswith("The recipe 'x.json' ")
    assert "; " in said
    assert len(said) < 400
    assert said.isprintable()
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    if content != {"alpha": {"math": 1}}:  # a mixture's file is a recipe too
        with pytest.raises(T2LocalError):
            read_recipe(path)


RAW = [
    b"", b"{", b"\xff\xfe", b"[" * 10_000, b'{"t2local_recipe": NaN}', b'{"a": 1, "a": 2}',
    b'{"t2local_recipe": 1, "title": "\\ud800"}', b'{"t2local_recipe": 1e999}',
    b'{"t2local_recipe": 1, "prompt": "' + b"a" * (2 * 2**20) + b'"}',
]  # fmt: skip


@pytest.mark.parametrize("content", RAW, ids=range(len(RAW)))
def test_a_file_that_is_no_json_of_ours_is_one_sentence(content, tmp_path):
    path = tmp_path / "odd\x1b.json"
    path.write_bytes(content)
    with pytest.raises(T2LocalError, match=r"^The recipe 'odd .json' cannot be read .*; open a"):
        read_recipe(path)


def packed(content: bytes) -> str:
    packer = zlib.compressobj(9, wbits=-15)
    found = packer.compress(content) + packer.flush()
    return base64.urlsafe_b64encode(found).rstrip(b"=").decode()


BOMB = packed(b'{"t2local_recipe": 1, "prompt": "' + b"a" * 4_000_000 + b'"}')
LINKS = [
    "", "?recipe=", "ä", "a b", "A", "%%%", "x" * 9000, BOMB, packed(b"[" * 60_000), packed(b"no"),
    packed(b'{"t2local_recipe": 1}')[:-4], packed(b'{"t2local_recipe": 1}') + "AAAA",
    packed(json.dumps(mixing(alpha={"math": 99})).encode()), packed(b'{"t2local_recipe": 9}'),
]  # fmt: skip


@pytest.mark.parametrize("link", LINKS, ids=range(len(LINKS)))
def test_a_link_that_is_damaged_or_a_bomb_is_one_sentence(link):
    with pytest.raises(T2LocalError, match=r"^The recipe in this link .*; "):
        recipe_from_link(link)


def test_a_bomb_is_unpacked_no_further_than_the_limit(monkeypatch):
    """4 MB of one letter are 5,500 characters as a link: short enough to be looked at."""
    assert len(BOMB) < 8000
    asked = []

    class Watched:
        def __init__(self, wbits):
            self.unpacker = decompressobj(wbits=wbits)

        def decompress(self, content, most):
            found = self.unpacker.decompress(content, most)
            asked.append(len(found))
            return found

    decompressobj = zlib.decompressobj
    monkeypatch.setattr(zlib, "decompressobj", Watched)
    with pytest.raises(T2LocalError, match="unpacks to more than 64 KB"):
        recipe_from_link(BOMB)
    assert asked == [MOST_UNPACKED + 1]


def test_names_of_a_newer_file_are_passed_over():
    content = sound(colour="blue", controls={**controls_json(HALF.controls), "new": 1})
    assert recipe_from_json(content) == HALF
    assert recipe_from_json({MARK: VERSION}) == Recipe()


def test_what_could_not_be_read_back_is_not_made():
    for changed in ({"title": "x" * 201}, {"prompt": "\ud800"}, {"prompt": "a" * 100_001}):
        with pytest.raises(T2LocalError, match="; "):
            replace(HALF, **changed)


def test_a_mixture_that_adapt_found_is_a_recipe(tmp_path):
    mixture = Mixture({"math": 0.3}, by_matrix={"m": {"math": 0.25}})
    write_mixture(MixtureFile(mixture, "SmolLM2"), tmp_path / "sums.json")
    recipe = read_recipe(tmp_path / "sums.json")
    assert (recipe.title, recipe.model) == ("sums", "SmolLM2")
    assert (recipe.controls.strategy, recipe.controls.mixture) == (MANUAL, mixture)


def test_the_recipe_of_an_answer_is_the_mixture_with_which_it_ended():
    first, last = Mixture({"math": 0.86}), Mixture({"math": 0.2}, 0.5)
    own = Sampling(temperature=0.1, seed=7)
    decided = {"strategy": CLASSIFIER, **mixture_json(first), "sampling": sampling_json(own)}
    steered = ((3, mixture_json(last)),)
    chat = Chat(
        "ab" * 16,
        messages=(
            Message("user", "How many?"),
            Message("assistant", "It is 56.", decided, steered=steered),
            Message("user", "And now?"),
            Message("assistant", "So.", {**mixture_json(first), "sampling": "odd"}),
            Message("assistant", "From elsewhere."),
        ),
        system_prompt="Be brief.",
        controls=controls_json(Controls(CLASSIFIER, soft=False)),
        sampling=sampling_json(Sampling(seed=1)),
    )
    recipe = recipe_of_answer(chat, 1, "SmolLM2", with_prompt=True)
    assert recipe.controls == Controls(MANUAL, soft=False, mixture=last)
    assert (recipe.sampling, recipe.prompt) == (own, "How many?")
    assert (recipe.system_prompt, recipe.model) == ("Be brief.", "SmolLM2")
    assert recipe_of_answer(chat, 3, "").sampling.seed == 1, "the chat's, where it has none"
    for index in (-1, 0, 4, 5, 10**9):
        with pytest.raises(T2LocalError, match="no recipe; "):
            recipe_of_answer(chat, index, "")


def test_an_answers_recipe_gives_the_same_words_again(engine):
    """Also out of a link: no digit of an α is lost."""
    asked = Asked(Controls("prompt", threshold=0.0), Sampling(temperature=1.0, seed=5))
    asked = replace(asked, sampling=replace(asked.sampling, max_new_tokens=12))
    chat = engine.chats.new().ask("How many legs?")
    first = list(answer(engine, chat, asked))[-1].chat
    recipe = recipe_from_link(link_code(recipe_of_answer(first, 1, "", with_prompt=True)))
    again = Asked(recipe.controls, recipe.sampling)
    second = list(answer(engine, engine.chats.new().ask(recipe.prompt), again))[-1].chat
    assert second.last_answer.content == first.last_answer.content != ""
    assert mixture_of(second.last_answer) == mixture_of(first.last_answer)
    assert any(recipe.controls.mixture.alpha.values())


# --- Presets


@pytest.fixture
def store(tmp_path):
    return RecipeStore(tmp_path / "kept")


def titles(store):
    return [preset.title for preset in store.list()]


def test_presets_are_kept_under_their_titles_and_found_again(store):
    preset = store.save(HALF)
    assert RecipeStore(store.folder).load(preset.id) == HALF
    assert titles(store) == ["Half math"]
    assert store.find(" half MATH ") == store.find("half-math") == preset
    assert store.find("no such") is None


def test_no_two_are_called_alike_and_none_is_written_over(store):
    recipes = [HALF, HALF, replace(HALF, title="half MATH"), replace(HALF, title="Half/math")]
    ids = [store.save(recipe).id for recipe in recipes]
    assert len({id.casefold() for id in ids}) == 4
    assert titles(store) == ["Half math", "Half math (2)", "half MATH (3)", "Half/math"]


@pytest.mark.parametrize(
    "title", ["../../x", "nul", ".hidden", "日本語", "a" * 200, "x\0y", "a/b\\c", "-", "CON.txt"]
)
def test_any_title_is_a_safe_file(store, title):
    preset = store.save(replace(HALF, title=title))
    (path,) = store.folder.glob("*.json")
    assert path.parent == store.folder
    assert path.stem == preset.id == paths.slug(preset.id)
    assert store.load(preset.id).title == preset.title
    assert [found.id for found in store.list()] == [preset.id]


def test_a_name_is_needed(store):
    for title in ("", " \n"):
        with pytest.raises(T2LocalError, match="no name yet; write one"):
            store.save(replace(HALF, title=title))


def test_rename_keeps_the_recipe(store):
    preset, other = store.save(HALF), store.save(replace(HALF, title="other"))
    assert store.rename(preset.id, "Other ").title == "Other (2)"
    assert store.rename(preset.id, "Other (2)").title == "Other (2)", "its own is not taken"
    assert store.load(preset.id) == replace(HALF, title="Other (2)")
    assert store.load(other.id).title == "other"


def test_what_is_deleted_comes_back_within_a_day(store):
    preset = store.save(HALF)
    store.delete(preset.id)
    assert store.list() == []
    again = store.save(HALF)
    assert again.id != preset.id, "the file of a deleted one is not written over"
    assert store.restore(preset.id).title == "Half math (2)"
    assert len(store.list()) == 2
    store.delete(preset.id)
    trash = store.folder / ".deleted" / f"{preset.id}.json"
    old = time.time() - 90_000
    os.utime(trash, (old, old))
    store.delete(again.id)
    assert not trash.exists()
    with pytest.raises(T2LocalError, match="it is gone"):
        store.restore(preset.id)


@pytest.mark.parametrize("id", ["", "no", "../x", ".deleted/x", "/etc/passwd", "\0", "x" * 9999])
def test_an_id_is_no_path(store, id):
    (store.folder.parent / "x.json").write_bytes(recipe_bytes(HALF))
    for act in (store.load, store.delete, lambda id: store.rename(id, "x")):
        with pytest.raises(T2LocalError, match="no longer on disk; choose another"):
            act(id)
    with pytest.raises(T2LocalError, match="it is gone"):
        store.restore(id)


def test_a_damaged_file_is_reported_and_left_alone(store):
    store.save(HALF)
    path = store.folder / "broken.json"
    path.write_text('{"t2local_recipe": 1, "prompt": 5}')
    assert titles(store) == ["Half math"]
    assert "'prompt' is a whole number, not a text" in store.damaged["broken.json"]
    assert path.exists()
    assert store.save(replace(HALF, title="broken")).id == "broken-2"
    path.unlink()
    store.list()
    assert store.damaged == {}


def test_many_save_at_once_and_none_is_lost(store):
    threads = [threading.Thread(target=store.save, args=(HALF,)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(titles(store))) == 12


def test_recipes_lie_in_the_home_and_each_account_has_its_own(tmp_path):
    engine = Engine("embedded")
    assert engine.recipes.folder == paths.home() / "recipes"
    anna, ben = Account("anna", OWNER, "x"), Account("ben", GUEST, "x")
    first = Seat(engine, anna, engine.chats)
    guest = Seat(engine, ben, ChatStore(tmp_path / ben.folder))
    first.recipes.save(HALF)
    assert guest.recipes.list() == []
    assert guest.recipes.folder == paths.home() / "recipes" / "of-ben"
    guest.recipes.save(HALF)
    assert len(first.recipes.list()) == 1
    assert guest.settled(HALF.controls) == HALF.controls


def test_a_kept_mixture_is_in_the_recipe_itself(monkeypatch):
    engine, kept = Engine("embedded"), Mixture({"math": 0.3}, 0.5, by_matrix={"m": {"math": 1.0}})
    monkeypatch.setattr(type(engine.searches), "mixture", lambda self, name: kept)
    settled = engine.settled(Controls(f"{FEW_SHOT}:sums", mixture=Mixture(strength=2.0)))
    assert settled == Controls(MANUAL, mixture=replace(kept, strength=1.0))
