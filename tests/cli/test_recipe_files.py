"""`recipes` and `ask --recipe`, through the command line."""

import json
from dataclasses import replace

import pytest

from t2local.adapt.dispatch import CLASSIFIER, MANUAL
from t2local.cli.main import main
from t2local.engine.engine import Engine
from t2local.engine.recipes import (
    Recipe,
    RecipeStore,
    link_code,
    read_recipe,
    recipe_bytes,
    recipe_from_link,
)
from t2local.engine.requests import Controls
from t2local.models.decode.sampling import Sampling
from t2local.svf.mixing import Mixture

MIXTURE = Mixture({"counting": 0.5, "law": 1.0}, 0.9)
RECIPE = Recipe(
    "Half one", "Other-1B", Controls(MANUAL, mixture=MIXTURE),
    Sampling(temperature=0.0, max_new_tokens=3, seed=7), "Be brief.", "How many?",
)  # fmt: skip


def said(capsys, *argv):
    assert main([*argv, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_in_listed_out_deleted_and_back(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_bytes(recipe_bytes(RECIPE))
    assert said(capsys, "recipes", "import", "mine.json")["recipe"] == "Half one"
    link = f"http://x/?recipe={link_code(RECIPE)}"
    assert said(capsys, "recipes", "import", link, "--name", "linked")["id"] == "linked"
    titles = [one["title"] for one in said(capsys, "recipes", "list")["recipes"]]
    assert titles == ["Half one", "linked"]
    assert said(capsys, "recipes", "export", "half one")["file"] == "Half-one.recipe.json"
    assert read_recipe(tmp_path / "Half-one.recipe.json") == RECIPE
    (code,) = said(capsys, "recipes", "export", "linked", "--link").values()
    assert recipe_from_link(code) == replace(RECIPE, title="linked")
    deleted = said(capsys, "recipes", "delete", "linked")
    assert said(capsys, "recipes", "restore", deleted["id"]) == {"recipe": "linked"}


def test_what_adapt_writes_comes_in_under_its_files_name(capsys, tmp_path):
    path = tmp_path / "sums.json"
    path.write_text(json.dumps({"alpha": {"math": 0.5}}))
    assert said(capsys, "recipes", "import", str(path))["recipe"] == "sums"
    assert RecipeStore().load("sums").controls.mixture == Mixture({"math": 0.5})


@pytest.fixture
def asked(monkeypatch):
    """The requests that an engine was given."""
    found, answer = [], Engine.answer

    def heard(self, chat_id, request, cancel=None):
        found.append(request)
        return answer(self, chat_id, request, cancel)

    monkeypatch.setattr(Engine, "answer", heard)
    return found


@pytest.mark.parametrize("kind", ["file", "name", "link"])
def test_a_recipe_is_asked_as_it_says_and_missing_experts_are_told(
    kind, capsys, tmp_path, source, library, asked
):
    path = tmp_path / "mine.json"
    path.write_bytes(recipe_bytes(RECIPE))
    RecipeStore().save(RECIPE)
    given = {"file": str(path), "name": "half one", "link": f"?recipe={link_code(RECIPE)}"}
    assert main(["ask", "--recipe", given[kind], "--model", source, "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (found["missing"], found["seed"]) == (["law"], 7)
    assert found["dispatch"]["alpha"] == {"counting": 0.5}
    assert "The expert 'law' is not here and was left out" in captured.err
    assert "made with Other-1B" in captured.err
    (request,) = asked
    assert request.controls == Controls(MANUAL, mixture=replace(MIXTURE, alpha={"counting": 0.5}))
    assert request.sampling == RECIPE.sampling
    assert [m["content"] for m in request.messages] == ["Be brief.", "How many?"]


def test_flags_and_a_prompt_go_before_the_recipe(capsys, tmp_path, source, library, asked):
    path = tmp_path / "mine.json"
    path.write_bytes(recipe_bytes(replace(RECIPE, prompt="")))
    flags = ["--seed", "9", "--max-new-tokens", "2", "--strategy", "base", "--model", source]
    assert main(["ask", "Hello?", "--recipe", str(path), *flags]) == 0
    (request,) = asked
    assert (request.sampling.seed, request.sampling.max_new_tokens) == (9, 2)
    assert request.sampling.temperature == 0.0
    assert request.controls.strategy == "base"
    assert request.messages[-1]["content"] == "Hello?"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["ask", "--recipe", "no-such"], "no recipe 'no-such': no such file"),
        (["ask", "--recipe", "?recipe=AAAA"], "The recipe in this link cannot be read"),
        (["ask", "--recipe", "asks nothing"], "brings no prompt; write one"),
        (["recipes", "export", "no"], "no recipe 'no'"),
        (["recipes", "delete", "no"], "(there are: 'asks nothing')"),
        (["recipes", "import", "gone.json"], "no file 'gone.json'"),
        (["recipes", "restore", "no"], "it is gone"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, argv, words):
    RecipeStore().save(Recipe("asks nothing", controls=Controls(CLASSIFIER)))
    assert main(argv) == 1
    assert words in capsys.readouterr().err
