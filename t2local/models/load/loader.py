"""Any causal language model as one value: the embedded one, a folder, a GGUF file or a Hub id.

Hub models come through transformers' own download and cache, so `HF_HOME`, `HF_HUB_OFFLINE` and
`HF_TOKEN` mean what they mean everywhere. No code from a checkpoint is ever run. What goes wrong
is told in one sentence (`load_errors`).
"""

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    DynamicCache,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from t2local import paths
from t2local.errors import T2LocalError
from t2local.models.fit.anatomy import TARGETS, anatomy
from t2local.models.fit.automatic import choose_basis
from t2local.models.fit.catalogue import EMBEDDED
from t2local.models.fit.memory import free_bytes
from t2local.models.groups.compiling import compiling
from t2local.models.groups.linear import compiling_problem
from t2local.models.load import devices, grouped, hub, load_errors, parts, quantized
from t2local.models.load.devices import (
    blocks_returned_when_freed,
    choose_device,
    choose_dtype,
    choose_quantization,
)
from t2local.models.load.gguf import (
    gguf_config,
    read_gguf_model,
    read_gguf_tokenizer,
    write_checkpoint,
)
from t2local.models.load.load_errors import quiet_transformers
from t2local.models.storage import AUTO, GGUF, INT8, NONE, QUANTIZATIONS, asked_for
from t2local.models.vision import Pictures, auto_class, pictures_for
from t2local.progress import CancelToken, Progress

UNKNOWN_CONTEXT_LENGTH = 2048
STAGE = "loading the model"
POLL_S = 0.05
COMPILING = "compiling for this processor"
BASE_NOTE = (
    "This is a base model: it has no chat template, so it is given the chat as plain text, goes on "
    "with it, and may wander off. Load an instruct model for answers to questions."
)
GGUF_FOLDER = "gguf-"  # how the name of a temporary one begins
LOG = logging.getLogger(__name__)


