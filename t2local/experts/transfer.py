"""Experts from elsewhere: of another model, and of the paper's reference repository.

An expert of one model on another (paper, section 4.4 and table 5: Llama's experts on Mistral); a
text-only model's experts on a vision-language model that holds it, and the other way round; and the
files of SakanaAI/self-adaptive-llms.
"""

import hashlib
import pickle
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import functional as F

from t2local import paths
from t2local.errors import T2LocalError
from t2local.experts.expert import IN_ORDER, TRANSFERRED, Expert, stamped
from t2local.experts.store import ExpertStore, Stored
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel, Z
from t2local.svf.basis import depth_of

SHUFFLED = "shuffled"
ORDERS = (IN_ORDER, SHUFFLED)


def transfer(
    expert: Expert,
    loaded: LoadedModel,
    svf: SVFModel,
    name: str = "",
    order: str = IN_ORDER,
    seed: int = 0,
) -> Expert:
    """`expert` as an expert of `loaded`, labelled as transferred; not measured there.

    Raises `T2LocalError` where no matrix has a counterpart, or nothing has to be transferred.
    """
    if order not in ORDERS:
        raise T2LocalError(f"The order '{order}' is unknown; choose {' or '.join(ORDERS)}.")
    if order == IN_ORDER and expert.basis_fingerprint == svf.fingerprint(expert.z):
        raise T2LocalError(
            f"Expert '{expert.name}' was made for the very weights of {loaded.name}; "
            "use it as it is."
        )
    same_model = paths.slug(expert.base_model) == paths.slug(loaded.name)  # maybe quantised
    sources = counterparts(expert.z, svf.ranks, same_depth=same_model)
    if not sources:
        raise T2LocalError(
            f"Expert '{expert.name}' of {expert.base_model} names no matrix that {loaded.name} has "
            f"(its first is '{next(iter(expert.z))}', the model's '{svf.matrix_names[0]}'); "
            "choose a model of the same family."
        )
    z = {target: resampled(expert.z[there], svf.ranks[target]) for target, there in sources.items()}
    if order == SHUFFLED:
        z = shuffled(z, seed)
    resized = sum(svf.ranks[t] != len(expert.z[there]) for t, there in sources.items())
    label = {
        "expert": expert.name,
        "from_model": expert.base_model,
        "from_fingerprint": expert.basis_fingerprint,
        "from_quantization": expert.training.get("quantization", "none"),
        "order": order,
        "matrices": len(z),
        "resampled": resized,
        "held_out_there": expert.training.get("held_out"),
    } | ({"seed": seed} if order == SHUFFLED else {})
    kept = {k: v for k, v in expert.training.items() if k in ("data", "data_sha256", "config")}
    moved = replace(
        expert,
        name=name or f"{expert.name}-transferred",
        z=z,
        description=f"Transferred from {expert.base_model} ({order}). {expert.description}".strip(),
        training={**kept, TRANSFERRED: label},
        prompt_print=expert.prompt_print if same_model else None,
    )
    return stamped(moved, loaded, svf)


def counterparts(
    theirs: Iterable[str], ours: Iterable[str], same_depth: bool = False
) -> dict[str, str]:
    """Our matrix name -> the name of theirs that it takes `z` from, in our order.

    The part behind the layer number must be equal; the layer is the one of the same number
    (`same_depth`), or at the same relative depth: the last one that `theirs` names counts as the
    last of their model, since an expert does not say how many layers that has.
    """
    numbered = [name for name in theirs if depth_of(name) is not None]
    if not numbered:
        return {}
    at = {(_kind(name), depth_of(name)): name for name in numbered}
    ours = list(ours)
    last_there = max(depth for _, depth in at)
    last_here = max(depth_of(name) for name in ours)
    scale = 1.0 if same_depth or not last_here else last_there / last_here
    wanted = {name: (_kind(name), round(depth_of(name) * scale)) for name in ours}
    return {name: at[key] for name, key in wanted.items() if key in at}


def resampled(row: torch.Tensor, rank: int) -> torch.Tensor:
    """`z` `[r]` as `[rank]`, linearly along the order of σ, first to first and last to last."""
    if len(row) == rank:
        return row
    return F.interpolate(row[None, None], size=rank, mode="linear", align_corners=True)[0, 0]


def shuffled(z: Z, seed: int) -> Z:
    """The same numbers of each matrix in a random order."""
    generator = torch.Generator().manual_seed(seed)
    return {name: row[torch.randperm(len(row), generator=generator)] for name, row in z.items()}


def _kind(name: str) -> str:
    """`model.layers.3.mlp.up_proj` -> `mlp.up_proj`."""
    parts = name.split(".")
    number = next(i for i, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[number + 1 :])


