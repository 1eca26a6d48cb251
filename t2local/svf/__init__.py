"""Singular value fine-tuning: `W' = U diag(σ ⊙ z) Vᵀ` beside an untouched base model."""

from t2local.svf.fused import ZBuffer
from t2local.svf.mixing import Gains, Mixture, Z, compose, mix
from t2local.svf.model import SVFModel, attach, attaching

__all__ = [
    "Gains",
    "Mixture",
    "SVFModel",
    "Z",
    "ZBuffer",
    "attach",
    "attaching",
    "compose",
    "mix",
]
