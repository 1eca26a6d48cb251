"""An expert of one model on another (paper, section 4.4 and table 5: Llama's experts on Mistral).

Also a text-only model's experts on a vision-language model that holds it, and the other way round.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch.nn import functional as F

from t2local import paths
from t2local.errors import T2LocalError
from t2local.experts.expert import IN_ORDER, TRANSFERRED, Expert, stamped
from t2local.experts.store import ExpertStore, Stored
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel, Z
from t2local.svf.targets import depth_of

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
