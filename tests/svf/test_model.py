"""`attach`, `using`, `detach` on two-layer random models; the model is the base unless told."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from t2local.errors import Cancelled, T2LocalError
from t2local.progress import CancelToken, Progress
from t2local.svf import attach, attaching
from t2local.svf.model import FactoredModel, FairLock
from t2local.training.step_memory import gradient_checkpointing
from tests.conftest import FAMILIES
from tests.svf.support import IDS, composed, logits, random_z, relative

TWO = torch.float32, torch.bfloat16


@pytest.fixture
def svf(tiny):
    return attach(tiny("llama"))


def modules(model) -> dict[str, torch.nn.Module]:
    return dict(model.named_modules())


@pytest.mark.parametrize("basis", ["auto", "fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("dtype", TWO)
def test_z_of_ones_is_the_untouched_model_bit_for_bit(tiny, dtype, basis):
    model = tiny("qwen2").to(dtype)  # with biases
    base = logits(model)
    svf = attach(model, basis_dtype=basis)
    assert torch.equal(logits(model), base)
    rows = {name: torch.ones(2, rank) for name, rank in svf.ranks.items()}
    tokens = {name: torch.ones(2, IDS.shape[1], rank) for name, rank in svf.ranks.items()}
    for z in ({}, svf.identity(), rows, tokens):
        with svf.using(z):
            assert torch.equal(logits(model), base)
        with svf.using({name: row.requires_grad_() for name, row in z.items()}):
            assert torch.equal(model(IDS).logits, base)


def test_a_row_of_ones_is_the_base_beside_adapted_rows(svf):
    base, z = logits(svf.model), random_z(svf, 2)
    for row in z.values():
        row[1] = 1.0
    with svf.using(z):
        found = logits(svf.model)
    assert torch.equal(found[1], base[1])
    assert relative(found[0], base[0]) > 1e-2


def test_the_adapted_model_is_the_model_of_composed_matrices(svf, tiny):
    z, other = random_z(svf), tiny("llama").double()
    for name in svf.matrix_names:
        layer = other.get_submodule(name)
        layer.weight.data = composed(layer.weight, z[name])
    with svf.using(z):
        assert relative(logits(svf.model), logits(other)) < 1e-5


def test_singular_values_and_identity_cover_every_matrix(svf):
    assert len(svf.matrix_names) == 2 * 7
    assert "model.layers.1.mlp.up_proj" in svf.matrix_names
    assert set(svf.singular_values) == set(svf.identity()) == set(svf.matrix_names)
    for name, sigma in svf.singular_values.items():
        assert sigma.shape == svf.identity()[name].shape == (svf.ranks[name],)
        assert (sigma.diff() <= 0).all()
        assert (svf.identity()[name] == 1).all()


def test_a_batch_of_zs_equals_one_at_a_time(svf):
    z = random_z(svf, 2)
    with svf.using(z):
        together = logits(svf.model)
    for row in range(2):
        with svf.using({name: values[row] for name, values in z.items()}):
            alone = logits(svf.model, IDS[row : row + 1])
        assert (together[row] - alone[0]).abs().max() <= 1e-4


def test_a_z_for_each_token_equals_token_by_token(svf):
    z = random_z(svf, *IDS.shape)
    with svf.using(z):
        together = logits(svf.model)
    cache, steps = None, []
    for t in range(IDS.shape[1]):
        with svf.using({name: values[:, t] for name, values in z.items()}), torch.no_grad():
            step = svf.model(IDS[:, t : t + 1], past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        steps.append(step.logits[:, 0])
    assert (together - torch.stack(steps, dim=1)).abs().max() <= 1e-4


def test_rows_that_repeat_one_z_equal_it(svf):
    z = random_z(svf)
    with svf.using(z):
        shared = logits(svf.model)
    for lead in ((2, 1), (2, IDS.shape[1], 1)):
        with svf.using({name: row.repeat(*lead) for name, row in z.items()}):
            assert (logits(svf.model) - shared).abs().max() <= 1e-4


def test_z_of_mixed_shapes_may_stand_together(svf):
    z = random_z(svf)
    rows = {name: row.repeat(2, 1) if "mlp" in name else row for name, row in z.items()}
    with svf.using(z):
        shared = logits(svf.model)
    with svf.using(rows):
        assert (logits(svf.model) - shared).abs().max() <= 1e-4


def test_missing_names_mean_one(svf):
    z = random_z(svf)
    name = svf.matrix_names[3]
    with svf.using({name: z[name]}):
        alone = logits(svf.model)
    with svf.using({**svf.identity(), name: z[name]}):
        assert torch.equal(logits(svf.model), alone)


def test_using_restores_after_nesting_and_after_exceptions(svf):
    base, outer, inner = logits(svf.model), random_z(svf), random_z(svf, seed=1)
    with svf.using(outer):
        first = logits(svf.model)
        with svf.using(inner):
            assert not torch.equal(logits(svf.model), first)
        with svf.using_rebuilt(svf.rebuild(inner)):
            assert not torch.equal(logits(svf.model), first)
        assert torch.equal(logits(svf.model), first)
        with pytest.raises(ZeroDivisionError), svf.using(inner):
            raise ZeroDivisionError
        with pytest.raises(T2LocalError), svf.using({"nothing": torch.ones(3)}):
            pass
        assert torch.equal(logits(svf.model), first)
    assert torch.equal(logits(svf.model), base)


def test_detach_gives_back_the_very_same_modules(tiny):
    model = tiny("llama")
    before, base, parameters = modules(model), logits(model), dict(model.named_parameters())
    svf = attach(model)
    with svf.using(random_z(svf)):
        pass
    assert svf.detach() is model
    after = modules(model)
    assert list(after) == list(before)
    assert all(after[name] is module for name, module in before.items())
    assert all(dict(model.named_parameters())[n] is p for n, p in parameters.items())
    assert torch.equal(logits(model), base)
    assert attach(model).matrix_names == svf.matrix_names


def test_attaching_twice_is_a_programmers_mistake(svf):
    with pytest.raises(AssertionError, match="attached already"):
        attach(svf.model)


def test_a_cancelled_attach_leaves_the_model_untouched(tiny):
    model, cancel = tiny("llama"), CancelToken()
    before, work = modules(model), attaching(model, cancel=cancel)
    events = [next(work) for _ in range(5)]
    assert all(isinstance(e, Progress) and e.total == 14 for e in events)
    cancel.cancel()
    with pytest.raises(Cancelled):
        next(work)
    assert modules(model) == before


def test_rebuilt_matrices_equal_the_branch(tiny):
    for family in ("llama", "gpt2"):
        svf = attach(tiny(family))
        z = random_z(svf)
        with svf.using(z):
            branch = logits(svf.model)
        with svf.using_rebuilt(svf.rebuild(z)):
            assert relative(logits(svf.model), branch) < 1e-5
    name = svf.matrix_names[0]
    assert set(svf.rebuild({**svf.identity(), name: z[name]})) == {name}


@pytest.mark.parametrize(("basis", "error"), [("bf16", 5e-3), ("int8", 2e-2)])
def test_a_rounded_basis_adapts_nearly_as_the_exact_one(tiny, basis, error):
    exact, small = attach(tiny("llama")), attach(tiny("llama"), basis_dtype=basis)
    z = random_z(exact)
    with exact.using(z), small.using(z):
        change = logits(exact.model) - logits(tiny("llama"))
        difference = (logits(small.model) - logits(exact.model)).norm()
        assert difference < 5 * error * change.norm()
    assert small.basis_bytes < 0.6 * exact.basis_bytes


def test_gradients_reach_every_z_and_no_weight(svf):
    svf.model.requires_grad_(False)
    z = {name: row.requires_grad_() for name, row in random_z(svf).items()}
    with svf.using(z):
        svf.model(IDS).logits.square().mean().backward()
    assert all(row.grad is not None and row.grad.abs().sum() > 0 for row in z.values())
    assert all(p.grad is None for p in svf.model.parameters())


def test_the_gradient_at_one_is_that_of_the_composed_model_in_float64(svf, tiny):
    z = {name: row.requires_grad_() for name, row in svf.identity().items()}
    with svf.using(z):
        svf.model(IDS).logits.square().mean().backward()
    exact, rows = tiny("llama").double(), {}
    for name in svf.matrix_names:
        u, sigma, vt = torch.linalg.svd(exact.get_submodule(name).weight, full_matrices=False)
        rows[name] = torch.ones_like(sigma).requires_grad_()
        weight = (u * (sigma * rows[name])) @ vt
        torch.nn.utils.parametrize.register_parametrization(
            exact.get_submodule(name), "weight", Constant(weight), unsafe=True
        )
    exact(IDS).logits.square().mean().backward()
    for name in svf.matrix_names:
        assert relative(z[name].grad, rows[name].grad) < 1e-4


class Constant(torch.nn.Module):
    """A parametrisation that gives one given tensor, which may have a history."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = [weight]

    def forward(self, _original: torch.Tensor) -> torch.Tensor:
        return self.weight[0]


