"""Recipes: how to answer, whole, as one small value that can be kept, sent and opened elsewhere.

A recipe is a JSON file, and a link where it is short. It comes from anybody: whatever is wrong with
it is one sentence, and a link unpacks to so many bytes and no more. It names experts and does not
hold them: `missing` says which are not here. `RecipeStore` keeps recipes under a title, a file
each; a damaged file is reported in `damaged` and left where it is.
"""

import base64
import contextlib
import json
import os
import re
import threading
import time
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from t2local import locks, paths
from t2local.adapt.dispatch import FEW_SHOT, MANUAL
from t2local.engine.answers import mixture_of
from t2local.engine.chat_content import Chat, Steering, readable
from t2local.engine.requests import (
    Controls,
    ExpertInfo,
    controls_from_json,
    controls_json,
    sampling_from_json,
    sampling_json,
)
from t2local.errors import T2LocalError
from t2local.experts.library import MixtureFile, read_mixture
from t2local.models.decode.sampling import Sampling
from t2local.untrusted import check_encodes, file_bytes, parsed, typed, word

MARK = "t2local_recipe"  # the name by which a recipe is known; its value is its version
VERSION = 1
MOST_BYTES = 2 * 2**20  # of a file
MOST_UNPACKED = 64 * 2**10  # bytes of what a link holds
LONGEST_LINK = 2_000  # characters of one that is made
LONGEST_CODE = 8_000  # of one that is read
LONGEST_TITLE, LONGEST_TEXT, LONGEST_NAME = 200, 100_000, 200  # characters
MOST_ALPHAS = 30_000  # of all matrices together
PARAMETER = "recipe"  # of the page's address
_IN_LINK = re.compile(rf"(?:^|[?&\s]){PARAMETER}=([^&#\s]*)")
_CODE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Recipe:
    """`controls`: without what belongs to one answer alone. `model`: the one it was made with.

    `prompt`: what to ask, "" where that is left open. Raises `T2LocalError` for what is too long.
    """

    title: str = ""
    model: str = ""
    controls: Controls = field(default_factory=Controls)
    sampling: Sampling = field(default_factory=Sampling)
    system_prompt: str = ""
    prompt: str = ""

    def __post_init__(self) -> None:
        assert self.controls.override is None, self.controls
        assert not self.controls.write, self.controls
        texts = {
            "name": (self.title, LONGEST_TITLE),
            "model's name": (self.model, LONGEST_NAME),
            "strategy": (self.controls.strategy, LONGEST_NAME),
            "system prompt": (self.system_prompt, LONGEST_TEXT),
            "prompt": (self.prompt, LONGEST_TEXT),
        }
        for what, (text, most) in texts.items():
            if len(text) > most:
                raise T2LocalError(
                    f"The recipe's {what} has {len(text):,} characters; shorten it to {most:,}."
                )
            check_encodes(text, f"the recipe's {what}")

    def missing(self, experts: Collection[str]) -> tuple[str, ...]:
        """The experts that it mixes and that are not among `experts`."""
        return tuple(name for name in self._mixed if name not in experts)

    def without(self, experts: Collection[str]) -> "Recipe":
        """The same without the α's of some experts; the base model has their share."""
        mixture = self.controls.mixture
        rest = replace(
            mixture,
            alpha=_but(mixture.alpha, experts),
            by_matrix={name: _but(alpha, experts) for name, alpha in mixture.by_matrix.items()},
        )
        return replace(self, controls=replace(self.controls, mixture=rest))

    def with_strategy(self, strategies: Sequence[str]) -> "Recipe":
        """With a strategy of those there are, best first; a named mixture is mixed by hand."""
        wanted = self.controls.strategy
        if wanted in strategies:
            return self
        by_hand = wanted.partition(":")[0] == FEW_SHOT and MANUAL in strategies
        strategy = MANUAL if by_hand else strategies[0]
        return replace(self, controls=replace(self.controls, strategy=strategy))

    def remarks(self, experts: Collection[str], strategies: Sequence[str], model: str) -> list[str]:
        """What is not here as it was where the recipe was made, a sentence each."""
        found, missing = [], self.missing(experts)
        if missing:
            names = ", ".join(f"'{word(name)}'" for name in missing[:5])
            names += f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            several = len(missing) > 1
            found.append(
                f"The expert{'s' * several} {names} {'are' if several else 'is'} not here and "
                f"{'were' if several else 'was'} left out; import {'them' if several else 'it'}, "
                "or go on with the rest."
            )
        wanted, known = self.controls.strategy, self.with_strategy(strategies).controls.strategy
        if known != wanted and wanted.partition(":")[0] != FEW_SHOT:
            found.append(f"The strategy '{wanted}' is not possible here; '{known}' decides.")
        if self.model and model and paths.slug(self.model) != paths.slug(model):
            found.append(
                f"It was made with {word(self.model)}, and {model} is loaded: experts of the same "
                "name may differ."
            )
        return found

    @property
    def _mixed(self) -> tuple[str, ...]:
        mixture = self.controls.mixture
        every = (mixture.alpha, *mixture.by_matrix.values())
        return tuple(dict.fromkeys(name for alpha in every for name, a in alpha.items() if a))


