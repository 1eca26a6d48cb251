"""A small expert for a two-layer random model, as a training run would have made it."""

from dataclasses import replace
from typing import Any

from t2local.experts import Expert, HeldOut
from t2local.svf import SVFModel
from tests.svf.support import random_z

MODEL = "tiny-llama"
HELD_OUT = HeldOut(200, 0.40, 0.55, (0.08, 0.22), "counting")


def small_expert(svf: SVFModel, **changes: Any) -> Expert:
    """An expert for `svf`, of the model `MODEL`, with a full card."""
    z, sigma = random_z(svf, rms=0.02), svf.singular_values
    expert = Expert(
        name="counting",
        base_model=MODEL,
        basis_fingerprint=svf.fingerprint(z),
        z=z,
        description="Counts legs; 7 spiders have 56.",
        reward="numeric",
        training={"steps": 3, "seed": 1, "quantization": "none", "held_out": HELD_OUT.as_dict()},
        sigma_check={name: tuple(sigma[name][:3].tolist()) for name in svf.matrix_names[::3]},
    )
    return replace(expert, **changes)
