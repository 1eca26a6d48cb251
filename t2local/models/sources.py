"""The anatomy of any model that `--model` takes, from its configuration alone.

A catalogue's model needs no network; a Hub id's config.json comes from the cache or is fetched (a
few kilobytes); a folder need not hold weights yet. Knows nothing of memory.
"""

from functools import lru_cache
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig

from t2local.models.architectures import architecture
from t2local.models.fit import catalogue
from t2local.models.fit.anatomy import Anatomy, anatomy
from t2local.models.load import load_errors
from t2local.models.load.gguf import check_magic
from t2local.models.quiet import quiet_transformers


def anatomy_of(source: str) -> Anatomy:
    """`source`: a catalogue id, a Hub id, a folder, a `.gguf` file or "embedded".

    Raises `T2LocalError` when there is no such model, or no config of it can be had.
    """
    path = Path(source).expanduser()
    if not path.exists() and (entry := catalogue.find(source)):
        return _of_catalogue(entry.id)
    return anatomy(config_of(source), source)


def config_of(source: str) -> PreTrainedConfig:
    """The configuration of a Hub id, a folder or a `.gguf` file, without its weights."""
    path = Path(source).expanduser()
    if not path.is_dir() and not (path.is_file() and path.suffix == ".gguf"):
        load_errors.check_hub_id(source, path)
    with load_errors.translated(source), quiet_transformers():
        if path.is_file():
            check_magic(path)
            return AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
        return AutoConfig.from_pretrained(path if path.is_dir() else source)


@lru_cache(maxsize=64)
def _of_catalogue(model_id: str) -> Anatomy:
    return anatomy(architecture(model_id), model_id)