def _but(alpha: Mapping[str, float], experts: Collection[str]) -> dict[str, float]:
    return {name: a for name, a in alpha.items() if name not in experts}


def mixable(experts: Sequence[ExpertInfo]) -> list[str]:
    """The names of the experts that a recipe can mix here."""
    return [expert.name for expert in experts if expert.kind == "skill" and expert.usable]


# --- What recipes are made of.


def recipe_of_answer(chat: Chat, index: int, model: str, with_prompt: bool = False) -> Recipe:
    """The mixture with which an answer ended, by hand; its sampling as far as the chat says.

    Raises `T2LocalError` where nothing was decided for a message.
    """
    answers = chat.messages[index : index + 1] if index >= 0 else ()
    decided = answers[0].dispatch if answers else None
    if decided is None:
        raise T2LocalError("That answer has no recipe; choose another, or let the model answer.")
    sampling = readable(dict, decided.get("sampling"), chat.sampling, sampling_from_json)
    asked = [m.content for m in chat.messages[:index] if m.role == "user"]
    return Recipe(
        model=model,
        controls=replace(
            controls_from_json(chat.controls), strategy=MANUAL, mixture=mixture_of(answers[0])
        ),
        sampling=sampling_from_json(sampling),
        system_prompt=chat.system_prompt,
        prompt=asked[-1] if asked and with_prompt else "",
    )


def recipe_of_mixture(title: str, file: MixtureFile) -> Recipe:
    """What a search found, by hand."""
    controls = Controls(MANUAL, mixture=file.mixture)
    return Recipe(titled(title), file.base_model[:LONGEST_NAME], controls)


def chat_of(recipe: Recipe) -> Chat:
    """An empty chat with a recipe's settings, for whoever shows those."""
    return Chat(
        "0" * 32,
        system_prompt=recipe.system_prompt,
        controls=controls_json(recipe.controls),
        sampling=sampling_json(recipe.sampling),
    )


def titled(text: str) -> str:
    return " ".join(text.split())[:LONGEST_TITLE]


# --- To JSON and back.


def recipe_json(recipe: Recipe) -> dict[str, Any]:
    return {
        MARK: VERSION,
        "title": recipe.title,
        "model": recipe.model,
        "controls": controls_json(recipe.controls),
        "sampling": sampling_json(recipe.sampling),
        "system_prompt": recipe.system_prompt,
        "prompt": recipe.prompt,
    }


def recipe_from_json(content: Any, what: str = "The recipe") -> Recipe:
    """The inverse of `recipe_json`; absent parts take their defaults. `what` it is, in words.

    Raises `T2LocalError` for everything else.
    """
    try:
        content = typed(dict, content)
        if MARK not in content:
            raise ValueError(f"'{MARK}' is missing")
        version = typed(int, content[MARK], MARK)
        if version <= VERSION:
            return _from_json(content)
    except ValueError as error:
        raise T2LocalError(
            f"{what} cannot be read ({error}); open a file or a link that t2local made."
        ) from error
    except T2LocalError as error:
        raise T2LocalError(f"{what} cannot be used: {error}") from error
    raise T2LocalError(
        f"{what} was made by a newer t2local (format {version}); update t2local to use it."
    )


def _from_json(content: Mapping[str, Any]) -> Recipe:
    steering = typed(Steering, content.get("controls", {}), "controls")
    mixture = steering.get("mixture", {})
    every = (mixture.get("alpha", {}), *mixture.get("by_matrix", {}).values())
    if sum(map(len, every)) > MOST_ALPHAS:
        raise ValueError(f"it has more than {MOST_ALPHAS:,} α")
    names = [*mixture.get("by_matrix", {}), *(name for alpha in every for name in alpha)]
    for name in (*names, steering.get("strategy", "")):
        if len(name) > LONGEST_NAME or not all(c.isprintable() for c in name):
            raise ValueError(f"'{word(name)}' is no name")
    texts = ("title", "model", "system_prompt", "prompt")
    return Recipe(
        controls=controls_from_json(steering),
        sampling=sampling_from_json(typed(dict, content.get("sampling", {}), "sampling")),
        **{name: typed(str, content.get(name, ""), name) for name in texts},
    )


