"""Expert files: safetensors with the card as metadata, read with every check that can be made.

One float32 tensor `[r]` a matrix under the matrix's name; the metadata keys start with `t2local.`.
No pickle is ever loaded. The store knows two folders: what ships with the app and what its user
trained; a user's expert of the same name wins.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from t2local import locks, paths
from t2local.errors import T2LocalError
from t2local.experts.expert import (
    KINDS,
    SKILL,
    Expert,
    TrainingCard,
    check_name,
    transfer_warning,
)
from t2local.experts.prompt_print import PromptPrint, print_of_others
from t2local.models.decode.generate import Around
from t2local.models.load.loader import LoadedModel
from t2local.svf.basis import ROUGH
from t2local.svf.mixing import Z
from t2local.svf.model import SVFModel
from t2local.untrusted import check_encodes, file_bytes, parsed, typed

SCHEMA = "1"
OTHERS = "other.print"  # the file of the print of everyday messages, beside a model's experts
MOST_BYTES = 2**30  # of a file; the z of all matrices of an 8B model take 6 MB
MOST_HEADER_BYTES = 8 * 2**20  # card and names; a line of 100 bytes a matrix
MOST_CHARACTERS = {
    "name": 200, "base_model": 400, "basis_fingerprint": 200,
}  # fmt: skip
MOST_SHOWN = {"description": 4_000, "reward": 400, "license": 400}  # what is longer is cut
MOST_LABELS = 400  # of them, with the characters of the longest
LARGEST_Z = 1000.0  # of |z|: trained ones are within a few tenths of 1
DTYPES = ("F16", "BF16", "F32", "F64")
MATRIX_NAME = re.compile(r"[A-Za-z0-9_.-]{1,300}")
QUANTISED_TOLERANCE = 0.05  # relative, between a model and its own 4-bit or 8-bit version
SIGMA_TOLERANCE = 2e-3  # relative; machines' LAPACKs differ by far less, other weights by far more


def write_expert(expert: Expert, path: Path) -> None:
    """Write atomically.

    Texts that are only shown are cut; raises `T2LocalError` when the disk is full or not writable,
    and for a name that is too long to be read again, or one that is no text.
    """
    check_encodes(expert.name, "the expert's name")
    check_encodes(expert.description, "the expert's description")
    expert = _cut(expert)
    try:
        _check_lengths(expert)
    except ValueError as error:
        raise T2LocalError(
            f"Expert '{expert.name[:80]}' cannot be saved ({error}); shorten it."
        ) from error
    metadata = {
        "format": "pt",
        "t2local.schema": SCHEMA,
        "t2local.name": expert.name,
        "t2local.description": expert.description,
        "t2local.base_model": expert.base_model,
        "t2local.basis_fingerprint": expert.basis_fingerprint,
        "t2local.reward": expert.reward,
        "t2local.training": json.dumps(dict(expert.training), sort_keys=True),
        "t2local.license": expert.license,
        "t2local.kind": expert.kind,
        "t2local.labels": json.dumps(list(expert.labels)),
        "t2local.sigma": json.dumps({k: list(v) for k, v in expert.sigma_check.items()}),
    }
    if expert.prompt_print is not None:
        metadata["t2local.print"] = expert.prompt_print.text()
    tensors = {
        name: row.detach().to("cpu", torch.float32).contiguous() for name, row in expert.z.items()
    }
    with paths.atomic_write(path) as temporary:
        # Not `save_file`: its error does not say that a full disk was the reason.
        temporary.write_bytes(save(tensors, metadata=metadata))


def read_expert(path: Path) -> Expert:
    """Read an expert file and check that its card and its numbers can be used.

    Raises `T2LocalError`: no such file, damaged, not an expert, numbers that are no `z`.
    """
    if not path.is_file():
        raise T2LocalError(f"There is no expert file '{path}'; see `experts list` for those here.")
    try:
        metadata, z = _unpacked(file_bytes(path, MOST_BYTES))
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise T2LocalError(
            f"Expert file '{path.name}' is damaged ({error}); copy it again or retrain it."
        ) from error
    try:
        expert = _from_metadata(metadata, z)
        _check_card(expert)
    except ValueError as error:
        raise T2LocalError(
            f"'{path.name}' is not a t2local expert file (its card cannot be used "
            f"({error})); choose a file made by `t2local train` or `experts import`."
        ) from error
    _check_numbers(expert)
    return expert


def _unpacked(content: bytes) -> tuple[dict[str, str], Z]:
    """The strings and the rows of a safetensors file; its header is read with our own limits."""
    n_header = int.from_bytes(content[:8], "little")
    if n_header > MOST_HEADER_BYTES:
        raise ValueError(f"its header has {n_header} bytes, the most is {MOST_HEADER_BYTES}")
    header = typed(dict, parsed(content[8 : 8 + n_header]))
    metadata = typed(dict[str, str], header.pop("__metadata__", {}), "__metadata__")
    for name, about in header.items():
        kind = typed(dict, about, name).get("dtype")
        if kind not in DTYPES:
            raise ValueError(f"'{name[:100]}' holds {kind}, not {', '.join(DTYPES)}")
    rows = load(content).items()
    return metadata, {name: row.to(torch.float32, copy=True) for name, row in rows}


def _from_metadata(metadata: dict[str, str], z: Z) -> Expert:
    """Raises `ValueError` for a card of another schema, without a needed entry, of other types."""
    for key in ("schema", "name", "base_model", "basis_fingerprint"):
        if f"t2local.{key}" not in metadata:
            raise ValueError(f"it lacks 't2local.{key}'")
    if metadata["t2local.schema"] != SCHEMA:
        raise ValueError(f"schema {metadata['t2local.schema']}, this version reads {SCHEMA}")
    training = typed(dict, parsed(metadata.get("t2local.training", "{}"), finite=False), "training")
    expert = Expert(
        name=metadata["t2local.name"],
        description=metadata.get("t2local.description", ""),
        base_model=metadata["t2local.base_model"],
        basis_fingerprint=metadata["t2local.basis_fingerprint"],
        reward=metadata.get("t2local.reward", ""),
        training=_usable(training),
        license=metadata.get("t2local.license", ""),
        kind=metadata.get("t2local.kind", SKILL),
        labels=_json(metadata, "labels", tuple[str, ...], "[]"),
        sigma_check=_json(metadata, "sigma", Mapping[str, tuple[float, ...]], "{}"),
        prompt_print=_print(metadata),
        z=z,
    )
    return _cut(expert)


def _print(metadata: Mapping[str, str]) -> PromptPrint | None:
    """None also for one that cannot be used: it can be taken anew, and no `z` is thrown away."""
    with contextlib.suppress(ValueError):
        return PromptPrint.from_text(metadata.get("t2local.print", ""))
    return None


def _usable(training: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a card that can be shown; for one that cannot, no `z` is thrown away."""
    kinds, found = TrainingCard.__annotations__, {}
    for name, value in training.items():
        with contextlib.suppress(ValueError):
            json.dumps(value, allow_nan=False)
            known = typed(kinds.get(name, Any), value, name)
            # As it was written, but 3.0 steps are 3.
            found[name] = known if kinds.get(name) is int else value
    return found


