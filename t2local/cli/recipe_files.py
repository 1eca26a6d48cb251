"""`recipes ACTION`: list, export, import and delete kept recipes, without a model.

Also how `ask` finds the recipe that it was given.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from t2local import paths
from t2local.cli import add_flags_of_all, log
from t2local.engine.recipes import (
    Preset,
    Recipe,
    RecipeStore,
    file_name,
    is_link,
    link_code,
    read_recipe,
    recipe_bytes,
    recipe_from_link,
    titled,
)
from t2local.errors import T2LocalError
from t2local.untrusted import word

Report = Callable[[dict[str, Any]], None]


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("recipes", help="list, export, import and delete recipes")
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="all recipes, by name")
    listing.set_defaults(act=list_recipes)
    exporting = actions.add_parser("export", help="write a recipe into a file")
    exporting.add_argument("name", metavar="NAME", help="as `recipes list` has it")
    exporting.add_argument("--out", type=Path, metavar="FILE", help="default: named by the recipe")
    exporting.add_argument("--link", action="store_true", help="as a link, where it is short")
    exporting.set_defaults(act=export)
    bringing = actions.add_parser("import", help="keep the recipe of a file or a link")
    bringing.add_argument("recipe", metavar="FILE|LINK")
    bringing.add_argument("--name", help="default: the recipe's own")
    bringing.set_defaults(act=bring)
    deleting = actions.add_parser("delete", help="delete a recipe; for a day it can come back")
    deleting.add_argument("name", metavar="NAME")
    deleting.set_defaults(act=delete)
    restoring = actions.add_parser("restore", help="bring a deleted recipe back")
    restoring.add_argument("id", metavar="ID", help="as `recipes delete` told it")
    restoring.set_defaults(act=restore)
    add_flags_of_all(actions)


def recipe_named(text: str) -> Recipe:
    """The recipe of a file, a kept one's name or a link. Raises `T2LocalError`."""
    if is_link(text):
        return recipe_from_link(text)
    path = paths.named(text)
    if path.is_file():
        return read_recipe(path)
    store = RecipeStore()
    if preset := store.find(text):
        return store.load(preset.id)
    known = ", ".join(f"'{word(preset.title)}'" for preset in store.list()[:10]) or "none yet"
    raise T2LocalError(
        f"There is no recipe '{word(text)}': no such file, no link and none of those that are kept "
        f"({known}); name one of these."
    )


def run(arguments: argparse.Namespace, report: Report) -> None:
    arguments.act(arguments, report)


def list_recipes(arguments: argparse.Namespace, report: Report) -> None:
    store = RecipeStore()
    found = store.list()
    for reason in store.damaged.values():
        log(reason)
    if arguments.json:
        report({"recipes": [vars(preset) for preset in found]})
        return
    for preset in found:
        print(preset.title)
    if not found:
        print("No recipes yet.")


def export(arguments: argparse.Namespace, report: Report) -> None:
    recipe = RecipeStore().load(_kept(arguments.name).id)
    if arguments.link:
        code = link_code(recipe)
        if not code:
            raise T2LocalError(
                f"The recipe '{word(recipe.title)}' is too long for a link; export it to a file, "
                "without --link."
            )
        report({"link": f"/?recipe={code}"})
        return
    out = paths.named(str(arguments.out)) if arguments.out else Path(file_name(recipe))
    if out.is_dir():
        out = out / file_name(recipe)
    content = recipe_bytes(recipe)
    with paths.atomic_write(out) as temporary:
        temporary.write_bytes(content)
    report({"file": str(out), "recipe": recipe.title})


def bring(arguments: argparse.Namespace, report: Report) -> None:
    given = arguments.recipe
    if not is_link(given) and not paths.named(given).is_file():
        raise T2LocalError(f"There is no file '{word(given)}'; name a recipe's file or a link.")
    recipe = recipe_named(given)
    fallback = "a recipe" if is_link(given) else Path(given).name.partition(".")[0]
    title = titled(arguments.name or recipe.title or fallback)
    preset = RecipeStore().save(recipe, title)
    report({"recipe": preset.title, "id": preset.id})


def delete(arguments: argparse.Namespace, report: Report) -> None:
    preset = _kept(arguments.name)
    RecipeStore().delete(preset.id)
    log(f"for a day `recipes restore {preset.id}` brings it back")
    report({"deleted": preset.title, "id": preset.id})


def restore(arguments: argparse.Namespace, report: Report) -> None:
    report({"recipe": RecipeStore().restore(arguments.id).title})


def _kept(name: str) -> Preset:
    store = RecipeStore()
    if preset := store.find(name):
        return preset
    known = ", ".join(f"'{word(preset.title)}'" for preset in store.list()[:10]) or "none yet"
    raise T2LocalError(f"There is no recipe '{word(name)}' (there are: {known}); name one of them.")
