"""The algebra of mixtures: exact at its corners, linear in between, gains that stay in place."""

import pytest
import torch

from t2local.errors import T2LocalError
from t2local.svf.mixing import Gains, Mixture, compose, mix, scale

PARTS_OF_A_LAYER = ("self_attn.q_proj", "mlp.up_proj")
NAMES = [f"model.layers.{layer}.{part}" for layer in range(6) for part in PARTS_OF_A_LAYER]
RANK = 9


def expert(seed: int, names=NAMES) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: 1 + 0.1 * torch.randn(RANK, generator=generator) for name in names}


def equal(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def near(left, right) -> bool:
    return left.keys() == right.keys() and all(
        torch.allclose(left[n], right[n], rtol=0, atol=1e-6) for n in left
    )


def ones() -> dict[str, torch.Tensor]:
    return {name: torch.ones(RANK) for name in NAMES}


def test_one_expert_alone_is_itself_bit_for_bit():
    z = expert(0)
    assert equal(mix([z], [1.0]), z)
    assert equal(mix([z, expert(1)], [1.0, 0.0]), z)
    assert equal(compose({"a": z}, Mixture({"a": 1.0})), z)


def test_alpha_zero_is_the_base_bit_for_bit():
    assert equal(mix([expert(0), expert(1)], [0.0, 0.0]), ones())
    for mixture in (Mixture({"a": 0.0}), Mixture(), Mixture({"a": 2.0}, strength=0.0)):
        assert mixture.is_base
        assert compose({"a": expert(0)}, mixture) == {}


def test_alphas_that_sum_to_one_give_the_papers_sum():
    a, b = expert(0), expert(1)
    assert near(mix([a, b], [0.3, 0.7]), {n: 0.3 * a[n] + 0.7 * b[n] for n in a})


def test_mixing_is_linear_in_z_minus_1():
    a, b = expert(0), expert(1)
    expected = {n: 1 + 0.5 * (a[n] - 1) - 0.8 * (b[n] - 1) for n in a}
    assert near(mix([a, b], [0.5, -0.8]), expected)
    assert near(mix([b, a], [-0.8, 0.5]), expected)
    assert near(mix([a, a], [0.2, 0.3]), mix([a], [0.5]))


def test_alpha_one_and_minus_one_of_one_expert_cancel():
    assert near(mix([expert(0), expert(0)], [1.0, -1.0]), ones())


def test_a_matrix_that_an_expert_lacks_counts_as_one():
    a, part = expert(0), expert(1, NAMES[:3])
    whole = {**ones(), **part}
    assert near(mix([a, part], [0.6, 0.5]), mix([a, whole], [0.6, 0.5]))


def test_rows_of_z_are_mixed_row_by_row():
    rows = [{n: torch.stack([x[n], y[n]]) for n in x} for x, y in
            ((expert(0), expert(1)), (expert(2), expert(3)))]  # fmt: skip
    both = mix(rows, [0.3, 0.5])
    for i in range(2):
        alone = mix([{n: z[n][i] for n in z} for z in rows], [0.3, 0.5])
        assert near({n: z[i] for n, z in both.items()}, alone)


def test_neutral_gains_and_strength_one_leave_z_as_it_is():
    z = expert(0)
    assert equal(scale(z, 1.0, Gains()), z)
    assert Gains().neutral
    assert not Gains(late=0.5).neutral


def test_strength_multiplies_every_alpha():
    experts, alpha = {"a": expert(0), "b": expert(1)}, {"a": 0.4, "b": 0.3}
    doubled = {name: 2 * value for name, value in alpha.items()}
    assert near(compose(experts, Mixture(alpha, 2.0)), compose(experts, Mixture(doubled)))


BANDS = {"large": slice(0, 3), "middle": slice(3, 6), "small": slice(6, 9)}
PARTS = {
    "attention": lambda name: "self_attn" in name,
    "mlp": lambda name: "mlp" in name,
    "early": lambda name: name.split(".")[2] in "01",
    "mid": lambda name: name.split(".")[2] in "23",
    "late": lambda name: name.split(".")[2] in "45",
}


@pytest.mark.parametrize("gain", [*PARTS, *BANDS])
@pytest.mark.parametrize("factor", [0.0, 0.5, 2.0, -1.0])
def test_a_gain_scales_its_own_part_only(gain, factor):
    z, expected = expert(0), {}
    for name, row in z.items():
        expected[name] = row.clone()
        if gain in BANDS:
            expected[name][BANDS[gain]] = 1 + factor * (row[BANDS[gain]] - 1)
        elif PARTS[gain](name):
            expected[name] = 1 + factor * (row - 1)
    assert near(scale(z, 1.0, Gains(**{gain: factor})), expected)


def test_gains_of_zero_everywhere_are_the_base_model():
    silent = Gains(attention=0.0, mlp=0.0)
    assert equal(compose({"a": expert(0)}, Mixture({"a": 1.0}, gains=silent)), ones())


def test_with_alpha_keeps_strength_and_gains():
    mixture = Mixture({"a": 1.0}, 0.5, Gains(late=2.0)).with_alpha({"b": 0.3})
    assert mixture == Mixture({"b": 0.3}, 0.5, Gains(late=2.0))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e30, "much"])
def test_weights_that_are_no_sensible_numbers_are_refused(number):
    with pytest.raises(T2LocalError, match="must be a number"):
        Mixture({"math": number})
    with pytest.raises(T2LocalError, match="must be a number"):
        Mixture(strength=number)
    with pytest.raises(T2LocalError, match="must be a number"):
        Gains(mlp=number)
