"""What goes wrong while a model loads, as one sentence with the way out.

Also keeps other libraries' progress bars and warnings quiet while our own progress is shown.
"""

import contextlib
import logging as python_logging
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TypedDict

import torch
from huggingface_hub import errors as hub
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import logging

from t2local.errors import T2LocalError
from t2local.models.load.gguf import check_sizes, first_line
from t2local.models.storage import AUTO, QUANTIZATIONS, leanest
from t2local.untrusted import read_document, typed

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
PLAIN = {".json": 256 * 2**20, ".txt": 256 * 2**20, ".jinja": 2**20, ".model": 256 * 2**20}
SETTINGS = (
    "config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
    "preprocessor_config.json", "processor_config.json", "chat_template.json",
)  # fmt: skip
PARAMETERS_A_BYTE = 8  # of the tightest quantisation there is, one bit
OTHER_WAYS = "use `--model FOLDER` with a model that is on this machine, or `--model embedded`"


def check_folder(folder: Path) -> None:
    """Raise `T2LocalError` when `folder` holds no complete transformers checkpoint."""
    if not (folder / "config.json").is_file():
        adapter = (folder / "adapter_config.json").is_file()
        found = "a LoRA adapter, not a model" if adapter else "no config.json"
        raise T2LocalError(
            f"The folder '{folder}' holds {found}; name a folder with config.json, "
            "a tokenizer and *.safetensors weights."
        )
    if not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
        raise T2LocalError(
            f"The folder '{folder}' has a config.json but no weights (*.safetensors); "
            "finish its download, or name another folder."
        )
    check_documents(folder)
    _check_shards(folder)


def read_config(where: str | Path) -> PreTrainedConfig:
    """The configuration of a folder or Hub id, its numbers looked at first.

    Raises `T2LocalError` for damaged files and absurd sizes, and what transformers raises.
    """
    if Path(where).is_dir():
        check_documents(Path(where))
    values, _ = PreTrainedConfig.get_config_dict(where)
    check_sizes(str(where), values)
    return AutoConfig.from_pretrained(where, trust_remote_code=False)


def check_amount(where: str, n_parameters: int) -> None:
    """Raise `T2LocalError` where a folder's weights are far too few for its configuration.

    What is missing would be made up, in memory, before anybody says so.
    """
    found = [path for pattern in WEIGHTS for path in Path(where).glob(pattern)]
    n_bytes = sum(path.stat().st_size for path in found)
    if found and n_parameters > PARAMETERS_A_BYTE * n_bytes + 1_000_000:
        raise T2LocalError(
            f"The config.json of '{where}' describes {n_parameters:,} parameters, and its weights "
            f"have {n_bytes:,} bytes; fetch the model again."
        )


def check_documents(folder: Path) -> None:
    """Raise `T2LocalError` for what is no plain file in a model's folder, and damaged JSON.

    transformers would wait for a pipe, and fill the memory with a file that is far too large.
    """
    for path in folder.iterdir():
        kind = path.suffix
        if kind in PLAIN and not (path.is_file() and path.stat().st_size <= PLAIN[kind]):
            raise T2LocalError(
                f"'{path}' is no plain file of at most {PLAIN[kind] / 2**20:.0f} MB; "
                "fetch the model again."
            )
        if path.name in SETTINGS:
            try:
                # Mamba's has an infinite limit; what transformers reads may name a thing twice.
                read_document(path, finite=False, once=False)
            except (OSError, ValueError) as error:
                raise T2LocalError(
                    f"'{path}' is damaged ({first_line(error)}); fetch the model again."
                ) from error


def shards_of(index: Path) -> set[str]:
    """The weight files that a checkpoint's index lists. Raises `OSError`, `ValueError`."""
    listed = set(typed(Index, read_document(index, once=False))["weight_map"].values())
    if outside := [name for name in listed if Path(name).name != name]:
        raise ValueError(f"'{outside[0][:60]}' is no file in the folder")
    return listed


class Index(TypedDict):
    """An index of weights: tensor -> file."""

    weight_map: Mapping[str, str]


def _check_shards(folder: Path) -> None:
    """Raise `T2LocalError` when weight files that the checkpoint's index lists are not there."""
    for index in folder.glob("*.index.json"):
        try:
            listed = shards_of(index)
        except (OSError, ValueError) as error:
            raise T2LocalError(
                f"The index of weights '{index}' is damaged ({first_line(error)}); fetch it again."
            ) from error
        missing = sorted(name for name in listed if not (folder / name).is_file())
        if missing:
            raise T2LocalError(
                f"The folder '{folder}' lacks {len(missing)} of {len(listed)} weight files "
                f"(such as {missing[0]}); finish its download, or name another folder."
            )


def check_hub_id(source: str, path: Path) -> None:
    """Raise `T2LocalError` when `source` can be neither a Hub id nor a path that exists."""
    if path.is_file():
        raise T2LocalError(
            f"'{source}' is a file, but not a .gguf file; name a .gguf file, the model's folder, "
            "or a Hub id."
        )
    if not HUB_ID.fullmatch(source) or source.endswith((".gguf", ".safetensors")):
        raise T2LocalError(
            f"No model at '{source}': there is no such folder or file; check the path, give a Hub "
            "id such as Qwen/Qwen2.5-0.5B-Instruct, or use 'embedded'."
        )