def test_gradient_checkpointing_inside_using_gives_the_same_gradient(svf):
    svf.model.requires_grad_(False)
    found = []
    for checkpointing in (False, True):
        z = {name: row.requires_grad_() for name, row in random_z(svf).items()}
        with svf.using(z), gradient_checkpointing(svf.model, checkpointing):
            svf.model(IDS).logits.square().mean().backward()
        found.append(torch.cat([row.grad for row in z.values()]))
    assert relative(found[1], found[0]) < 1e-5


def test_the_fingerprint_knows_the_weights_and_not_how_they_are_held(tiny):
    values = tiny("llama").to(torch.bfloat16)
    one = attach(values).fingerprint()
    assert attach(tiny("llama").to(torch.bfloat16).float(), basis_dtype="int8").fingerprint() == one
    assert attach(tiny("llama")).fingerprint() == one  # rounds to the same
    assert attach(tiny("llama", seed=1)).fingerprint() != one


def test_the_fingerprint_of_some_matrices_is_theirs_alone(tiny):
    whole, mlp = attach(tiny("llama")), attach(tiny("llama"), targets="mlp")
    assert whole.fingerprint(mlp.matrix_names) == mlp.fingerprint()
    assert whole.fingerprint() != mlp.fingerprint()
    assert whole.fingerprint(reversed(mlp.matrix_names)) == mlp.fingerprint()


