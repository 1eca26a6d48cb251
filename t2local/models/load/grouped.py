"""A GGUF's model in the bits that it came in: unpacked once into a cache, read from it later.

The cache lies beside the bases, in a folder named by the file's SHA-256: configuration, tokenizer
and, tensor by tensor, codes and scales as `models.groups` runs them. It is renamed into place when
it is whole. A file's hash is remembered with its size and time: a start reads nothing of the file.
"""

import json
import os
import secrets
import shutil
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from math import prod
from pathlib import Path

import numpy as np
import torch
from accelerate import init_empty_weights
from gguf import GGUFReader, dequantize
from gguf.gguf_reader import ReaderTensor
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.initialization import no_init_weights
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)

from t2local import paths
from t2local.errors import DiskFull, T2LocalError
from t2local.models.groups.codes import FLOATS, GROUP, LANES, READERS, Groups, from_gguf
from t2local.models.groups.linear import GroupedEmbedding, GroupedLinear
from t2local.models.load.gguf import gguf_config, read_gguf_tokenizer, readable
from t2local.models.load.load_errors import BUILDING, quiet_transformers
from t2local.models.load.parts import file_hash
from t2local.progress import Progress
from t2local.untrusted import read_document, typed

LAYOUT = "3"  # of the cache; another one is written anew
MANIFEST = "t2local.json"
STAGE = "unpacking the model, once"
PARTS = ("codes", "scales", "offsets")


def problem(path: Path) -> str:
    """Why a `.gguf` file is not run from its own bits, in a few words; "" where it is."""
    if kept_folder(path):
        return ""
    with readable(path):
        reader = GGUFReader(path)
        matrices = [tensor for tensor in reader.tensors if _is_matrix(tensor)]
        floats = sum(t.n_elements for t in matrices if t.tensor_type in FLOATS)
        if 2 * floats > sum(tensor.n_elements for tensor in matrices):
            return "its weights are floats, which would be rounded"
        architecture = _architecture(reader)
        processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)
        if processor.__name__ not in PLAIN:
            return f"the tensors of {architecture} models are stored in an order of their own"
    return ""


PLAIN = {"TensorProcessor", "LlamaTensorProcessor"}  # tensors as they are, or with rows in turn


def cache_bytes(path: Path) -> int:
    """Bytes that the unpacked file takes."""
    if kept := kept_folder(path):
        return sum(file.stat().st_size for file in kept.glob("tensors-*"))
    with readable(path):
        return sum(_unpacked_bytes(tensor) for tensor in GGUFReader(path).tensors)


def kept_folder(path: Path) -> Path | None:
    """Where the file has been unpacked before, None where it has not."""
    folder = _cache_dir() / file_hash(path)
    return folder if _is_complete(folder) else None


