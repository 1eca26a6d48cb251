import json

import pytest

from t2local.errors import T2LocalError
from t2local.experts.mixture_file import MixtureFile, MixtureStore, read_mixture, write_mixture
from t2local.svf.mixing import Gains, Mixture

MIXTURE = Mixture({"math": 0.6}, 0.9, Gains(mlp=0.5), {"model.layers.0.mlp.up_proj": {"code": 1.0}})


def test_save_then_load_is_the_identity(tmp_path):
    file = MixtureFile(MIXTURE, "org/some-model", {"reward": "choice", "accuracy": 0.5})
    write_mixture(file, tmp_path / "m.json")
    assert read_mixture(tmp_path / "m.json") == file


def test_alpha_alone_is_enough(tmp_path):
    path = tmp_path / "m.json"
    path.write_text('{"alpha": {"math": 0.6}}')
    assert read_mixture(path).mixture == Mixture({"math": 0.6})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ("[1]", "has no α"),
        ({"strength": 1}, "has no α"),
        ({"alpha": {}, "colour": 1}, "unknown key 'colour'"),
        ({"alpha": {}, "gains": {"loud": 1}}, "unknown gain 'loud'"),
        ({"alpha": {}, "schema": 99}, "newer t2local"),
        ({"alpha": {"math": "much"}}, "garbled"),
        ({"alpha": {"math": 1e9}}, "must be a number"),
        ({"alpha": {}, "by_matrix": [1]}, "garbled"),
    ],
)
def test_bad_files_get_a_sentence_each(tmp_path, content, words):
    path = tmp_path / "m.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(T2LocalError, match=words):
        read_mixture(path)


def test_another_model_and_an_expert_that_is_gone_are_refused():
    file = MixtureFile(MIXTURE, "org/some-model")
    file.check("org/some-model", ["math", "code"])
    with pytest.raises(T2LocalError, match="was made for org/some-model"):
        file.check("other", ["math", "code"])
    with pytest.raises(T2LocalError, match=r"names the expert 'code'.*import"):
        file.check("org/some-model", ["math"])


def test_the_store_knows_its_names():
    store = MixtureStore("some-model")
    assert store.names() == []
    store.save("arc", MixtureFile(MIXTURE))
    assert store.names() == ["arc"]
    assert store.load("arc").mixture == MIXTURE
    with pytest.raises(T2LocalError, match="there are: arc"):
        store.load("gone")
    with pytest.raises(T2LocalError):
        store.save("../gone", MixtureFile(MIXTURE))