def _cut(expert: Expert) -> Expert:
    """The expert with no text longer than a page should send again and again."""
    texts = {name: (getattr(expert, name), most) for name, most in MOST_SHOWN.items()}
    return replace(expert, **{n: t[: m - 1] + "…" for n, (t, m) in texts.items() if len(t) > m})


def _json(metadata: dict[str, str], key: str, kind: Any, default: str) -> Any:
    return typed(kind, parsed(metadata.get(f"t2local.{key}", default)), key)


def _check_card(expert: Expert) -> None:
    """Raise `ValueError` for a card that no page can show, or no dispatcher use."""
    if expert.kind not in KINDS:
        raise ValueError(f"the kind '{expert.kind[:40]}' is none of {', '.join(KINDS)}")
    _check_lengths(expert)
    _ = expert.held_out, expert.forgetting, expert.curve


def _check_lengths(expert: Expert) -> None:
    """Raise `ValueError` for an identity that no page should send again and again."""
    texts = {name: len(getattr(expert, name)) for name in MOST_CHARACTERS}
    texts |= {"labels": max(map(len, expert.labels), default=0) + len(expert.labels)}
    for name, found in texts.items():
        most = MOST_CHARACTERS.get(name, MOST_LABELS)
        if found > most:
            raise ValueError(f"its {name} takes {found:,} characters, the most is {most:,}")


