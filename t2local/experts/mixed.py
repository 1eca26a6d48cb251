"""A mixture as one expert: `z' = 1 + Σ α_k (z_k − 1)`, for programs that know no mixtures."""

from pathlib import Path

from t2local.experts.expert import Expert
from t2local.experts.library import Library
from t2local.experts.mixture_file import read_mixture
from t2local.experts.stamp import stamped
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel, compose


def from_mixture(path: Path, library: Library, loaded: LoadedModel, svf: SVFModel) -> Expert:
    """The expert that the mixture file `path` amounts to on this model.

    Raises `T2LocalError`: no such file, another model's, an expert it names is gone.
    """
    file = read_mixture(path)
    file.check(loaded.name, library.names())
    experts = {name: library.load(name).z for name in file.mixture.experts}
    parts = " + ".join(f"{alpha:g} {name}" for name, alpha in file.mixture.alpha.items() if alpha)
    made = Expert(
        path.stem, loaded.name, "", compose(experts, file.mixture), description=f"Mixture: {parts}."
    )
    return stamped(made, loaded, svf)
