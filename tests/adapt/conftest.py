"""A workshop on a two-layer random model with two random experts."""

import threading

import pytest
import torch

from t2local.adapt.applier import Applier
from t2local.adapt.dispatch import Available
from t2local.adapt.two_pass import Workshop
from t2local.models.decode.generate import PrefixCache
from t2local.svf import attach


def random_z(svf, seed, spread=0.3):
    generator = torch.Generator().manual_seed(seed)
    return {n: 1 + spread * torch.randn(r, generator=generator) for n, r in svf.ranks.items()}


@pytest.fixture
def workshop(tiny_loaded):
    loaded = tiny_loaded("llama")
    svf = attach(loaded.model)
    experts = {"math": random_z(svf, 1), "code": random_z(svf, 2), "reader": random_z(svf, 3)}
    lock = threading.RLock()
    available = Available(("math", "code"), ("math", "code"), "reader", ("math", "code", "other"))
    applier = Applier(svf, experts)
    return Workshop(loaded, applier, PrefixCache(), lambda: lock, available=available)
