"""What ties an expert to the weights it was made for: fingerprint, singular values, quantisation.

Knows nothing of how `z` came about.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch

from t2local.experts.expert import Expert
from t2local.models.load.loader import LoadedModel
from t2local.svf import SVFModel

TRANSFERRED = "transferred"  # the key in an expert's card
IN_ORDER = "in-order"

SIGMA_CHECKED = 6  # matrices whose largest singular values travel with an expert


def stamped(expert: Expert, loaded: LoadedModel, svf: SVFModel) -> Expert:
    """`expert` as one of `loaded`: its `z` on the CPU, with what identifies the weights."""
    step = max(1, len(svf.matrix_names) // SIGMA_CHECKED)
    sigma = svf.singular_values
    return replace(
        expert,
        base_model=loaded.name,
        basis_fingerprint=svf.fingerprint(expert.z),
        z={m: row.detach().to("cpu", torch.float32, copy=True) for m, row in expert.z.items()},
        training={**expert.training, "quantization": loaded.quantization},
        sigma_check={
            m: tuple(sigma[m][:3].tolist()) for m in svf.matrix_names[::step][:SIGMA_CHECKED]
        },
    )


def transfer_warning(expert: Expert) -> str:
    """One sentence to show beside a transferred expert; "" for one trained where it is used."""
    label = expert.training.get(TRANSFERRED)
    if not isinstance(label, Mapping):
        return ""
    resized = f", {label['resampled']} matrices resampled" if label.get("resampled") else ""
    known = expert.held_out is not None
    measured = "its card says what was measured" if known else "its accuracy was not measured here"
    return (
        f"'{expert.name}' is transferred: trained on {label.get('from_model', 'another model')} "
        f"(quantization {label.get('from_quantization', 'unknown')}), taken over "
        f"{label.get('order', IN_ORDER)}{resized}; {measured}."
    )
