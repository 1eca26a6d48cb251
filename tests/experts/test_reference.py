"""Experts of the reference repository: the weights of its formula are the weights we use."""

import math
import pickle

import pytest
import torch

from t2local.errors import T2LocalError
from t2local.experts.transfer import import_reference, read_logits
from t2local.svf import attach
from tests.svf.support import relative


@pytest.fixture
def model(tiny_loaded):
    loaded = tiny_loaded("llama")
    return loaded, attach(loaded.model)


def mlp_matrices(svf):
    return [name for name in svf.matrix_names if "mlp" in name]


def logits_for(svf, seed=0, spread=0.3):
    """`p` as there: started around 0.1, then trained away from it."""
    generator = torch.Generator().manual_seed(seed)
    return [
        0.1 + spread * torch.randn(svf.ranks[name], generator=generator)
        for name in mlp_matrices(svf)
    ]


def saved_policy(path, logits, prefix="trainable_params."):
    torch.save({f"{prefix}{i}": p for i, p in enumerate(logits)}, path)
    return path


def their_matrix(weight, multiplier):
    """`U diag(σ ⊙ m) Vᵀ · Σσ / Σ(σ ⊙ m)`, as PAPER and their `compose_new_params` have it."""
    u, sigma, vt = torch.linalg.svd(weight.double(), full_matrices=False)
    adapted = sigma * multiplier.double()
    return (u * adapted) @ vt * (sigma.sum() / adapted.sum())


def check_weights(svf, expert, multipliers):
    rebuilt = svf.rebuild(expert.z)
    for name, multiplier in zip(mlp_matrices(svf), multipliers, strict=True):
        expected = their_matrix(svf.base_layers[name].weight, multiplier)
        assert relative(rebuilt[name], expected) <= 1e-5, name


@pytest.mark.parametrize("max_mult", [1.0, 2.0])
def test_adapted_weights_are_theirs_whatever_max_mult_was(model, tmp_path, max_mult):
    loaded, svf = model
    logits = logits_for(svf)
    path = saved_policy(tmp_path / "policy_params.pt", logits)
    expert = import_reference([path], loaded, svf, "theirs")
    assert list(expert.z) == mlp_matrices(svf)
    check_weights(svf, expert, [torch.sigmoid(p) * max_mult for p in logits])


def test_named_parameters_give_the_same_expert_as_numbered_ones(model, tmp_path):
    loaded, svf = model
    logits = logits_for(svf)
    named = {
        f"{name}.weight": torch.nn.Parameter(p)
        for name, p in zip(mlp_matrices(svf), logits, strict=True)
    }
    path = tmp_path / "learnable_params.pt"
    torch.save(dict(reversed(named.items())), path)
    by_name = import_reference([path], loaded, svf, "theirs")
    numbered = saved_policy(tmp_path / "policy_params.pt", logits)
    by_number = import_reference([numbered], loaded, svf, "theirs")
    assert all(torch.equal(by_name.z[name], row) for name, row in by_number.z.items())


def test_more_than_ten_matrices_stay_in_the_order_of_their_numbers(tmp_path):
    logits = [torch.full((4,), float(i)) for i in range(12)]
    path = saved_policy(tmp_path / "policy_params.pt", logits, prefix="")
    assert [float(p[0]) for p in read_logits(path).values()] == list(range(12))


def test_a_raw_mixture_combines_p_without_the_sigmoid(model, tmp_path):
    loaded, svf = model
    first, second = logits_for(svf, 1, 0.01), logits_for(svf, 2, 0.01)
    paths = [saved_policy(tmp_path / f"{i}.pt", logits) for i, logits in enumerate((first, second))]
    expert = import_reference(paths, loaded, svf, "mixed", raw_alpha=(0.7, 0.4))
    check_weights(svf, expert, [0.7 * a + 0.4 * b for a, b in zip(first, second, strict=True)])


def test_an_untrained_policy_is_nearly_the_base_model(model, tmp_path):
    loaded, svf = model
    path = saved_policy(tmp_path / "policy_params.pt", logits_for(svf, spread=0.01))
    assert import_reference([path], loaded, svf, "new").rms < 0.01


def test_the_card_says_where_it_comes_from_and_that_nothing_was_measured(model, tmp_path):
    loaded, svf = model
    path = saved_policy(tmp_path / "policy_params.pt", logits_for(svf))
    expert = import_reference([path], loaded, svf, "theirs")
    assert expert.training["imported"]["files"] == ["policy_params.pt"]
    assert "not measured" in expert.description
    assert expert.held_out is None
    assert expert.basis_fingerprint == svf.fingerprint(expert.z)


class Evil:
    def __reduce__(self):
        return (print, ("code from a pickle ran",))


def test_code_in_a_file_is_never_run(tmp_path, capsys):
    path = tmp_path / "learnable_params.pt"
    torch.save({"model.layers.0.mlp.up_proj.weight": Evil()}, path)
    with pytest.raises(T2LocalError, match="not opened"):
        read_logits(path)
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(T2LocalError, match="not opened"):
        read_logits(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({}, "does not hold"),
        ([1, 2], "does not hold"),
        ({"0": torch.ones(3, 3)}, "does not hold"),
        ({"0": torch.tensor([math.nan])}, "does not hold"),
        ({"adaptive_weights": torch.ones(2, 1)}, "--raw-alpha"),
    ],
)
def test_a_file_that_is_none_of_theirs_is_refused(tmp_path, content, word):
    path = tmp_path / "policy_params.pt"
    torch.save(content, path)
    with pytest.raises(T2LocalError, match=word):
        read_logits(path)


def test_parameters_of_another_model_are_refused(model, tmp_path):
    loaded, svf = model
    logits = logits_for(svf)
    short = saved_policy(tmp_path / "short.pt", logits[:-1])
    with pytest.raises(T2LocalError, match="5 matrices"):
        import_reference([short], loaded, svf, "x")
    narrow = saved_policy(tmp_path / "narrow.pt", [p[:-1] for p in logits])
    with pytest.raises(T2LocalError, match="63 numbers"):
        import_reference([narrow], loaded, svf, "x")
    other = tmp_path / "other.pt"
    torch.save({f"h.{i}.mlp.weight": p for i, p in enumerate(logits)}, other)
    with pytest.raises(T2LocalError, match=r"h\.0\.mlp"):
        import_reference([other], loaded, svf, "x")


def test_a_mixture_needs_one_number_a_file_and_a_positive_sum(model, tmp_path):
    loaded, svf = model
    path = saved_policy(tmp_path / "policy_params.pt", logits_for(svf, spread=0.01))
    with pytest.raises(T2LocalError, match="--raw-alpha"):
        import_reference([path, path], loaded, svf, "x")
    with pytest.raises(T2LocalError, match="give one a file"):
        import_reference([path], loaded, svf, "x", raw_alpha=(0.5, 0.5))
    with pytest.raises(T2LocalError, match="cannot rescale"):
        import_reference([path], loaded, svf, "x", raw_alpha=(-1.0,))
