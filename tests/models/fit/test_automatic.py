"""The automatic choice fits, prefers what is better, and says what to change where nothing fits."""

import pytest
import torch

from t2local.errors import T2LocalError
from t2local.models.fit import automatic
from t2local.models.fit.anatomy import anatomy_of
from t2local.models.fit.automatic import best_fit, choose_basis, compute_dtype, judged
from t2local.models.fit.estimate import COMFORT, GB, Plan, estimate
from t2local.models.fit.memory import named_card, this_machine
from t2local.models.load import loader

LLAMA_3_8B = "meta-llama/Meta-Llama-3-8B-Instruct"


@pytest.fixture(scope="module")
def llama():
    return anatomy_of(LLAMA_3_8B)


@pytest.mark.parametrize("gigabytes", [1, 2, 4, 6, 8, 12, 16, 24, 80])
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_choice_fits_wherever_it_is_said_to(llama, gigabytes, device):
    for parts in (llama, anatomy_of("embedded"), anatomy_of("Qwen/Qwen3-4B")):
        chosen = best_fit(parts, gigabytes * GB, device)
        total = chosen.estimate.total_bytes
        assert (chosen.verdict != "does not fit") == (total <= gigabytes * GB)
        assert bool(chosen.advice) == (chosen.verdict != "fits")


def test_llama_3_8b_on_a_12_gb_card_is_4_bits_with_int8_bases_of_every_matrix(llama):
    plan = best_fit(llama, 12 * GB).estimate.plan
    assert plan == Plan("nf4", "int8", "all", "bfloat16", "cuda")


def test_less_memory_takes_fewer_matrices_and_then_a_shorter_context(llama):
    chosen = [best_fit(llama, size * GB).estimate for size in (12, 10.5, 8.6)]
    assert [e.plan.targets for e in chosen[:2]] == ["all", "mlp"]
    assert [e.context for e in chosen] == [8192, 8192, 2048]
    totals = [e.total_bytes for e in chosen]
    assert totals == sorted(totals, reverse=True)


def test_small_models_keep_their_precision_while_it_fits():
    parts = anatomy_of("HuggingFaceTB/SmolLM2-360M-Instruct")
    assert best_fit(parts, 12 * GB).estimate.plan.quantization == "none"
    assert best_fit(parts, 12 * GB, "cpu").estimate.plan.basis == "fp32"
    assert best_fit(anatomy_of("Qwen/Qwen3-1.7B"), 4 * GB).estimate.plan.quantization == "nf4"
    assert best_fit(anatomy_of("embedded"), 12 * GB, "cpu").estimate.plan.quantization == "gguf"


def test_what_is_asked_for_is_kept(llama):
    plan = best_fit(llama, 24 * GB, quantization="int8", basis="bf16").estimate.plan
    assert (plan.quantization, plan.basis) == ("int8", "bf16")


def test_the_first_advice_that_helps_is_given(llama):
    card = 12 * GB
    asked = judged(llama, estimate(llama, Plan("nf4", "bf16")), card)
    assert asked.advice.startswith("int8 bases: ")
    whole = judged(llama, estimate(llama, Plan("none", "bf16")), card)
    assert "int8 bases and" in whole.advice
    assert "4-bit weights" in whole.advice
    hopeless = judged(llama, estimate(llama, Plan("nf4", "int8")), 4 * GB)
    assert "smaller model" in hopeless.advice
    assert judged(llama, estimate(llama, Plan("nf4", "int8")), card).advice == ""


@pytest.mark.parametrize(
    ("free", "device", "dtype", "basis"),
    [
        (100 * GB, "cuda", "bfloat16", "int8"),
        (100 * GB, "cpu", "float32", "fp32"),
        (100 * GB, "cpu", "bfloat16", "bf16"),
        (12 * GB, "cpu", "float32", "bf16"),
        (2 * GB, "cpu", "float32", "int8"),
    ],
)
def test_a_basis_takes_at_most_half_of_what_is_left(llama, free, device, dtype, basis):
    assert choose_basis(llama, free, device, dtype) == basis


@pytest.mark.parametrize("parameters", [10**8, 2 * 10**9, 3 * 10**9, 3 * 10**9 + 1, 8 * 10**9])
def test_the_precision_is_the_one_that_loading_chooses(parameters):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = str(loader.choose_dtype(parameters)).removeprefix("torch.")
    assert compute_dtype(device, parameters) == chosen


@pytest.mark.parametrize("gigabytes", [4, 8, 12, 24])
def test_one_model_is_suggested_and_it_fits_well(gigabytes):
    card = named_card(gigabytes)
    found = automatic.offers(card)
    (best,) = (offer for offer in found if offer.suggested)
    assert best.fit.estimate.total_bytes <= COMFORT * card.memory_bytes
    assert best.fit.estimate.plan.targets == "all"


def test_a_quick_model_is_suggested_without_a_gpu():
    found = automatic.offers(this_machine())
    (best,) = (offer for offer in found if offer.suggested)
    if this_machine().device == "cpu":
        assert best.entry.parameters <= automatic.QUICK_ON_CPU_PARAMETERS


def test_a_card_has_some_memory():
    with pytest.raises(T2LocalError, match="--vram"):
        named_card(0)