# --- Text-only models and the vision-language models that hold them.
#
# `model.layers.3.mlp.up_proj` of the one is `model.language_model.layers.3.mlp.up_proj` of the
# other. Where the weights are the same, the renamed expert is one of the model like any other.
# Where the language model was trained further, it is labelled as transferred (the paper's experts
# for LLaVA-NeXT are such), and `check_fits` says so.


def taken_over(loaded: LoadedModel, svf: SVFModel) -> list[Stored]:
    """The experts of the language model inside `loaded`, as experts of `loaded`.

    Its own of the same name stay instead. Empty for a text-only model, or where the config does not
    say which language model it holds.
    """
    if loaded.pictures is None or not loaded.pictures.language_model:
        return []
    own = {file.path.stem for file in ExpertStore(loaded.slug).files()}
    files = ExpertStore(paths.slug(loaded.pictures.language_model)).files()
    return [_taken_over(f, loaded, svf) for f in files if f.path.stem not in own]


def _taken_over(file: Stored, loaded: LoadedModel, svf: SVFModel) -> Stored:
    if file.expert is None:
        return file
    try:
        return replace(file, expert=as_expert_of(file.expert, loaded, svf))
    except T2LocalError as error:
        return replace(file, expert=None, problem=str(error))


def as_expert_of(expert: Expert, loaded: LoadedModel, svf: SVFModel) -> Expert:
    """`expert` with the matrix names of `loaded`: the very same where the weights are.

    Raises `T2LocalError` where the two models share no matrix.
    """
    names = renamed(expert.z, svf.matrix_names)
    here = {ours: theirs for theirs, ours in names.items()}
    if len(names) == len(expert.z) and _same_weights(expert, svf, here):
        z = {names[theirs]: row for theirs, row in expert.z.items()}
        return stamped(replace(expert, z=z), loaded, svf)
    return transfer(expert, loaded, svf, name=expert.name)


def renamed(theirs: Iterable[str], ours: Iterable[str]) -> dict[str, str]:
    """Their matrix name -> ours, of those whose part from the layer's number on is equal.

    >>> renamed(["model.layers.0.mlp.up_proj"], ["model.language_model.layers.0.mlp.up_proj"])
    {'model.layers.0.mlp.up_proj': 'model.language_model.layers.0.mlp.up_proj'}
    """
    here = {_from_number(name): name for name in ours}
    return {name: here[_from_number(name)] for name in theirs if _from_number(name) in here}


def _same_weights(expert: Expert, svf: SVFModel, here: dict[str, str]) -> bool:
    fits = all(svf.ranks[ours] == len(expert.z[theirs]) for ours, theirs in here.items())
    return fits and svf.fingerprint(here, elsewhere=here) == expert.basis_fingerprint


def _from_number(name: str) -> str:
    """`model.layers.3.mlp.up_proj` -> `3.mlp.up_proj`."""
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[number:])


# --- Experts of the paper's reference repository (SakanaAI/self-adaptive-llms) as ours.
#
# There a matrix's number is a logit `p`: `m = sigmoid(p) · max_mult`, and the matrix built from it
# is rescaled so that its nuclear norm stays. Both are folded into our multiplier:
#
#     z = m · Σσ / Σ(σ ⊙ m)
#
# `max_mult` cancels, so nobody has to know it. Its few-shot mixtures take the combined `p`s for `m`
# themselves, without the sigmoid: `raw_alpha`. `policy_params.pt` holds `p`s in the order of the
# model's MLP matrices, `learnable_params.pt` by name. Only tensors are unpickled (`weights_only`).

ADAPTED = "mlp"  # the reference code adapts every matrix with this in its name
WEIGHT = ".weight"


