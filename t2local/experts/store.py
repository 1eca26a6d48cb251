"""Expert files: safetensors with the card as metadata, read with every check that can be made.

One float32 tensor `[r]` a matrix under the matrix's name; the metadata keys start with `t2local.`.
No pickle is ever loaded. The store knows two folders: what ships with the app and what its user
trained; a user's expert of the same name wins.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from t2local import paths
from t2local.errors import T2LocalError
from t2local.experts.expert import SKILL, Expert, transfer_warning
from t2local.svf.model import SVFModel

SCHEMA = "1"
QUANTISED_TOLERANCE = 0.05  # relative, between a model and its own 4-bit or 8-bit version
SIGMA_TOLERANCE = 2e-3  # relative; machines' LAPACKs differ by far less, other weights by far more


def write_expert(expert: Expert, path: Path) -> None:
    """Write atomically. Raises `T2LocalError` when the disk is full or not writable."""
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
    tensors = {
        name: row.detach().to("cpu", torch.float32).contiguous() for name, row in expert.z.items()
    }
    with paths.atomic_write(path) as temporary:
        # Not `save_file`: its error does not say that a full disk was the reason.
        temporary.write_bytes(save(tensors, metadata=metadata))


def read_expert(path: Path) -> Expert:
    """Read an expert file and check that its numbers can be used.

    Raises `T2LocalError`: no such file, damaged, not an expert, not finite.
    """
    if not path.is_file():
        raise T2LocalError(f"There is no expert file '{path}'; see `experts list` for those here.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            z = {name: _copied(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise T2LocalError(
            f"Expert file '{path.name}' is damaged ({error}); copy it again or retrain it."
        ) from error
    try:
        expert = _from_metadata(metadata, z)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise T2LocalError(
            f"'{path.name}' is not a t2local expert file (its card lacks or garbles {error}); "
            "choose a file made by `t2local train` or `experts import`."
        ) from error
    _check_numbers(expert)
    return expert


def _copied(row: torch.Tensor) -> torch.Tensor:
    """Of its own memory: a view would keep the file open, which Windows can then not replace."""
    return row.to(torch.float32, copy=True)


def _from_metadata(metadata: dict[str, str], z: dict[str, torch.Tensor]) -> Expert:
    if metadata["t2local.schema"] != SCHEMA:
        raise ValueError(f"schema {metadata['t2local.schema']}, this version reads {SCHEMA}")
    sigma = json.loads(metadata.get("t2local.sigma", "{}"))
    expert = Expert(
        name=metadata["t2local.name"],
        description=metadata.get("t2local.description", ""),
        base_model=metadata["t2local.base_model"],
        basis_fingerprint=metadata["t2local.basis_fingerprint"],
        reward=metadata.get("t2local.reward", ""),
        training=json.loads(metadata.get("t2local.training", "{}")),
        license=metadata.get("t2local.license", ""),
        kind=metadata.get("t2local.kind", SKILL),
        labels=tuple(json.loads(metadata.get("t2local.labels", "[]"))),
        sigma_check={name: tuple(values) for name, values in sigma.items()},
        z=z,
    )
    _ = expert.held_out, expert.forgetting, expert.curve  # garbled ones are found now
    return expert


def _check_numbers(expert: Expert) -> None:
    if not expert.z:
        raise T2LocalError(f"Expert '{expert.name}' holds no matrices; retrain it.")
    for name, row in expert.z.items():
        if row.dim() != 1 or not torch.isfinite(row).all():
            found = "NaN or infinity" if row.dim() == 1 else f"shape {list(row.shape)}"
            raise T2LocalError(
                f"Expert '{expert.name}' holds {found} in '{name}'; it cannot be used: "
                "retrain it, or fetch the file again."
            )


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
        return transfer_warning(expert)
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
                    found[path.stem] = Stored(path, read_expert(path), shipped)
                except T2LocalError as error:
                    found[path.stem] = Stored(path, None, shipped, str(error))
        return [found[name] for name in sorted(found)]

    def load(self, name: str) -> Expert:
        """Raises `T2LocalError` for an unknown name (listing those there are) or a damaged file."""
        for folder in (self.own_folder, self.shipped_folder):
            if (path := folder / f"{paths.slug(name)}.safetensors").is_file():
                return read_expert(path)
        known = ", ".join(f.path.stem for f in self.files()) or "none yet"
        raise T2LocalError(f"There is no expert '{name}' for this model; there are: {known}.")

    def save(self, expert: Expert) -> Path:
        """Save among the user's own experts, replacing one of the same name."""
        path = self.own_folder / f"{paths.slug(expert.name)}.safetensors"
        write_expert(expert, path)
        return path
