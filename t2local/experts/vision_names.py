"""A text-only model's experts on a vision-language model that holds it, and the other way round.

The same matrix is `model.layers.3.mlp.up_proj` in the one and
`model.language_model.layers.3.mlp.up_proj` in the other. Where the weights are the same, the
renamed expert is one of the model like any other; where the language model was trained further, it
is labelled as transferred (so are Llama's experts on LLaVA-NeXT, in the paper too), which
`check_fits` turns into a sentence to show.
"""

from collections.abc import Iterable
from dataclasses import replace

from t2local import paths
from t2local.errors import T2LocalError
from t2local.experts.expert import Expert
from t2local.experts.stamp import stamped
from t2local.experts.store import ExpertStore, Stored
from t2local.experts.transfer import transfer
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel


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
