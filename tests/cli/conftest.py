import pytest

from t2local.experts import Library
from t2local.models.load.loader import model_slug
from t2local.svf import attach
from tests.experts.support import small_expert


@pytest.fixture
def source(tiny_folder):
    return str(tiny_folder("llama"))


@pytest.fixture
def library(tiny, source):
    library = Library(model_slug(source))
    library.save(small_expert(attach(tiny("llama")), base_model=model_slug(source)))
    return library
