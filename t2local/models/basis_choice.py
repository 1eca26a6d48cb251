"""What `--basis auto` means for a loaded model on this machine."""

from t2local.models.fit.anatomy import TARGETS, anatomy
from t2local.models.fit.automatic import choose_basis
from t2local.models.fit.memory import free_bytes
from t2local.models.load.loader import LoadedModel


def basis_for(loaded: LoadedModel, asked: str = "auto", targets: str = "all") -> str:
    """`asked`, or int8 on a GPU, or on the CPU the model's own dtype while there is room.

    A pattern of one's own as `targets` counts as all matrices.
    """
    if asked != "auto":
        return asked
    device = "cuda" if loaded.device.startswith("cuda") else "cpu"
    kind = targets if targets in TARGETS else "all"
    parts = anatomy(loaded.model.config)
    return choose_basis(parts, free_bytes(loaded.device), device, loaded.dtype, kind)
