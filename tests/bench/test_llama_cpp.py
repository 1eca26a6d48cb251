import pytest

from t2local.bench import decoding as bench
from t2local.errors import T2LocalError
from t2local.models.load import embedded

needs_peer = pytest.mark.skipif(bool(bench.llama_cpp_problem()), reason=bench.INSTALL)


def test_what_is_missing_is_said_with_the_command(monkeypatch):
    monkeypatch.setattr(bench, "PACKAGE", "a_package_that_does_not_exist")
    assert "pip install xllamacpp" in bench.llama_cpp_problem()


@needs_peer
def test_a_file_that_is_no_model_is_one_sentence(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(T2LocalError, match=r"could not decode 'broken\.gguf'"):
        bench.llama_cpp(broken, 4, 1.0)


@needs_peer
@pytest.mark.model
def test_the_embedded_models_own_file_is_decoded(embedded_home):
    with embedded.embedded_gguf() as gguf:
        measured = bench.llama_cpp(gguf, 8, packed_tokens_per_s=10.0)
    speed = measured.rows[0].value
    assert speed > 0
    assert measured.ratios == {"decode_packed_over_llama_cpp": 10.0 / speed}
    assert not gguf.exists()
