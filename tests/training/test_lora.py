import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel

from t2local.errors import T2LocalError
from t2local.progress import drain
from t2local.svf import attach
from t2local.training.config import LORA, NEXT_TOKEN, TrainConfig
from t2local.training.loop import train
from t2local.training.lora import LoRAMethod, read_adapter
from t2local.training.reports import Checkpoint, DryRun, StepReport
from tests.models.decode.test_compiled_steps import grouped

CONFIG = TrainConfig(
    method=LORA, steps=6, prompts_per_step=4, learning_rate=1e-2, validate_every=3, lora_rank=4
)
IDS = torch.arange(5, 20)[None]


@pytest.fixture
def lora(loaded, svf):
    return LoRAMethod(loaded, svf, 4, 32.0, seed=0)


@torch.no_grad()
def logits(loaded):
    return loaded.model(IDS).logits


def moved(lora):
    return lora.start() + 0.02 * torch.randn(len(lora.start()), generator=torch.Generator())


def test_it_starts_at_the_base_model_bit_for_bit(loaded, lora):
    before = logits(loaded)
    with lora.holding(lora.start())():
        assert torch.equal(logits(loaded), before)
    assert set(lora.change(lora.start()).values()) == {0.0}


def test_a_model_of_grouped_weights_takes_it_too(colours):
    loaded, svf = grouped("llama")
    lora, before = LoRAMethod(loaded, svf, 4, 32.0, seed=0), logits(loaded)
    with lora.holding(lora.start())():
        assert torch.equal(logits(loaded), before)
    with lora.holding(moved(lora))():
        assert not torch.allclose(logits(loaded), before)
    events = []
    drain(train(loaded, svf, colours, colours, "choice", replace(CONFIG, steps=2)), events.append)
    assert sum(isinstance(event, StepReport) and event.gradient_norm > 0 for event in events) == 2


def test_the_model_is_touched_only_while_it_is_held(loaded, lora):
    before = logits(loaded)
    with lora.holding(moved(lora))():
        assert not torch.allclose(logits(loaded), before)
    assert torch.equal(logits(loaded), before)
    assert not any("lora" in name for name, _ in loaded.model.named_parameters())


def test_its_gradient_is_the_derivative_of_the_loss(loaded, lora):
    def loss(flat):
        with lora.holding(flat)():
            return loaded.model(IDS, labels=IDS).loss

    flat = moved(lora).requires_grad_()
    loss(flat).backward()
    direction = flat.grad / flat.grad.norm()
    with torch.no_grad():
        rise = loss(flat + 1e-2 * direction) - loss(flat - 1e-2 * direction)
    assert float(rise / 2e-2) == pytest.approx(float(flat.grad.norm()), rel=0.05)


@pytest.mark.parametrize("objective", ["policy-gradient", NEXT_TOKEN])
def test_it_learns_through_the_same_loop(loaded, svf, colours, objective):
    config, events = replace(CONFIG, objective=objective), []
    outcome = drain(train(loaded, svf, colours, colours[:6], "choice", config), events.append)
    assert isinstance(events[0], DryRun) == (objective != NEXT_TOKEN)
    assert outcome.curve[-1] > outcome.curve[0]


def test_a_run_that_goes_on_ends_like_one_that_was_not_cut(loaded, svf, colours):
    events = []
    whole = drain(train(loaded, svf, colours, colours[:6], "choice", CONFIG), events.append)
    state = next(e.state for e in events if isinstance(e, Checkpoint) and e.state.step == 2)
    resumed = drain(train(loaded, svf, colours, colours[:6], "choice", CONFIG, state=state))
    assert torch.equal(resumed.flat, whole.flat)
    assert resumed.validations == whole.validations


def test_peft_itself_loads_what_is_saved(loaded, svf, lora, tmp_path):
    flat = moved(lora)
    with lora.holding(flat)():
        adapted = logits(loaded)
    lora.save(flat, tmp_path / "adapter")
    plain = svf.detach()
    peft = PeftModel.from_pretrained(plain, tmp_path / "adapter")
    with torch.no_grad():
        assert torch.allclose(peft(IDS).logits, adapted, atol=1e-5)


def test_the_change_is_the_size_of_the_products_beside_the_weights(svf, lora):
    flat = moved(lora)
    change, name = lora.change(flat), svf.matrix_names[1]
    layer = lora.layers[name]
    product = layer.get_delta_weight("default")
    expected = product.norm() / svf.base_layers[name].weight.norm()
    assert change[name] == pytest.approx(float(expected), rel=1e-4)


# --- An adapter from a folder is the one that was trained.

FOUR_IDS = torch.tensor([[1, 5, 9, 30]])


@pytest.fixture
def trained(tiny_loaded, tmp_path):
    """A model, and a folder with an adapter whose numbers are random."""
    loaded = tiny_loaded("llama")
    svf = attach(loaded.model)
    method = LoRAMethod(loaded, svf, rank=4, alpha=8, seed=0)
    flat = torch.randn(method.start().shape, generator=torch.Generator().manual_seed(0)) / 10
    method.save(flat, tmp_path)
    with torch.no_grad(), method.holding(flat)():
        logits = loaded.model(FOUR_IDS).logits
    return loaded, svf, tmp_path, logits


@torch.no_grad()
def test_what_was_saved_is_in_force_again_and_the_model_stays_untouched(trained):
    loaded, svf, folder, logits = trained
    before = loaded.model(FOUR_IDS).logits
    adapter = read_adapter(loaded, svf, folder)
    with adapter.holding()():
        assert torch.equal(loaded.model(FOUR_IDS).logits, logits)
    assert torch.equal(loaded.model(FOUR_IDS).logits, before)
    assert adapter.numbers == adapter.method.start().numel()


def test_what_is_no_plain_adapter_of_this_model_is_refused(trained, tmp_path):
    loaded, svf, folder, _ = trained
    with pytest.raises(T2LocalError, match="holds no LoRA adapter"):
        read_adapter(loaded, svf, tmp_path / "gone")
    config = folder / "adapter_config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "use_dora": True}))
    with pytest.raises(T2LocalError, match="use_dora"):
        read_adapter(loaded, svf, folder)
    config.write_text(json.dumps({**values, "r": 2}))
    with pytest.raises(T2LocalError, match="trained on this model"):
        read_adapter(loaded, svf, folder)