def recipe_bytes(recipe: Recipe) -> bytes:
    """A recipe's file. Raises `T2LocalError` for one that could not be read back."""
    found = json.dumps(recipe_json(recipe), ensure_ascii=False, indent=1).encode() + b"\n"
    if len(found) > MOST_BYTES:
        raise T2LocalError(
            f"This recipe would have {len(found) / 2**20:.1f} MB, the most is "
            f"{MOST_BYTES // 2**20}; give it fewer experts, or a shorter prompt."
        )
    return found


def file_name(recipe: Recipe) -> str:
    stem = paths.slug(recipe.title)[:60] if recipe.title else "recipe"
    return f"{stem}.recipe.json"


def read_recipe(path: Path, what: str = "") -> Recipe:
    """The recipe of a file, also of a mixture's that `adapt` wrote. Raises `T2LocalError`."""
    what = what or f"The recipe '{word(path.name)}'"
    try:
        content = parsed(file_bytes(path, MOST_BYTES))
    except FileNotFoundError:
        raise T2LocalError(f"{what} is no longer on disk; choose another.") from None
    except (OSError, ValueError) as error:
        raise T2LocalError(
            f"{what} cannot be read ({error}); open a file or a link that t2local made."
        ) from error
    if isinstance(content, dict) and MARK not in content and "alpha" in content:
        return recipe_of_mixture(path.stem, read_mixture(path))
    return recipe_from_json(content, what)


# --- As a link: `/?recipe=`, and the JSON deflated, in base64url.


def link_code(recipe: Recipe) -> str:
    """What follows `/?recipe=`; "" for a recipe that is too long to be a link."""
    content = json.dumps(recipe_json(recipe), ensure_ascii=False, separators=(",", ":")).encode()
    if len(content) > MOST_UNPACKED:
        return ""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    packed = packer.compress(content) + packer.flush()
    code = base64.urlsafe_b64encode(packed).rstrip(b"=").decode()
    return code if len(f"/?{PARAMETER}={code}") <= LONGEST_LINK else ""


def recipe_from_link(text: str) -> Recipe:
    """The recipe of a link, or of what follows `recipe=` in one. Raises `T2LocalError`."""
    found = _IN_LINK.search(text)
    code = (found[1] if found else text).strip()
    what = "The recipe in this link"
    try:
        return recipe_from_json(parsed(_unpacked(code)), what)
    except ValueError as error:
        raise T2LocalError(
            f"{what} cannot be read ({error}); copy all of the link, or ask for the file."
        ) from error


def is_link(text: str) -> bool:
    return _IN_LINK.search(text) is not None


def _unpacked(code: str) -> bytes:
    """At most `MOST_UNPACKED` bytes, however small they are packed. Raises `ValueError`."""
    if len(code) > LONGEST_CODE:
        raise ValueError(f"it has more than {LONGEST_CODE:,} characters")
    if not _CODE.fullmatch(code):
        raise ValueError("it has other characters than a link's")
    packed = base64.urlsafe_b64decode(code + "=" * (-len(code) % 4))
    unpacker = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        found = unpacker.decompress(packed, MOST_UNPACKED + 1)
    except zlib.error:
        raise ValueError("it is damaged") from None
    if len(found) > MOST_UNPACKED:
        raise ValueError(f"it unpacks to more than {MOST_UNPACKED // 2**10} KB")
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError("a part of it is missing, or follows it")
    return found


# --- Presets: recipes that are kept under a title.

TRASH = ".deleted"  # a folder beside the files
DELETED_KEPT_S = 86_400.0  # until a deleted one is gone for good
MOST_KEPT = 500
BUSY = "Another t2local is changing the recipes; try again in a moment."


@dataclass(frozen=True)
class Preset:
    """A recipe that is kept: `id` is its file's name."""

    id: str
    title: str