def stored_quantization(config: PreTrainedConfig, where: str, asked: str) -> str | None:
    """The quantisation a checkpoint is stored in, None for float weights.

    Raises `T2LocalError` for a method other than bitsandbytes', and when `asked` contradicts it.
    """
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    settings = settings if isinstance(settings, dict) else settings.to_dict()
    method = settings.get("quant_method", "unknown")
    kinds = [
        kind.name
        for kind in QUANTIZATIONS.values()
        if kind.bitsandbytes and kind.bitsandbytes.items() <= settings.items()
    ]
    if method != "bitsandbytes" or not kinds:
        raise T2LocalError(
            f"'{where}' is stored quantised by '{method}', which t2local cannot adapt; "
            f"use the model's float checkpoint (with `--quantize {leanest().name}` if memory "
            "is short)."
        )
    stored = kinds[0]
    if asked not in (AUTO, stored):
        raise T2LocalError(
            f"'{where}' is stored as {stored} and cannot be loaded as '{asked}'; "
            f"use `--quantize {stored}`, or the model's float checkpoint."
        )
    return stored


def check_weights(where: str, missing: Collection[str]) -> None:
    """Raise `T2LocalError` when weights were not in the checkpoint and are random instead."""
    if missing:
        raise T2LocalError(
            f"The checkpoint '{where}' lacks {len(missing)} weights of its model "
            f"(such as {min(missing)}); finish its download, or choose a causal language model."
        )


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn what transformers raises inside the block into one `T2LocalError`."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise T2LocalError(
            f"'{where}' does not fit into the GPU's memory; use `--quantize {leanest().name}`, "
            "or a smaller model."
        ) from error
    except (T2LocalError, AssertionError):
        raise
    except Exception as error:  # the tokenizers library raises `Exception` itself
        raise T2LocalError(explain(where, error)) from error


def explain(where: str, error: BaseException) -> str:
    """One sentence for an error raised while loading `where`."""
    chain = list(causes(error))
    if found := _explain_hub(where, chain):
        return found
    text = " ".join(str(e) for e in chain)
    if "Unrecognized configuration class" in text:
        kind = re.search(r"configuration class <class '[\w.]*\.(\w+)Config'>", text)
        return (
            f"'{where}' is not a causal language model "
            f"({kind[1] if kind else 'its architecture'} has no text generation head); "
            "choose a model for text generation."
        )
    if "model type" in text and ("does not recognize" in text or "not recogn" in text):
        kind = re.search(r"model type `?([\w.-]+)`?", text)
        return (
            f"'{where}' has an architecture ({kind[1] if kind else 'unnamed'}) that this version "
            "of transformers does not know; choose a Llama, Mistral, Qwen, Gemma or Phi model."
        )
    if "trust_remote_code" in text:
        return (
            f"'{where}' wants to run its own code, which t2local never does; "
            "choose a model whose architecture transformers knows."
        )
    if "instantiate the backend tokenizer" in text:
        return f"'{where}' has no tokenizer; add its tokenizer.json, or name another folder."
    if "ignore_mismatched_sizes" in text:
        return f"The weights of '{where}' do not have the sizes of its config.json; fetch it again."
    if "no kernel image is available" in text or "not compatible with the current PyTorch" in text:
        return (
            f"'{where}' cannot run on this GPU, which is too old for the installed PyTorch (its "
            "compute capability is not among those it was built for); install a PyTorch built for "
            "an older CUDA, or set CUDA_VISIBLE_DEVICES= to use the CPU."
        )
    if any(isinstance(e, SafetensorError) for e in chain):
        return f"The weights of '{where}' are damaged ({first_line(error)}); fetch them again."
    return f"'{where}' could not be loaded ({first_line(error)}); {OTHER_WAYS}."


def _explain_hub(where: str, chain: list[BaseException]) -> str | None:
    """The sentence for an error of the Hub or of the network, None for any other."""
    kinds = tuple(type(e) for e in chain)

    def among(*wanted: type) -> bool:
        return any(issubclass(kind, wanted) for kind in kinds)

    if among(hub.GatedRepoError):
        return (
            f"'{where}' is gated: accept its licence on the model's page, then set HF_TOKEN or run "
            f"`hf auth login`; or {OTHER_WAYS}."
        )
    if among(hub.RepositoryNotFoundError, hub.HFValidationError):
        return (
            f"There is no public model '{where}' on the Hub; check the spelling "
            f"(owner/name), set HF_TOKEN if it is private, or {OTHER_WAYS}."
        )
    if among(hub.OfflineModeIsEnabled, hub.LocalEntryNotFoundError, ConnectionError):
        return (
            f"'{where}' is not in the local Hub cache and the Hub cannot be reached "
            f"(offline, or HF_HUB_OFFLINE is set); connect once to fetch it, or {OTHER_WAYS}."
        )
    if among(hub.EntryNotFoundError):
        return f"'{where}' holds no model that transformers can read; {OTHER_WAYS}."
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


# --- Other libraries' progress bars and warnings.


BUILDING = threading.RLock()  # `no_init_weights` changes a class of transformers for all threads


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars, and only errors from transformers and accelerate; restored after it."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    accelerate = python_logging.getLogger("accelerate")
    before = accelerate.level
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    accelerate.setLevel(python_logging.ERROR)
    try:
        yield
    finally:
        accelerate.setLevel(before)
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """No progress bar from huggingface_hub inside the block; restored after it."""
    bars = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if bars:
            enable_progress_bars()