def import_reference(
    files: Sequence[Path],
    loaded: LoadedModel,
    svf: SVFModel,
    name: str,
    raw_alpha: Sequence[float] | None = None,
) -> Expert:
    """One file as an expert of `loaded`, or several as a raw mixture `m = Σ α_k p_k`.

    `raw_alpha`: one α a file, as the reference code's few-shot mixture ended with. Raises
    `T2LocalError`: no such file, not such a file, other matrices or lengths than this model's.
    """
    if raw_alpha is None and len(files) != 1:
        raise T2LocalError(
            f"{len(files)} files make one expert only as a mixture; give --raw-alpha with a "
            "number for each, or import them one by one."
        )
    if raw_alpha is not None and len(raw_alpha) != len(files):
        raise T2LocalError(
            f"{len(raw_alpha)} numbers in --raw-alpha and {len(files)} files; give one a file."
        )
    logits = [_by_matrix(path, read_logits(path), svf) for path in files]
    if raw_alpha is None:
        multipliers = {matrix: torch.sigmoid(p) for matrix, p in logits[0].items()}
    else:
        multipliers = _combined(logits, raw_alpha, [path.name for path in files])
    z = keeping_nuclear_norm(multipliers, svf.singular_values, name)
    origin = {
        "files": [path.name for path in files],
        "sha256": [hashlib.sha256(path.read_bytes()).hexdigest() for path in files],
        "raw_alpha": None if raw_alpha is None else list(raw_alpha),
    }
    what = "expert" if raw_alpha is None else "raw mixture"
    return stamped(
        Expert(
            name=name,
            base_model=loaded.name,
            basis_fingerprint="",
            z=z,
            description=f"Imported from the reference repository's {what} {files[0].name}; "
            "its accuracy was not measured here.",
            license="as its maker says",
            training={"imported": origin},
        ),
        loaded,
        svf,
    )


def read_logits(path: Path) -> dict[str, torch.Tensor]:
    """The numbers `p` `[r]` of a file under its own keys, in its own order.

    Raises `T2LocalError` for a file that is missing, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise T2LocalError(
            f"There is no file '{path}'; give policy_params.pt or learnable_params.pt."
        )
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile) as e:
        raise T2LocalError(
            f"'{path.name}' is damaged or holds more than numbers, so it was not opened; give the "
            "reference repository's policy_params.pt or learnable_params.pt."
        ) from e
    rows = found if isinstance(found, dict) else {}
    if "adaptive_weights" in rows:
        raise T2LocalError(
            f"'{path.name}' is a few-shot mixture; give the policy_params.pt of its experts with "
            "its weights as --raw-alpha."
        )
    vectors = [p for p in rows.values() if isinstance(p, torch.Tensor) and p.dim() == 1]
    if not rows or len(vectors) < len(rows) or not all(torch.isfinite(p).all() for p in vectors):
        raise T2LocalError(
            f"'{path.name}' does not hold one row of finite numbers for each matrix; give the "
            "reference repository's policy_params.pt or learnable_params.pt."
        )
    return {str(key): p.detach().double() for key, p in rows.items()}


def keeping_nuclear_norm(multipliers: Z, sigma: Z, name: str) -> Z:
    """`z = m · Σσ / Σ(σ ⊙ m)` matrix by matrix, in float64. Raises `T2LocalError` for Σ ≤ 0."""
    z: Z = {}
    for matrix, row in multipliers.items():
        values = sigma[matrix].double().cpu()
        total = (values * row).sum()
        if total <= 0:
            raise T2LocalError(
                f"'{name}' would turn '{matrix}' around (Σ σ·m is {float(total):.3g}, not above "
                "0), which the reference code cannot rescale; choose other α."
            )
        z[matrix] = row * values.sum() / total
    return z


def _by_matrix(path: Path, logits: dict[str, torch.Tensor], svf: SVFModel) -> Z:
    """`p` under this model's matrix names: by name where the file has names, else by position."""
    expected = [matrix for matrix in svf.matrix_names if ADAPTED in matrix]
    numbered = all(key.rpartition(".")[2].isdigit() for key in logits)
    if numbered:
        in_order = sorted(logits, key=lambda key: int(key.rpartition(".")[2]))
        named = dict(zip(expected, (logits[key] for key in in_order), strict=False))
    else:
        named = {key.removesuffix(WEIGHT): p for key, p in logits.items()}
    unknown = [matrix for matrix in named if matrix not in svf.ranks]
    if len(logits) != len(expected) or unknown:
        example = f", such as '{unknown[0]}'" if unknown else ""
        raise T2LocalError(
            f"'{path.name}' holds {len(logits)} matrices{example}; this model has "
            f"{len(expected)} MLP matrices under SVF; load the model it was trained on, with all "
            "matrices as targets."
        )
    for matrix, p in named.items():
        if len(p) != svf.ranks[matrix]:
            raise T2LocalError(
                f"'{path.name}' has {len(p)} numbers for '{matrix}'; this model needs "
                f"{svf.ranks[matrix]}; load the model it was trained on."
            )
    return named


def _combined(logits: Sequence[Z], alpha: Sequence[float], names: Sequence[str]) -> Z:
    first = logits[0]
    for name, other in zip(names[1:], logits[1:], strict=True):
        if other.keys() != first.keys():
            raise T2LocalError(
                f"'{name}' holds other matrices than '{names[0]}'; mix experts of one model."
            )
    return {
        matrix: sum(a * p[matrix] for a, p in zip(alpha, logits, strict=True)) for matrix in first
    }
