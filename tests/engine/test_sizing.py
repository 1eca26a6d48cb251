import pytest

from t2local.engine.loading import Wish, on_disk, sizing
from t2local.errors import T2LocalError
from t2local.models.fit.memory import Machine, named_card
from t2local.models.storage import BASES

LLAMA = "meta-llama/Meta-Llama-3-8B-Instruct"
LAPTOP = Machine("cpu", "a laptop", 8 * 10**9)


def test_automatic_takes_what_fits_a_card():
    found = sizing(LLAMA, named_card(12))
    assert (found.plan.quantization, found.plan.basis, found.plan.targets) == ("nf4", "int8", "all")
    assert found.fit.verdict == "fits"
    assert found.source == LLAMA


def test_a_wish_is_obeyed_and_judged():
    found = sizing(LLAMA, named_card(12), Wish(basis="fp32", targets="mlp", context=4096))
    assert (found.plan.basis, found.plan.targets) == ("fp32", "mlp")
    assert found.fit.estimate.context == 4096
    unquantised = sizing(LLAMA, named_card(12), Wish(quantize="none"))
    assert unquantised.fit.verdict == "does not fit"
    assert "4-bit weights" in unquantised.fit.advice


def test_the_table_has_every_way_at_the_plans_own_targets_and_context():
    found = sizing(LLAMA, LAPTOP, Wish(targets="mlp", context=2048))
    assert len({(row.plan.quantization, row.plan.basis) for row in found.table}) == 3 * len(BASES)
    assert {row.plan.targets for row in found.table} == {"mlp"}
    assert {row.context for row in found.table} == {2048}
    assert found.fit.estimate in found.table


def test_a_context_is_at_most_the_models_own():
    assert sizing("embedded", LAPTOP, Wish(context=10**6)).fit.estimate.context == 8192


def test_what_loads_by_itself_is_asked_for_as_automatic():
    """So that a checkpoint which is stored in 4 bits can be loaded as it is."""
    assert sizing("embedded", LAPTOP).quantize(Wish()) == "auto"
    wish = Wish(quantize="nf4")
    assert sizing("embedded", LAPTOP, wish).quantize(wish) == "nf4"


def test_a_folder_is_on_disk_and_a_hub_id_is_not(tiny_folder):
    folder = str(tiny_folder("qwen2"))
    assert on_disk(folder).kind == "folder"
    assert on_disk(LLAMA) is None
    assert sizing(folder, LAPTOP).parts.layers == 2
    with pytest.raises(T2LocalError, match="there is no such folder"):
        sizing("no such thing", LAPTOP)