def test_unknown_names_and_wrong_lengths_are_named(svf):
    name, rank = svf.matrix_names[0], svf.ranks[svf.matrix_names[0]]
    with pytest.raises(T2LocalError, match=r"'model\.up'.*does not adapt.*use an expert"):
        svf.using({"model.up": torch.ones(3)}).__enter__()
    for shape in ([rank - 1], [2, rank + 1], [1, 2, 3, rank]):
        with pytest.raises(T2LocalError, match=rf"has shape .*needs \[{rank}\]"):
            svf.using({name: torch.ones(shape)}).__enter__()
    with pytest.raises(T2LocalError, match=r"'fp8' is unknown; choose auto, fp32, bf16, int8"):
        attach(svf.detach(), basis_dtype="fp8")


def test_a_second_thread_waits_until_the_first_lets_go_of_the_model(tiny):
    """Two threads under different z, a forward at a time, never see each other's."""
    model = tiny("llama")
    svf = attach(model)
    ids = torch.arange(5, 25)[None]
    zs = [
        {n: 1 + 0.3 * torch.randn(r, generator=torch.Generator().manual_seed(s)) for n, r in
         svf.ranks.items()}
        for s in (1, 2)
    ]  # fmt: skip

    def forward(z):
        with torch.no_grad(), svf.using(z):
            return model(ids).logits

    alone = [forward(z) for z in zs]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(forward, zs * 20))
    assert all(torch.equal(found, alone[i % 2]) for i, found in enumerate(together))


# --- The lock is handed on in the order of asking, and is reentrant.


def test_a_thread_may_enter_again_and_others_only_after_its_last_exit():
    lock, entered = FairLock(), threading.Event()

    def other():
        with lock:
            entered.set()

    with lock:
        with lock:
            thread = threading.Thread(target=other)
            thread.start()
        assert not entered.wait(0.05)
    assert entered.wait(5)
    thread.join()


def test_it_is_handed_on_in_the_order_of_asking():
    lock, order, threads = FairLock(), [], []

    def ask(number):
        with lock:
            order.append(number)

    with lock:
        for number in range(8):
            threads.append(threading.Thread(target=ask, args=(number,)))
            threads[-1].start()
            while len(lock._waiting) <= number:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == list(range(8))


def test_a_greedy_thread_cannot_keep_another_one_waiting():
    """Whoever takes the lock again at once comes after everyone who has waited meanwhile."""
    lock, stop, turns, waited = FairLock(), threading.Event(), [0], []

    def greedy():
        while not stop.is_set():
            with lock:
                turns[0] += 1
                time.sleep(0.002)

    thread = threading.Thread(target=greedy)
    thread.start()
    for _ in range(20):
        time.sleep(0.003)
        before = turns[0]
        with lock:
            waited.append(turns[0] - before)
    stop.set()
    thread.join()
    assert max(waited) <= 2, waited  # the turn in progress, and one begun while asking


def test_it_is_given_back_after_an_error():
    lock = FairLock()
    try:
        with lock:
            raise ValueError
    except ValueError:
        pass
    thread = threading.Thread(target=lambda: lock.__enter__().__exit__())
    thread.start()
    thread.join(5)
    assert not thread.is_alive()


# --- The paper's own form, for many rows of differing z.

THREE_ROWS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12], [30, 31, 32, 33]])


def some_z(svf, rows=()):
    generator = torch.Generator().manual_seed(0)
    return {
        n: 1 + 0.2 * torch.randn(*rows, r, generator=generator) for n, r in svf.ranks.items()
    }  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [(), (3,), (3, 4)])
def test_factors_equal_the_branch(tiny, family, rows):
    model = tiny(family)
    svf = attach(model)
    z, factored = some_z(svf, rows), FactoredModel(svf)
    with torch.no_grad():
        plain = model(THREE_ROWS).logits
        with svf.using(z):
            expected = model(THREE_ROWS).logits
        with factored.using(z):
            found = model(THREE_ROWS).logits
        assert torch.equal(model(THREE_ROWS).logits, plain), "restored afterwards"
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-2)


def test_matrices_that_z_leaves_out_are_the_base_models_bit_for_bit(tiny):
    model = tiny("llama")
    svf = attach(model)
    with torch.no_grad(), FactoredModel(svf).using({}):
        found = model(THREE_ROWS).logits
    with torch.no_grad():
        assert torch.equal(found, model(THREE_ROWS).logits)


def test_an_unknown_matrix_is_refused_and_nothing_stays_in_force(tiny):
    model = tiny("llama")
    svf = attach(model)
    factored = FactoredModel(svf)
    with torch.no_grad():
        plain = model(THREE_ROWS).logits
        unknown = {"model.layers.9.mlp.up_proj": torch.ones(64)}
        with pytest.raises(T2LocalError, match=r"model\.layers\.9"), factored.using(unknown):
            pass
        assert torch.equal(model(THREE_ROWS).logits, plain)