def _check_numbers(expert: Expert) -> None:
    if not expert.z:
        raise T2LocalError(f"Expert '{expert.name}' holds no matrices; retrain it.")
    for name, row in expert.z.items():
        if fault := _fault(name, row):
            raise T2LocalError(
                f"Expert '{expert.name}' holds {fault}; it cannot be used: "
                "retrain it, or fetch the file again."
            )


def _fault(name: str, row: torch.Tensor) -> str:
    """What keeps `row` `[r]` from being the `z` of a matrix, "" where nothing does."""
    if not MATRIX_NAME.fullmatch(name):
        return "a matrix whose name no model has"
    if row.dim() != 1 or not len(row):
        return f"shape {list(row.shape)} in '{name}'"
    if not torch.isfinite(row).all():
        return f"NaN or infinity in '{name}'"
    if (largest := float(row.abs().max())) > LARGEST_Z:
        return f"z = {largest:.3g} in '{name}', beyond {LARGEST_Z:g}"
    return ""


def check_fits(expert: Expert, svf: SVFModel, model_name: str, quantization: str) -> str:
    """Refuse an expert that was made for other weights; give a warning where it is *transferred*.

    Returns "" for a perfect match, else one sentence to show (same model, other quantisation; an
    expert of another model that was taken over).
    Raises `T2LocalError` for another model or another basis, each with its own sentence.
    """
    same_model = paths.slug(expert.base_model) == paths.slug(model_name)
    fits = all(svf.ranks.get(name) == row.shape[0] for name, row in expert.z.items())
    if not same_model:
        raise T2LocalError(
            f"Expert '{expert.name}' was trained on {expert.base_model}; the loaded model is "
            f"{model_name}; load that model or train a new expert."
        )
    if not fits:
        raise T2LocalError(
            f"Expert '{expert.name}' names matrices or lengths that {model_name} as loaded does "
            "not adapt; load it with --targets all, or train a new expert."
        )
    if expert.basis_fingerprint == svf.fingerprint(expert.z):
        return transfer_warning(expert) or _rough_warning(expert, svf)
    trained_with = str(expert.training.get("quantization", "none"))
    transferred = trained_with != quantization
    if not _sigma_agrees(expert, svf, QUANTISED_TOLERANCE if transferred else SIGMA_TOLERANCE):
        raise T2LocalError(
            f"Expert '{expert.name}' belongs to another basis: the weights of {model_name} here "
            "are not those it was trained on (fingerprints and singular values differ); load the "
            "same revision or train a new expert."
        )
    if transferred:
        return (
            f"'{expert.name}' is transferred: trained on {model_name} with quantization "
            f"{trained_with}, used with {quantization}; its measured accuracy may not hold."
        )
    return f"'{expert.name}' is transferred: the weights of {model_name} here differ slightly."


def _rough_warning(expert: Expert, svf: SVFModel) -> str:
    """ "" unless either the training's bases or those here are rough and the others are not."""
    there, here = str(expert.training.get("basis", "finer")), svf.basis_dtype
    if there == here or ROUGH not in (there, here):
        return ""
    return (
        f"'{expert.name}' was trained on {there} bases and is used on {here} ones; {ROUGH} rounds "
        "about a sixth of an expert's change away, so its measured accuracy may not hold."
    )