class Steps(Protocol):
    """A quicker way than the forward to the next tokens of some rows (`decode.compiled_steps`)."""

    @property
    def deltas(self) -> Mapping[str, Tensor] | None:
        """What adapts the model now, `[r]` or `[B, 1, r]`; None: in a way that is not for these."""

    def row(self, ordinary: DynamicCache, row: int, padding: int) -> Any:
        """A cache for `step` with what one row of transformers' cache holds."""

    def step(self, caches: Sequence[Any], tokens: Tensor, deltas: Mapping[str, Tensor]) -> Tensor:
        """Next-token logits `[B, V]` after `tokens` `[B]`, which join the caches."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to answer: evaluation mode, no parameter asks for a gradient."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str  # "SmolLM2-135M-Instruct", "meta-llama/Meta-Llama-3-8B-Instruct", a folder's name
    slug: str  # the name as a folder name
    quantization: str  # as in `models.storage`
    dtype: str  # what it computes in: "float32", "bfloat16"
    device: str
    context_length: int  # tokens
    resident_bytes: int
    pictures: Pictures | None = None  # of a vision-language model; None: it reads text only
    steps: Steps | None = None  # compiled ones, once the bases are there; None: by the forward
    notes: tuple[str, ...] = ()  # how it runs here, where that is not as one would expect

    @property
    def spread(self) -> bool:
        """Whether its layers are on several devices, in CPU memory beside a GPU, or on disk."""
        places = set(map(str, getattr(self.model, "hf_device_map", {}).values()))
        return len(places) > 1 or "disk" in places

    @property
    def is_base(self) -> bool:
        """Whether nobody taught it to chat: it has no chat template."""
        return not self.tokenizer.chat_template


def load_model(
    source: str = EMBEDDED, quantization: str = "auto", cancel: CancelToken | None = None
) -> Generator[Progress, None, LoadedModel]:
    """Load `source`: "embedded", a short name of the catalogue, a folder, a `.gguf` or a Hub id.

    The first two are fetched where they are not here yet.

    `quantization`: one of `models.storage`, or "auto" (NF4 on a CUDA GPU for models above two
    billion parameters, else none). Raises `T2LocalError` with a remedy when the model cannot be
    had, `Cancelled` between stages.
    """
    known = asked_for(QUANTIZATIONS)
    if quantization not in known:
        raise T2LocalError(
            f"Quantisation '{quantization}' is unknown; choose one of {', '.join(known)}."
        )
    cancel = cancel or CancelToken()
    where, name = source, source
    if entry := parts.one_file(source):
        path = yield from hub.fetching(entry.id, cancel)
        where, name = str(path), path.stem
    elif path := local_path(source):
        where, name = str(path), path.stem if path.is_file() else path.name
    cancel.raise_if_cancelled()
    yield Progress(STAGE, 0, 2)
    is_gguf = where.endswith(".gguf")
    own_bits = is_gguf and quantization in (AUTO, GGUF) and not torch.cuda.is_available()
    beside = compiling() if own_bits else None
    if beside:
        next(beside, None)  # goes on while the file is read
    kind = _kind_of_gguf(Path(where), quantization) if is_gguf else _kind(where, quantization)
    if kind == GGUF:
        for progress in (unpacking := _Returning(grouped.unpacked(Path(where)))):
            cancel.raise_if_cancelled()
            yield progress
    with quiet_transformers(), blocks_returned_when_freed():
        if kind == GGUF:
            yield from compiled(beside, cancel)
            with load_errors.translated(where):
                model, tokenizer = grouped.open_unpacked(unpacking.result)
        else:
            load = _load_gguf if is_gguf else _load_checkpoint
            model, tokenizer, kind = load(where, kind)
        pictures, unseen = pictures_for(where, model, tokenizer)
    cancel.raise_if_cancelled()
    yield Progress(STAGE, 1, 2)
    loaded = describe(model, tokenizer, name, kind, pictures, unseen)
    for note in loaded.notes:
        LOG.warning(note)
    yield Progress(STAGE, 2, 2)
    return loaded


def compiled(
    beside: Generator[None, None, str] | None = None, cancel: CancelToken | None = None
) -> Generator[Progress, None, None]:
    """Wait until the loops of `models.groups` are compiled: a moment, but for the first time.

    `beside`: that which has been begun. Whether they could be: `compiling_problem`.
    """
    yield Progress(COMPILING, 0, 1)
    with closing(beside or compiling()) as work:
        for _ in work:
            (cancel or CancelToken()).raise_if_cancelled()
            time.sleep(POLL_S)
    compiling_problem()


def model_slug(source: str) -> str:
    """The folder name under which a model's experts are kept, without loading it.

    A name that is neither a folder nor a file is taken as it is.
    """
    entry = parts.one_file(source)
    path = parts.place_of(entry.file) if entry else paths.named(source)
    if path.is_dir():
        return paths.slug(path.resolve().name)
    return paths.slug(path.stem if path.suffix == ".gguf" else source)


def describe(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    kind: str = "none",
    pictures: Pictures | None = None,
    note: str = "",
) -> LoadedModel:
    """Freeze a model and tokenizer into a `LoadedModel`; `note`: another of its notes."""
    model.requires_grad_(False).eval()
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name=name,
        slug=paths.slug(name),
        quantization=kind,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        context_length=_context_length(model.config, tokenizer),
        resident_bytes=quantized.resident_bytes(model),
        pictures=pictures,
        notes=(
            *devices.notes(kind, model.dtype),
            *_spread_notes(model),
            *filter(None, [note, "" if tokenizer.chat_template else BASE_NOTE]),
        ),
    )


def local_path(source: str) -> Path | None:
    """The folder or `.gguf` file `source` names, None for a Hub id.

    Raises `T2LocalError` when `source` looks like a path and nothing usable is there.
    """
    path = paths.named(source)
    if source.strip() and path.is_dir():
        load_errors.check_folder(path)
        return path.resolve()
    if path.is_file() and path.suffix == ".gguf":
        return path.resolve()
    load_errors.check_hub_id(source, path)
    return None


def _load_checkpoint(
    where: str, quantization: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """A folder or Hub id, with its tokenizer and the quantisation it ended up with."""
    with load_errors.translated(where):
        config = load_errors.read_config(where)
        n_parameters = count_parameters(config)
        load_errors.check_amount(where, n_parameters)
        stored = load_errors.stored_quantization(config, where, quantization)
        kind = stored or choose_quantization(quantization, n_parameters)
        if QUANTIZATIONS[kind].bitsandbytes:
            quantized.require_bitsandbytes()
        dtype = choose_dtype(n_parameters, config.get_text_config().model_type)
        where_to = devices.place(config, kind, dtype, devices.free_memory())
        settings = None
        if not stored:
            settings = quantized.quantization_config(kind, dtype, where_to.spread)
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        model, report = auto_class(config).from_pretrained(
            where,
            config=config,
            trust_remote_code=False,
            dtype=dtype,
            quantization_config=settings,
            device_map=where_to.device_map,
            max_memory=where_to.max_memory,
            offload_folder=_offload_folder() if where_to.spread else None,
            output_loading_info=True,
        )
    load_errors.check_weights(where, report["missing_keys"])
    if QUANTIZATIONS[kind].bitsandbytes:
        quantized.keep_weights_as_loaded(model)
    return model, tokenizer, kind


def _kind(where: str, asked: str) -> str:
    """`asked`. Raises `T2LocalError` where a GGUF file's own bits are asked for without one."""
    if asked == GGUF:
        raise T2LocalError(
            f"'{where}' is no `.gguf` file, and `--quantize gguf` is for those; choose nf4, int8 "
            "or none."
        )
    return asked


