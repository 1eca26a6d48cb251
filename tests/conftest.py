"""What all tests share: an empty home for each test, two-layer random models, the embedded model.

Environment comes first: the Hub is never asked and nothing is reported anywhere.
"""

import os

os.environ.update(HF_HUB_OFFLINE="1", GRADIO_ANALYTICS_ENABLED="False", TOKENIZERS_PARALLELISM="0")

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from t2local import paths
from t2local.errors import T2LocalError
from t2local.experiments.vision_proof import Tower, save_small_llava
from t2local.models.fit.catalogue import EMBEDDED, find
from t2local.models.load.hub import fetching
from t2local.models.load.loader import LoadedModel, describe, load_model
from t2local.progress import drain

USER_HOME = paths.home()  # before any test moves it: the embedded model is fetched once a machine

CAPABLE = "qwen2.5-coder-0.5b"
SPECIAL = ("<pad>", "<s>", "<|im_end|>", "<|im_start|>")
VOCABULARY = 320  # 4 special tokens, 256 bytes, some entries no text reaches
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {
    "llama": lambda: LlamaConfig(**SIZES),
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=8),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=16),
    "gemma": lambda: GemmaConfig(**SIZES, head_dim=16),
    "gemma2": lambda: Gemma2Config(**SIZES, head_dim=16, sliding_window=8),
    "phi3": lambda: Phi3Config(**SIZES),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_embd=64, n_inner=96, n_layer=2, n_head=4, n_positions=512,
        initializer_range=0.15, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    ),
}  # fmt: skip
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty `T2LOCAL_HOME`: no test reads or writes the user's data."""
    folder = tmp_path / "home"
    monkeypatch.setenv("T2LOCAL_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny() -> Callable[..., PreTrainedModel]:
    """`tiny(family, seed=0)`: a new two-layer random model; the same seed, the same weights."""
    return build_tiny


@pytest.fixture
def tiny_loaded() -> Callable[..., LoadedModel]:
    """`tiny_loaded(family, seed=0)`: such a model with a byte tokenizer and a chat template."""
    return lambda family="llama", seed=0: describe(
        build_tiny(family, seed), byte_tokenizer(), f"tiny-{family}"
    )


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Callable[..., Path]:
    """`tiny_folder(family)`: an ordinary checkpoint of such a model on disk."""

    def save(family: str = "llama", seed: int = 0) -> Path:
        folder = tmp_path / f"tiny-{family}"
        build_tiny(family, seed).save_pretrained(folder)
        byte_tokenizer().save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small LLaVA's checkpoint on the two-layer random Llama of `tiny_loaded`; not to be changed.

    A picture takes four tokens.
    """
    text = describe(build_tiny("llama"), byte_tokenizer(), "tiny-llama")
    folder = tmp_path_factory.mktemp("vision") / "tiny-llava"
    return save_small_llava(text, folder, Tower(image=32, patch=16, hidden=32))


@pytest.fixture
def llava(llava_folder: Path) -> LoadedModel:
    """That model, loaded anew."""
    return drain(load_model(str(llava_folder), "none"))


@pytest.fixture(scope="session")
def embedded_file() -> Path:
    """The embedded model's file, fetched into the user's own home once a machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2LOCAL_HOME", str(USER_HOME))
        try:
            return drain(fetching(EMBEDDED))
        except T2LocalError as error:
            pytest.skip(str(error))


@pytest.fixture(scope="session")
def embedded(embedded_file: Path) -> LoadedModel:
    """The embedded model in floats, shared by all tests: whoever attaches to it detaches again."""
    return drain(load_model(str(embedded_file), "none"))


@pytest.fixture(scope="session")
def capable_file() -> Path:
    """The file of Qwen2.5-Coder 0.5B in the user's own home: half a gigabyte, fetched by hand."""
    file = find(CAPABLE).file
    path = USER_HOME / "models" / file.name
    if not path.is_file() or path.stat().st_size != file.size_bytes:
        pytest.skip(f"no {file.name} here; `python -m t2local models fetch {CAPABLE}` brings it")
    return path


@pytest.fixture
def embedded_home(home: Path, embedded_file: Path) -> Path:
    """An otherwise empty home in which `--model embedded` needs no fetching."""
    (home / "models").mkdir(parents=True)
    (home / "models" / embedded_file.name).symlink_to(embedded_file)
    return home


def build_tiny(family: str, seed: int = 0) -> PreTrainedModel:
    """A two-layer random model of a family in `FAMILIES`, float32, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(FAMILIES[family]()).eval()


@lru_cache
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, four special tokens, ChatML turns."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|im_end|>",
        extra_special_tokens=["<|im_start|>"],
        chat_template=CHATML,
    )