def unpacked(path: Path) -> Generator[Progress, None, Path]:
    """The folder of the unpacked file, written when it is not there yet.

    Raises `T2LocalError` for a file that cannot be read or is quantised in an unknown way, and
    `DiskFull` before anything is written. Closing the generator leaves nothing behind.
    """
    folder = _cache_dir() / file_hash(path)
    if _is_complete(folder):
        return folder
    with readable(path):
        reader = GGUFReader(path)
        _check_types(path, reader)
        needed = sum(_unpacked_bytes(tensor) for tensor in reader.tensors)
        staging = _room_for(path, folder, needed)
        try:
            yield Progress(f"{STAGE} ({needed / 1e9:.1f} GB on the disk)", 0, len(reader.tensors))
            with quiet_transformers():
                config = gguf_config(path)
                config.save_pretrained(staging)
                read_gguf_tokenizer(path).save_pretrained(staging)
                index = {}
                for done, found in enumerate(_converted(config, reader), 1):
                    _write(staging, done, found, index)
                    yield Progress(
                        f"{STAGE} ({needed / 1e9:.1f} GB on the disk)", done, len(reader.tensors)
                    )
            _finish(staging, index)
            _into_place(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return folder


def open_unpacked(folder: Path) -> tuple[PreTrainedModel, Tokenizer]:
    """The model and tokenizer of a folder from `unpacked`."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    number = read_document(folder / MANIFEST)["number"]
    with BUILDING, init_empty_weights(include_buffers=False), no_init_weights():
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    table = next(n for n, m in model.named_modules() if m is model.get_input_embeddings())
    with ThreadPoolExecutor(1) as pool:  # the disk and the parser of a tokenizer work side by side
        reading = pool.submit(lambda: dict(_read(folder, table)))
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        tensors = reading.result()
    for name, module in list(model.named_modules()):
        if f"{name}.codes" not in tensors:
            continue
        parts = [tensors.pop(f"{name}.{part}", None) for part in PARTS]
        groups = Groups(*parts, *module.weight.shape)
        if not groups.whole:  # compiled loops check nothing
            raise T2LocalError(
                f"The weights of '{name}' do not have the size that the model's configuration "
                f"says, {list(module.weight.shape)}; fetch the file again, or choose another model."
            )
        if isinstance(module, nn.Embedding):
            new = GroupedEmbedding(groups)
        else:
            new = GroupedLinear(groups, module.bias, f"{number} {name}")
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, new)
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if isinstance(head, nn.Linear) and not isinstance(head, GroupedLinear):  # tied to the table
        model.set_output_embeddings(GroupedLinear(table.groups))
    missing, unknown = model.load_state_dict(tensors, strict=False, assign=True)
    model.generation_config.eos_token_id = config.eos_token_id
    left = [name for name in missing if name.rpartition(".")[2] not in PARTS]
    if wrong := [*left, *unknown]:
        raise T2LocalError(
            f"The file lacks weights of its model, or has some that it does not know ('{wrong[0]}' "
            f"and {len(wrong) - 1} others); fetch it again, or choose another model."
        )
    return model, tokenizer


def _cache_dir() -> Path:
    return paths.basis_dir() / "gguf"


# --- Conversion.


def _check_types(path: Path, reader: GGUFReader) -> None:
    for tensor in reader.tensors:
        known = (*FLOATS, *READERS)
        if _is_matrix(tensor) and (tensor.tensor_type not in known or tensor.shape[0] % GROUP):
            names = ", ".join(kind.name for kind in known)
            raise T2LocalError(
                f"'{path.name}' holds '{tensor.name}' as {tensor.tensor_type.name} in rows of "
                f"{tensor.shape[0]}, which is not run from its own bits; use `--quantize none`, or "
                f"fetch a version in one of these: {names} (Q4_K_M and Q8_0 are the usual ones)."
            )


def _converted(config: PreTrainedConfig, reader: GGUFReader) -> Iterator[dict[str, Tensor]]:
    """The tensors that each of the file's becomes, by transformers' names, in the file's order."""
    processor = TENSOR_PROCESSORS.get(_architecture(reader), TensorProcessor)(
        config=config.to_dict()
    )
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    names = get_gguf_hf_weights_map(empty, processor)

    def convert(stored: ReaderTensor) -> dict[str, Tensor]:
        return _one(stored, processor, names)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from _in_order(pool, convert, reader.tensors)


def _in_order(pool: ThreadPoolExecutor, work, items: Iterable) -> Iterator:
    """`pool.map` that never runs far ahead of who takes the results."""
    waiting, rest = [], iter(items)
    for item in islice(rest, 2 * (os.cpu_count() or 1)):
        waiting.append(pool.submit(work, item))
    while waiting:
        yield waiting.pop(0).result()
        waiting += [pool.submit(work, item) for item in islice(rest, 1)]


def _one(
    stored: ReaderTensor, processor: TensorProcessor, names: dict[str, str]
) -> dict[str, Tensor]:
    matrix = _is_matrix(stored)
    # Some architectures store rows in another order: their numbers are put in order as rows are.
    numbers = np.arange(stored.shape[1])[:, None] if matrix else None
    found = processor.process(
        weights=numbers if matrix else dequantize(stored.data, stored.tensor_type),
        name=stored.name,
        tensor_key_mapping=names,
        parsed_parameters={"tensors": {}},
    )
    if found.name not in names:
        return {}
    name = names[found.name]
    if not matrix:
        values = np.require(found.weights, np.float32, ["C", "W"])
        return {name: torch.from_numpy(values)}
    data = np.asarray(stored.data).reshape(int(stored.shape[1]), -1)
    order = np.asarray(found.weights)[:, 0].astype(np.int64)
    if not np.array_equal(order, np.arange(len(order))):
        data = data[order]
    groups = from_gguf(data, stored.tensor_type)
    owner = name.removesuffix(".weight")
    parts = zip(PARTS, (groups.codes, groups.scales, groups.offsets), strict=True)
    return {f"{owner}.{part}": tensor for part, tensor in parts if tensor is not None}


def _is_matrix(stored: ReaderTensor) -> bool:
    return len(stored.shape) == 2


def _architecture(reader: GGUFReader) -> str:
    return reader.fields["general.architecture"].contents()


def _unpacked_bytes(stored: ReaderTensor) -> int:
    """Bytes of a tensor in the cache; its rows are made up to whole blocks."""
    if not _is_matrix(stored):
        return 4 * prod(map(int, stored.shape))
    columns, rows = map(int, stored.shape)
    rows += -rows % LANES
    small, offsets, group = KINDS.get(stored.tensor_type.name, (False, False, 32))
    scales = 2 * rows * (columns // group) * (2 if offsets else 1)
    return int(rows * columns * (0.5 if small else 1)) + scales


KINDS = {  # 4 bits? offsets? group
    "Q4_0": (True, True, 32), "Q4_1": (True, True, 32), "Q4_K": (True, True, 32),
    "Q5_1": (False, True, 32), "Q5_K": (False, True, 32), "Q6_K": (False, False, 16),
}  # fmt: skip


# --- The cache's files.


def _room_for(path: Path, folder: Path, needed: int) -> Path:
    """An empty temporary folder beside `folder`. Raises `DiskFull`."""
    paths.make_folder(folder.parent)
    paths.drop_stale(folder.parent, ".*.part")
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise DiskFull(
            f"Unpacking '{path.name}' takes {needed / 1e9:.1f} GB in '{folder.parent}', where "
            f"{free / 1e9:.1f} GB are free; make room there, or set T2LOCAL_HOME to another disk."
        )
    staging = paths.part_beside(folder)
    paths.make_folder(staging)
    return staging


def _write(folder: Path, number: int, tensors: dict[str, Tensor], index: dict[str, str]) -> None:
    if not tensors:
        return
    file = f"tensors-{number:05d}.safetensors"
    try:
        save_file(tensors, folder / file)
    except (OSError, SafetensorError) as error:
        raise DiskFull(f"'{folder}' cannot be written ({error}); make room there.") from error
    index |= dict.fromkeys(tensors, file)


def _finish(folder: Path, index: dict[str, str]) -> None:
    for file in folder.iterdir():
        paths.sync_file(file)
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    number = secrets.token_hex(16)  # of this very cache: other code may unpack a file otherwise
    manifest = {"layout": LAYOUT, "number": number, "sizes": sizes, "tensors": index}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    paths.keep_private(folder)


def _is_complete(folder: Path) -> bool:
    try:
        manifest = read_document(folder / MANIFEST)
        sizes = typed(dict[str, int], manifest["sizes"])
        whole = all((folder / name).stat().st_size == size for name, size in sizes.items())
        return manifest["layout"] == LAYOUT and bool(typed(str, manifest["number"])) and whole
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _into_place(staging: Path, folder: Path) -> None:
    """Rename what is whole; another process may have been quicker, what is damaged goes."""
    if folder.exists() and not _is_complete(folder):
        paths.move(folder, staging / "damaged")
    try:
        paths.move(staging, folder)
    except OSError:
        if not _is_complete(folder):
            raise


def _read(folder: Path, table: str) -> Iterator[tuple[str, Tensor]]:
    """All tensors, in one piece of memory: in large pages, from which steps are 7 % faster.

    Of the `table` of embeddings few rows are ever looked at: it stays on the disk, mapped.
    """
    places = read_document(folder / MANIFEST)["tensors"]
    mapped = {file for name, file in places.items() if name.startswith(f"{table}.")}
    for file in mapped:
        yield from _tensors(np.memmap(folder / file, np.uint8, mode="c"))
    files = sorted(set(folder.glob("tensors-*.safetensors")) - {folder / file for file in mapped})
    sizes = [-(-file.stat().st_size // ALIGN) * ALIGN for file in files]
    memory = np.empty(sum(sizes) + ALIGN, np.uint8)
    start = -memory.ctypes.data % ALIGN
    for file, size in zip(files, sizes, strict=True):
        with file.open("rb", buffering=0) as stream:
            stream.readinto(memory[start : start + size])
        yield from _tensors(memory[start : start + size])
        start += size


def _tensors(memory: np.ndarray) -> Iterator[tuple[str, Tensor]]:
    """What a safetensors file in memory holds, without a copy."""
    length = int(memory[:8].view(np.uint64)[0])
    header = json.loads(memory[8 : 8 + length].tobytes())
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, last = (8 + length + offset for offset in entry["data_offsets"])
        part = torch.from_numpy(memory[first:last])
        yield name, part.view(DTYPES[entry["dtype"]]).view(entry["shape"])


DTYPES = {"I8": torch.int8, "U8": torch.uint8, "F16": torch.float16, "F32": torch.float32}
ALIGN = 64
