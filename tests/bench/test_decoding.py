import torch

from t2local.bench import decoding as bench
from t2local.bench.speed import twin
from t2local.bench.table import random_z
from t2local.models.decode.compiled_steps import rounding_problem
from t2local.svf import attach


def test_speeds_and_errors_are_measured_and_the_model_is_left_alone(tiny_loaded):
    loaded = tiny_loaded("llama")
    assert rounding_problem(loaded) == ""
    loaded.model.generation_config.eos_token_id = None
    untouched = twin(loaded.model)
    svf = attach(loaded.model)
    ids = torch.arange(5, 25)[None]
    before = loaded.model(ids).logits
    z = random_z(svf, rms=0.2)
    measured = bench.rounded_decoding(loaded, untouched, svf, z, [50, 60, 70], 4, 2)
    assert torch.equal(loaded.model(ids).logits, before)
    values = {row.variant: row.value for row in measured.rows}
    speeds = [values[name] for name in (bench.GENERATE, bench.EXACT, bench.BASE, bench.ADAPTED)]
    assert all(speed > 0 for speed in speeds)
    assert bench.ONE not in values
    assert 0 < values["logits' error, base"] < 0.03
    assert 0 < values["error of that change"] < 0.1
    assert set(measured.ratios) == {
        "decode_exact_over_generate",
        "decode_8_bits_over_generate",
        "decode_8_bits_adapted_over_8_bits",
    }