class RecipeStore:
    """The recipes of one folder; safe to call from several threads and processes."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or paths.recipes_dir()
        self.damaged: dict[str, str] = {}  # file name -> what is wrong with it
        self._lock = threading.Lock()  # around a look at the files and a change

    def list(self) -> "list[Preset]":
        """All that can be read, by title; the others are noted in `damaged`."""
        found, damaged = [], {}
        for path in self._files():
            try:
                found.append(Preset(path.stem, read_recipe(path).title or path.stem))
            except T2LocalError as error:
                damaged[path.name] = str(error)
        self.damaged = damaged
        return sorted(found, key=lambda preset: preset.title.casefold())

    def load(self, id: str) -> Recipe:
        """Raises `T2LocalError` where there is none, or it is damaged."""
        recipe = read_recipe(self._path(id))
        return recipe if recipe.title else replace(recipe, title=titled(id))

    def find(self, name: str) -> Preset | None:
        """The one with this title or id, in any letters."""
        wanted = name.strip().casefold()
        presets = self.list()
        named = [p for p in presets if p.title.casefold() == wanted]
        return next(iter(named or [p for p in presets if p.id.casefold() == wanted]), None)

    def save(self, recipe: Recipe, title: str | None = None) -> Preset:
        """Keep a recipe under its or another title, with a number behind it where that is taken."""
        with self._changing():
            presets = self.list()
            if len(presets) + len(self.damaged) >= MOST_KEPT:
                raise T2LocalError(f"{MOST_KEPT} recipes are kept, the most; delete some first.")
            wanted = recipe.title if title is None else title
            recipe = replace(recipe, title=_free_title(wanted, presets))
            id = self._free_id(recipe.title)
            self._write(id, recipe)
        return Preset(id, recipe.title)

    def rename(self, id: str, title: str) -> Preset:
        """Give one another title; its file keeps its name."""
        with self._changing():
            recipe = self.load(id)
            others = [preset for preset in self.list() if preset.id != id]
            recipe = replace(recipe, title=_free_title(title, others))
            self._write(id, recipe)
        return Preset(id, recipe.title)

    def delete(self, id: str) -> None:
        """Take one out of the list; for `DELETED_KEPT_S` it can be brought back."""
        with self._changing():
            self._purge()
            path, trash = self._path(id), self.folder / TRASH
            with paths.saving(path):
                paths.make_folder(trash)
                os.utime(path)  # when it was deleted
                paths.move(path, trash / path.name)

    def restore(self, id: str) -> Preset:
        """Bring a deleted one back. Raises `T2LocalError` where it is gone for good."""
        with self._changing():
            trashed = {path.stem: path for path in (self.folder / TRASH).glob("*.json")}
            if id not in trashed:
                raise T2LocalError("That recipe cannot be brought back any more; it is gone.")
            recipe = read_recipe(trashed[id])
            recipe = replace(recipe, title=_free_title(recipe.title or id, self.list()))
            self._write(id, recipe)
            with paths.saving(trashed[id]):
                trashed[id].unlink()
        return Preset(id, recipe.title)

    def _purge(self) -> None:
        for path in (self.folder / TRASH).glob("*.json"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime >= DELETED_KEPT_S:
                    path.unlink()

    def _write(self, id: str, recipe: Recipe) -> None:
        content = recipe_bytes(recipe)
        with paths.atomic_write(self.folder / f"{id}.json") as temporary:
            temporary.write_bytes(content)

    def _files(self) -> "list[Path]":
        return sorted(p for p in self.folder.glob("*.json") if not p.name.startswith("."))

    def _path(self, id: str) -> Path:
        """Looked up among the files that there are: an id is no path."""
        found = {path.stem: path for path in self._files()}
        if id not in found:
            raise T2LocalError("That recipe is no longer on disk; choose another from the list.")
        return found[id]

    def _free_id(self, title: str) -> str:
        """A file's name that none has, also none that was deleted and none in other letters."""
        taken = [*self._files(), *(self.folder / TRASH).glob("*.json")]
        return _numbered(paths.slug(title)[:60], "-{}", {path.stem.casefold() for path in taken})

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock, locks.holding(self.folder / ".lock", BUSY):
            yield


def _free_title(title: str, presets: Sequence[Preset]) -> str:
    title = titled(title)
    if not title:
        raise T2LocalError("The recipe has no name yet; write one, then save it.")
    return _numbered(
        title[: LONGEST_TITLE - 6], " ({})", {preset.title.casefold() for preset in presets}
    )


def _numbered(name: str, behind: str, taken: Collection[str]) -> str:
    """`name`, with a number behind it where it is taken."""
    found, number = name, 2
    while found.casefold() in taken:
        found, number = name + behind.format(number), number + 1
    return found
