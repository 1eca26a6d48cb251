"""A grouped layer is the linear layer of its dense weight, whatever computes it."""

import threading
from contextlib import nullcontext, suppress

import pytest
import torch
from torch.nn import functional as F

from t2local.models.groups import linear as grouped
from t2local.models.groups.codes import READERS, from_gguf
from t2local.models.groups.linear import (
    GroupedEmbedding,
    GroupedLinear,
    bfloat16_columns,
    dense,
    log_probabilities,
    multiplied,
    rounded_products,
)
from tests.models.groups.blocks import random_blocks

ROWS, COLUMNS = 200, 512
KINDS = pytest.mark.parametrize("kind", READERS, ids=lambda kind: kind.name)


def groups_of(kind, rows=ROWS):
    return from_gguf(random_blocks(kind, rows, COLUMNS), kind)


@pytest.fixture(params=["compiled", "plain"])
def way(request, monkeypatch):
    """With compiled loops, and as on a machine that has none."""
    if request.param == "plain":
        monkeypatch.setattr(grouped, "compiling_problem", lambda: "not wanted here")
    return request.param


def distance(found, meant):
    return float((found.double() - meant).norm() / meant.norm())


@KINDS
@pytest.mark.parametrize("inputs", [1, 3, 4, 70])
def test_products_are_those_of_the_dense_matrix(kind, inputs, way):
    groups, x = groups_of(kind), torch.randn(inputs, COLUMNS)
    assert distance(multiplied(x, groups), x.double() @ groups.dense().double().T) < 1e-6


@KINDS
def test_dense_numbers_are_the_same_to_the_bit(kind, way):
    groups = groups_of(kind)
    assert torch.equal(dense(groups), groups.dense())
    for first, last in ((3, 7), (10, 70)):
        assert torch.equal(dense(groups.blocks(first, last)), groups.dense(first, last))
    assert torch.equal(bfloat16_columns(groups).T, groups.dense().bfloat16())


@KINDS
def test_inputs_get_the_gradient_of_the_dense_layer(kind, way):
    layer = GroupedLinear(groups_of(kind), torch.randn(ROWS))
    x = torch.randn(2, 5, COLUMNS, requires_grad=True)
    layer(x).square().sum().backward()
    found, x.grad = x.grad, None
    F.linear(x, layer.weight, layer.bias).square().sum().backward()
    assert distance(found, x.grad.double()) < 1e-5


@KINDS
def test_a_product_that_may_round_is_off_by_bfloat16_and_so_is_its_gradient(kind, way):
    layer, x = GroupedLinear(groups_of(kind)), torch.randn(6, COLUMNS, requires_grad=True)
    direction = torch.randn(6, ROWS)

    def found():
        x.grad = None
        y = layer(x)
        (y * direction).sum().backward()
        return y.detach(), x.grad

    exact = found()
    with rounded_products():
        rounded = found()
        if way == "compiled":  # loops of our own round only where a gradient is wanted
            with torch.no_grad():
                assert torch.equal(layer(x), exact[0])
    for one, other in zip(rounded, exact, strict=True):
        assert 1e-5 < distance(one, other.double()) < 0.01
    assert torch.equal(found()[0], exact[0])


@pytest.mark.parametrize("rounds", [False, True])
def test_log_probabilities_are_those_of_all_logits_though_these_are_never_there(
    way, rounds, monkeypatch
):
    monkeypatch.setattr(grouped, "STRIP", 5)  # 80 of the 200 rows at a time
    head = GroupedLinear(groups_of(next(iter(READERS))), torch.randn(ROWS))
    states = (0.1 * torch.randn(30, COLUMNS)).requires_grad_()
    targets, weights = torch.randint(0, ROWS, (30,)), torch.randn(30)
    with rounded_products() if rounds else nullcontext():
        found = log_probabilities(states, targets, head, 0.7)
        (found * weights).sum().backward()
    gradient, states.grad = states.grad, None
    logits = F.linear(states, head.weight, head.bias) / 0.7
    meant = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    (meant * weights).sum().backward()
    error = 0.02 if rounds else 1e-5
    assert distance(found.detach(), meant.detach().double()) < error
    assert distance(gradient, states.grad.double()) < error


def test_leave_to_round_ends_with_its_block():
    before = torch.backends.mkldnn.matmul.fp32_precision
    with suppress(ValueError), rounded_products():
        assert grouped.rounds()
        raise ValueError
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    assert not grouped.rounds()


def test_more_rows_change_no_row():
    groups, x = groups_of(next(iter(READERS))), torch.randn(9, COLUMNS)
    alone = torch.cat([multiplied(row[None], groups) for row in x])
    assert distance(multiplied(x, groups), alone.double()) < 1e-6


def test_an_embedding_gives_rows():
    table = GroupedEmbedding(groups_of(next(iter(READERS))))
    ids = torch.tensor([[5, 199, 0]])
    assert torch.equal(table(ids), table.weight[ids])


def test_threads_that_ask_at_once_each_get_their_own():
    groups = groups_of(next(iter(READERS)), rows=4000)
    inputs = [torch.randn(2, COLUMNS) for _ in range(8)]
    found = [None] * len(inputs)

    def work(place):
        for _ in range(20):
            found[place] = multiplied(inputs[place], groups)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for x, y in zip(inputs, found, strict=True):
        assert distance(y, x.double() @ groups.dense().double().T) < 1e-6


def test_a_pool_of_threads_does_the_same_where_openmp_is_not_gnus(monkeypatch):
    from t2local.models.groups import products

    groups, x = groups_of(next(iter(READERS)), rows=4000), torch.randn(3, COLUMNS)
    meant = multiplied(x, groups)
    monkeypatch.setattr(products, "OPENMP", None)
    monkeypatch.setattr(grouped.Workers, "count", 2)
    assert distance(multiplied(x, groups), meant.double()) < 1e-6