def _sigma_agrees(expert: Expert, svf: SVFModel, tolerance: float) -> bool:
    if not expert.sigma_check:
        return False
    here = svf.singular_values
    for name, values in expert.sigma_check.items():
        found = here[name][: len(values)].cpu() if name in here else torch.empty(0)
        expected = torch.tensor(values)
        same_length = found.shape == expected.shape
        if not same_length or not torch.allclose(found, expected, rtol=tolerance):
            return False
    return True


@dataclass(frozen=True)
class Stored:
    """An expert file in the store. `problem`: why it cannot be used, else ""."""

    path: Path
    expert: Expert | None
    shipped: bool
    problem: str = ""


def _under_its_name(path: Path) -> Expert:
    """The expert of a store's file; of one that was renamed by hand, the file's name counts.

    Raises `T2LocalError` for a damaged file, and a name that no expert can have.
    """
    expert = read_expert(path)
    if paths.slug(expert.name).casefold() != path.stem.casefold():
        return replace(expert, name=check_name(path.stem))
    check_name(expert.name)
    return expert


class ExpertStore:
    """The experts for one base model: shipped ones and the user's own."""

    def __init__(self, model_slug: str) -> None:
        self.shipped_folder = paths.SHIPPED_EXPERTS / model_slug
        self.own_folder = paths.experts_dir() / model_slug

    def files(self) -> list[Stored]:
        """Every expert file, damaged ones included with their problem, by name."""
        found: dict[str, Stored] = {}
        for folder, shipped in ((self.shipped_folder, True), (self.own_folder, False)):
            for path in sorted(folder.glob("*.safetensors")):
                try:
                    found[path.stem] = Stored(path, _under_its_name(path), shipped)
                except T2LocalError as error:
                    found[path.stem] = Stored(path, None, shipped, str(error))
        return [found[name] for name in sorted(found)]

    def load(self, name: str) -> Expert:
        """Raises `T2LocalError` for an unknown name (listing those there are) or a damaged file."""
        for folder in (self.own_folder, self.shipped_folder):
            if (path := folder / f"{paths.slug(name)}.safetensors").is_file():
                return _under_its_name(path)
        known = ", ".join(f.path.stem for f in self.files()) or "none yet"
        raise T2LocalError(f"There is no expert '{name}' for this model; there are: {known}.")

    def print_of_others(self, loaded: LoadedModel) -> PromptPrint | None:
        """That of everyday messages for this model; None where it is still to be taken."""
        for folder in (self.own_folder, self.shipped_folder):
            with contextlib.suppress(OSError, ValueError):
                taken = PromptPrint.from_text(file_bytes(folder / OTHERS, MOST_BYTES).decode())
                if taken.fits(loaded):
                    return taken
        return None

    def know_others(self, loaded: LoadedModel, around: Around = nullcontext) -> PromptPrint:
        """The print of everyday messages; taken and kept now where there is none that fits.

        `around()` puts the base model in force. Raises `T2LocalError` when it cannot be kept.
        """
        known = self.print_of_others(loaded)
        if known is None:
            known = print_of_others(loaded, around)
            self.save_print_of_others(known)
        return known

    def save_print_of_others(self, prints: PromptPrint) -> Path:
        """Keep it for this model. Raises `T2LocalError` when the disk is full or not writable."""
        path = self.own_folder / OTHERS
        with paths.atomic_write(path) as temporary:
            temporary.write_text(prints.text(), encoding="utf-8")
        return path

    @contextlib.contextmanager
    def changing(self, timeout_s: float = 10.0) -> Iterator[None]:
        """Nobody else changes the user's own experts inside the block: between a look at which
        names are free and the file of one. Raises `T2LocalError` when somebody is long at it.
        """
        words = "Another t2local is changing the experts of this model just now; try again."
        with locks.holding(self.own_folder / ".lock", words, timeout_s):
            yield

    def save(self, expert: Expert) -> Path:
        """Save among the user's own experts, replacing one of the same name."""
        path = self.own_folder / f"{paths.slug(expert.name)}.safetensors"
        write_expert(expert, path)
        return path
