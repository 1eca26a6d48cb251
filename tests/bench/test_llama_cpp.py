import pytest

from t2local.bench import decoding as bench
from t2local.errors import T2LocalError

needs_peer = pytest.mark.skipif(bool(bench.llama_cpp_problem()), reason=bench.INSTALL)


def test_what_is_missing_is_said_with_the_command(monkeypatch):
    monkeypatch.setattr(bench, "PACKAGE", "a_package_that_does_not_exist")
    assert "pip install xllamacpp" in bench.llama_cpp_problem()


@needs_peer
def test_a_file_that_is_no_model_is_one_sentence(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with (
        pytest.raises(T2LocalError, match=r"could not decode 'broken\.gguf'"),
        bench.LlamaCpp(broken, 4) as peer,
    ):
        peer.decode()


@needs_peer
@pytest.mark.model
def test_the_embedded_models_own_file_is_decoded(embedded_file):
    with bench.LlamaCpp(embedded_file, 8) as peer:
        peer.decode()
    assert len(peer.seconds) == 1
    assert peer.seconds[0] > 0