def _kind_of_gguf(path: Path, asked: str) -> str:
    """What "auto" means for a `.gguf` file: its own bits on a CPU, where its order allows it.

    Raises `T2LocalError` where that was asked for and cannot be.
    """
    if asked not in (AUTO, GGUF) or (asked == AUTO and torch.cuda.is_available()):
        return asked
    problem = grouped.problem(path)
    if asked == GGUF and torch.cuda.is_available():
        problem = "a GPU is in use, and grouped weights are multiplied on the CPU"
    if problem and asked == GGUF:
        raise T2LocalError(
            f"'{path.name}' cannot be run from its own bits ({problem}); use `--quantize none`."
        )
    return NONE if problem else GGUF


def _load_gguf(
    where: str, quantization: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """A `.gguf` file; another quantisation goes through a temporary ordinary checkpoint."""
    path = Path(where)
    with load_errors.translated(where):
        config = gguf_config(path)
        n_parameters = count_parameters(config)
        kind = choose_quantization(quantization, n_parameters)
        dtype = choose_dtype(n_parameters, config.model_type)
        if kind == "none":
            model = read_gguf_model(path, torch.float32)
            return model.to(choose_device(), dtype), read_gguf_tokenizer(path), kind
        home = paths.home()  # /tmp may be memory
        paths.make_folder(home)
        paths.drop_stale(home, f"{GGUF_FOLDER}*")
        # The model reads on from these files: Windows keeps them, until a start a day later.
        last = {"ignore_cleanup_errors": True}
        with tempfile.TemporaryDirectory(prefix=GGUF_FOLDER, dir=home, **last) as folder:
            write_checkpoint(path, Path(folder), dtype, n_parameters)
            return _load_checkpoint(folder, kind)


def count_parameters(config: PreTrainedConfig) -> int:
    """Parameters of the causal language model that `config` describes; no memory is used."""
    with torch.device("meta"):
        return auto_class(config).from_config(config, trust_remote_code=False).num_parameters()


def _offload_folder() -> Path:
    """Where weights go that cannot be read from their checkpoint layer by layer (`.bin` files)."""
    return paths.home() / "offload"


def _spread_notes(model: PreTrainedModel) -> tuple[str, ...]:
    """One sentence on where the layers are, () for a model on one device."""
    places = [str(place) for place in getattr(model, "hf_device_map", {}).values()]
    if len(set(places)) < 2 and "disk" not in places:
        return ()
    names = {"cpu": "in CPU memory", "disk": "on disk"}
    found = [
        f"{count} {names.get(place, f'on GPU {place}')}" for place, count in Counter(places).items()
    ]
    slow = (
        " Those outside a GPU's memory make each token slow."
        if {"cpu", "disk"} & set(places)
        else ""
    )
    return (f"The model does not fit on one device; of its parts {', '.join(found)}.{slow}",)


def _context_length(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that fit; the tokenizer's own limit counts where it is a real one."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None) or UNKNOWN_CONTEXT_LENGTH
    return min(positions, tokenizer.model_max_length)


class _Returning:
    """Iterates a generator and keeps what it returns, where events must be checked one by one."""

    def __init__(self, work: Generator[Progress, None, Path]) -> None:
        self._work = work
        self.result: Path | None = None

    def __iter__(self) -> Generator[Progress, None, None]:
        self.result = yield from self._work


# --- What `--basis auto` means for a loaded model on this machine.


def basis_for(loaded: LoadedModel, asked: str = "auto", targets: str = "all") -> str:
    """`asked`, or int8 on a GPU, or on the CPU the model's own dtype while there is room.

    A pattern of one's own as `targets` counts as all matrices.
    """
    if asked != "auto":
        return asked
    if loaded.quantization == GGUF:
        return INT8  # what compiled steps read
    device = "cuda" if loaded.device.startswith("cuda") else "cpu"
    kind = targets if targets in TARGETS else "all"
    parts = anatomy(loaded.model.config)
    return choose_basis(parts, free_bytes(loaded.device), device, loaded.dtype, kind)
