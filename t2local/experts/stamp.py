"""What ties an expert to the weights it was made for: fingerprint, singular values, quantisation.

Knows nothing of how `z` came about.
"""

from dataclasses import replace

import torch

from t2local.experts.expert import Expert
from t2local.models.load import LoadedModel
from t2local.svf import SVFModel

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
