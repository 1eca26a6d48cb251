"""Each listed family with its own conventions: load, adapt, chat, stop, save."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from t2local.models.chat_format import render_chat
from t2local.models.decode.generate import generate_batch
from t2local.models.decode.sampling import Sampling
from t2local.models.load.loader import describe, load_model
from t2local.progress import drain
from t2local.svf import attach
from t2local.svf.layer import weight_as_used
from tests.models.families import FAMILIES
from tests.svf.support import IDS, composed, logits, random_z, relative

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "more"},
]


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def built(family):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(family.config).eval()
    tokenizer = family.tokenizer()
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(list(family.stops))
    return model, tokenizer


def test_from_a_folder_it_is_the_same_and_adapts_exactly(family, tmp_path):
    model, tokenizer = built(family)
    model.save_pretrained(tmp_path / "it")
    tokenizer.save_pretrained(tmp_path / "it")
    loaded = drain(load_model(str(tmp_path / "it"), "none"))
    base = logits(model)
    assert torch.equal(logits(loaded.model), base)
    assert loaded.context_length == family.config.max_position_embeddings
    assert loaded.model.generation_config.eos_token_id == model.generation_config.eos_token_id
    svf = attach(loaded.model)
    linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    assert set(svf.matrix_names) == {name for name in linear if ".layers." in name}
    assert len(svf.matrix_names) == 2 * family.matrices
    with svf.using({name: row.requires_grad_() for name, row in svf.identity().items()}):
        assert torch.equal(loaded.model(IDS).logits, base)
    z, exact = random_z(svf), built(family)[0].double()
    for name in svf.matrix_names:
        layer = exact.get_submodule(name)
        layer.weight.data = composed(weight_as_used(layer), z[name])
    with svf.using(z):
        assert relative(logits(svf.model), logits(exact)) < 1e-5
    assert torch.equal(logits(svf.detach()), base)


def test_a_system_text_reaches_the_model(family):
    tokenizer = family.tokenizer()
    ids = render_chat(tokenizer, TALK[:2])
    assert tokenizer.decode(ids, skip_special_tokens=False) == family.rendered
    known = tokenizer.get_vocab()
    assert all(known[marker] in ids for marker in family.markers if marker in family.rendered)
    longer = tokenizer.decode(render_chat(tokenizer, TALK), skip_special_tokens=False)
    assert all(longer.count(text) == 1 for text in ("Be brief.", "Hello", "more"))


def test_every_token_that_ends_a_turn_ends_the_answer(family, monkeypatch):
    model, tokenizer = built(family)
    loaded = describe(model, tokenizer, "family")
    prompt, forward = render_chat(tokenizer, TALK[:2]), type(model).forward
    for stop in (*family.stops, family.eos):
        script = iter([65, 66, tokenizer.get_vocab()[stop], 67])

        def speak(self, *args, script=script, **kwargs):
            outputs = forward(self, *args, **kwargs)
            outputs.logits[:, -1, next(script)] = 1000.0
            return outputs

        monkeypatch.setattr(type(model), "forward", speak)
        greedy = Sampling(temperature=0.0, repetition_penalty=1.0, max_new_tokens=4)
        assert generate_batch(loaded, [prompt], greedy) == [[65, 66]], stop


def test_thoughts_of_earlier_answers_are_not_read_again():
    tokenizer = FAMILIES["qwen3"].tokenizer()
    thought = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello"}
    shown = tokenizer.decode(render_chat(tokenizer, [*TALK[:2], thought, TALK[3]]))
    assert "hm" not in shown
    assert "Hello" in shown
