"""The next tokens of some rows by compiled loops: a Llama-like model of grouped weights on a CPU.

A step is one call a thread (`models.groups.model_step`): norms, products, attention and the SVF
branches of a `z` that may be another for each row, in float32 throughout. Nothing is rounded beyond
what the file and the int8 bases hold. Rows have caches of their own length, so that they come and
go. Prompts are read by the ordinary forward.
"""

import copy
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from t2local.models.fit.anatomy import steps_problem
from t2local.models.fit.memory import free_bytes
from t2local.models.groups.codes import LANES, Groups, rounded
from t2local.models.groups.linear import (
    WORKERS,
    GroupedEmbedding,
    GroupedLinear,
    compiling_problem,
    dense,
    matrix_line,
    rounds_in_pairs,
)
from t2local.models.load.loader import LoadedModel
from t2local.models.storage import NONE

MATRICES = (
    *(f"self_attn.{part}_proj" for part in "qkvo"),
    *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
)
ROOM = 256  # tokens that a cache grows by at least


@dataclass(frozen=True)
class Branch:
    """Where a matrix takes its `z`: int8 `vectors` `[r, r]` at its "in" or "out" side."""

    vectors: Tensor
    side: str


def compiled_problem(model: PreTrainedModel) -> str:
    """Why this model's steps are not compiled, in a few words; "" when they are."""
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if not isinstance(head, GroupedLinear) or not isinstance(table, GroupedEmbedding):
        return "its weights are not those of a GGUF file"
    return steps_problem(model) or compiling_problem()


class RowCache:
    """Keys and values of one sequence, a layer each `[kv, capacity, d]`, with room to grow."""

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Take over what was read: `[kv, T, d]` each."""
        self.length = keys[0].shape[1]
        self.capacity = self.length
        self.keys, self.values = list(keys), list(values)

    @classmethod
    def of(cls, ordinary: DynamicCache, row: int = 0, padding: int = 0) -> "RowCache":
        """One row of transformers' cache, without its padding on the left."""
        parts = [
            [
                getattr(layer, kind)[row, :, padding:].float().contiguous()
                for layer in ordinary.layers
            ]
            for kind in ("keys", "values")
        ]
        return cls(*parts)

    def get_seq_length(self) -> int:
        """Tokens read so far, by the name that transformers' caches use."""
        return self.length

    def take_in(self) -> None:
        """One more of the tokens that were read ahead belongs to the sequence."""
        self.length += 1

    def make_room(self, tokens: int = 1) -> None:
        """See that so many more tokens fit."""
        if self.length + tokens <= self.capacity:
            return
        self.capacity = max(self.length + ROOM, self.length * 3 // 2)
        self.keys = [self._grown(old) for old in self.keys]
        self.values = [self._grown(old) for old in self.values]

    def ordinary(self) -> DynamicCache:
        """The same as transformers' cache."""
        cache = DynamicCache()
        for index, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            cache.update(keys[None, :, : self.length], values[None, :, : self.length], index)
        return cache

    def copy(self) -> "RowCache":
        """Another row that goes on from here."""
        kept = [
            [part[:, : self.length].clone() for part in parts] for parts in (self.keys, self.values)
        ]
        return RowCache(*kept)

    def _grown(self, old: Tensor) -> Tensor:
        new = old.new_empty(old.shape[0], self.capacity, old.shape[2])
        new[:, : self.length] = old[:, : self.length]
        return new


Deltas = Mapping[str, Tensor]  # matrix name -> `z − 1` times the basis' squared scale, float32


class CompiledSteps:
    """The steps of one model. `layers`: matrix name -> its grouped layer, where the
    model has another in its place, and so `head`; `branches`: its basis.
    `in_force()`: the deltas that the model's own forward obeys; None: something else.

    Its buffers serve one step at a time, whoever asks; the bases and weights are only read.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layers: Mapping[str, GroupedLinear],
        branches: Mapping[str, Branch],
        context_length: int,
        in_force: Callable[[], Deltas | None],
        head: GroupedLinear | None = None,
    ) -> None:
        from t2local.models.groups import model_step, products

        config, self._products, self._loops = model.config, products, model_step
        self._branches, self._in_force = dict(branches), in_force
        self._table = model.get_input_embeddings()
        self._head = head or model.get_output_embeddings()
        self._names = [
            [f"model.layers.{index}.{name}" for name in MATRICES]
            for index in range(config.num_hidden_layers)
        ]
        self._width = model.model.layers[0].self_attn.head_dim
        self._heads, self._kv = config.num_attention_heads, config.num_key_value_heads
        self._inner, self._hidden = config.intermediate_size, config.hidden_size
        self._epsilon = np.array([config.rms_norm_eps], np.float32)
        self._norms = [
            (block.input_layernorm.weight, block.post_attention_layernorm.weight)
            for block in model.model.layers
        ]
        self._last_norm = model.model.norm.weight
        self._layers = layers = {
            name: layers.get(name) or model.get_submodule(name)
            for names in self._names
            for name in names
        }
        self._lines = np.stack(
            [[self._line(layers[name], name) for name in names] for names in self._names]
        )
        self._line_of_head = matrix_line(self._head.groups)[None]
        self._others = np.array(
            [self._beside(i, layers) for i in range(len(self._names))], np.int64
        )
        positions = torch.arange(context_length)[None]
        cosines, sines = model.model.rotary_emb(self._last_norm, positions)  # [1, T, d]
        self._cosines, self._sines = (np.ascontiguousarray(t[0].numpy()) for t in (cosines, sines))
        self._buffers: _Buffers | None = None
        self._buffers_lock = threading.Lock()  # guards what a step writes to

    @property
    def held_bytes(self) -> int:
        """What its weights, cosines and sines take."""
        layers = (*self._layers.values(), self._head)
        parts = sum(part.nbytes for layer in layers for part in layer.buffers())
        return parts + self._cosines.nbytes + self._sines.nbytes

    @property
    def deltas(self) -> Deltas | None:
        """What adapts the model's own forward now; None where steps here cannot do the same."""
        return self._in_force()

    @torch.no_grad()
    def folded(self, deltas: Deltas) -> "CompiledSteps":
        """Steps under `deltas` `[r]` alone, with them in the weights, all rounded to bfloat16.

        For many rows and tokens under one `z`: two bytes a number of the model, and some seconds.
        Ask `folding_problem` first.
        """
        other = copy.copy(self)
        other._buffers, other._buffers_lock = None, threading.Lock()
        other._branches, other._in_force = {}, dict
        held = []

        def line(layer: GroupedLinear, name: str) -> np.ndarray:
            pairs = _pairs(_folded(layer.groups, self._branches.get(name), deltas.get(name)))
            held.append(pairs)
            return self._products.pairs_line(
                pairs.data_ptr(), layer.out_features, layer.in_features
            )

        other._lines = np.stack(
            [[line(self._layers[name], name) for name in names] for names in self._names]
        )
        other._line_of_head = line(self._head, "")[None]
        other._folded_weights = held  # the lines hold addresses
        return other

    def row(self, ordinary: DynamicCache, row: int, padding: int) -> RowCache:
        """A row of transformers' cache, without its padding on the left, for `step`."""
        return RowCache.of(ordinary, row, padding)

    @torch.no_grad()
    def step(self, caches: Sequence[RowCache], tokens: Tensor, deltas: Deltas) -> Tensor:
        """Next-token logits `[B, V]` after `tokens` `[B]`, which join the caches.

        `deltas`: `[r]` for all rows, or `[B, 1, r]`; a missing name is the base model's.
        """
        with self._buffers_lock:
            logits = self._made(caches, tokens, deltas)
        for cache in caches:
            cache.length += 1
        return logits

    @torch.no_grad()
    def several(self, cache: RowCache, tokens: Tensor, deltas: Deltas) -> Tensor:
        """Logits `[k, V]` after each of the next tokens `[k]` of one row, under `deltas` `[r]`.

        The first joins the cache, the others do by its `take_in`.
        """
        assert len(tokens) <= ROOM, len(tokens)
        cache.make_room(len(tokens))
        rows = [copy.copy(cache) for _ in tokens]
        for later, row in enumerate(rows):
            row.length += later
        with self._buffers_lock:
            logits = self._made(rows, tokens, deltas)
        cache.length += 1
        return logits

    def _made(self, caches: Sequence[RowCache], tokens: Tensor, deltas: Deltas) -> Tensor:
        rows = len(caches)
        buffers = self._buffers_for(rows)
        buffers.states[:, : self._hidden] = self._table(tokens)
        matrices, held = self._with(deltas, rows)
        for cache in caches:
            cache.make_room()
        places = np.array(
            [
                [(c.keys[i].data_ptr(), c.values[i].data_ptr()) for c in caches]
                for i in range(len(self._names))
            ],
            np.int64,
        )
        lengths = np.array([cache.length for cache in caches], np.int64)
        capacities = np.array([cache.capacity for cache in caches], np.int64)
        assert lengths.max() < len(self._cosines), (lengths.max(), len(self._cosines))
        buffers.counters[:] = 0
        logits = torch.empty(rows, int(buffers.sizes[-1]))  # the caller's to keep
        buffers.places[-1] = logits.data_ptr()
        WORKERS.together(
            self._loops.step_of,
            (
                len(self._names), rows, *self._cosines.T.shape, matrices.ctypes.data,
                self._others.ctypes.data, self._line_of_head.ctypes.data,
                self._last_norm.data_ptr(), self._epsilon.ctypes.data, places.ctypes.data,
                lengths.ctypes.data, capacities.ctypes.data, self._cosines.ctypes.data,
                self._sines.ctypes.data, buffers.sizes.ctypes.data, buffers.places.ctypes.data,
                buffers.barrier.ctypes.data, buffers.counters.ctypes.data,
            ),
            buffers.threads,
        )  # fmt: skip
        del held
        logits, bias = logits[:, : self._head.out_features], self._head.bias
        return logits if bias is None else logits + bias

    def _line(self, layer: GroupedLinear, name: str) -> np.ndarray:
        line, products = matrix_line(layer.groups), self._products
        if branch := self._branches.get(name):
            line[products.BASIS] = branch.vectors.data_ptr()
            line[products.SIDE] = 1 if branch.side == "in" else 2
        return line

    def _beside(self, index: int, layers: Mapping[str, GroupedLinear]) -> list[int]:
        """Addresses of a layer's norms and biases, as `products.step` takes them."""
        biases = [layers[name].bias for name in self._names[index][:3]]
        found = [norm.data_ptr() for norm in self._norms[index]]
        return found + [0 if bias is None else bias.data_ptr() for bias in biases]

    def _with(self, deltas: Deltas, rows: int) -> tuple[np.ndarray, list[Tensor]]:
        """The matrices' lines with a `z`, and the tensors that must live as long."""
        if not deltas:
            return self._lines, []
        products, lines, held = self._products, self._lines.copy(), []
        for i, names in enumerate(self._names):
            for j, name in enumerate(names):
                if name not in deltas:
                    continue
                delta = deltas[name].detach().float().contiguous()  # [r], or [B, 1, r]
                assert delta.dim() == 1 or len(delta) == rows, (name, delta.shape, rows)
                held.append(delta)
                lines[i, j, products.DELTAS] = delta.data_ptr()
                lines[i, j, products.APART] = 0 if delta.dim() == 1 else 4 * delta.shape[-1]
        return lines, held

    def _buffers_for(self, rows: int) -> "_Buffers":
        threads, kept = WORKERS.count, self._buffers
        if kept is None or (len(kept.states), kept.threads) != (rows, threads):
            loops = self._loops
            widest = max(self._inner, self._hidden, self._heads * self._width)
            stride = -(-widest // LANES) * LANES
            sizes = (
                len(self._names), rows, self._hidden, self._heads, self._kv, self._width,
                self._inner, stride, -(-self._head.out_features // LANES) * LANES,
            )  # fmt: skip
            n_counters = (4 * len(self._names) + 1) * loops.COUNTERS
            self._buffers = _Buffers.made(sizes, threads, n_counters, loops.MOST)
        return self._buffers


# --- A float model's steps, from a copy of it in 8 bits.


def rounding_problem(loaded: LoadedModel) -> str:
    """Why there is no such copy, in a few words; "" where there can be, once loops are compiled."""
    if loaded.device != "cpu" or loaded.dtype != "float32" or loaded.quantization != NONE:
        return "only float32 models on the CPU are rounded"
    if loaded.spread:
        return "its layers are spread over memory and disk"
    return steps_problem(loaded.model)


@torch.no_grad()
def rounding_steps(
    loaded: LoadedModel, layers: Mapping[str, nn.Linear], branches: Mapping[str, Branch]
) -> Generator[None, None, CompiledSteps]:
    """Steps of a model of floats `layers`, each group of 32 inputs in 8 bits with a scale.

    One copy serves every mixture, which is a branch beside it. Yields after each matrix. Ask
    `rounding_problem` first.
    """
    model = loaded.model

    def grouped(layer: nn.Linear) -> GroupedLinear:
        return GroupedLinear(rounded(layer.weight), layer.bias)

    indices = range(model.config.num_hidden_layers)
    names = [f"model.layers.{index}.{part}" for index in indices for part in MATRICES]
    copies = {}
    for name in names:
        copies[name] = grouped(layers.get(name) or model.get_submodule(name))
        yield
    head = grouped(model.get_output_embeddings())
    yield
    return CompiledSteps(model, copies, branches, loaded.context_length, lambda: None, head)


# --- A `z` in the weights.

FOLDING_ROOM = 1.5  # of what is free, this part is left to others


def folding_problem(model: PreTrainedModel) -> str:
    """Why `CompiledSteps.folded` cannot be had here, "" where it can."""
    if not rounds_in_pairs():
        return "this processor does not multiply bfloat16"
    needed = folded_bytes(model)
    if FOLDING_ROOM * needed > free_bytes("cpu"):
        return f"a rounded copy of the model takes {needed / 1e9:.1f} GB"
    return ""


def folded_bytes(model: PreTrainedModel) -> int:
    """What `CompiledSteps.folded` takes: two bytes a number of all matrices."""
    grouped = (module for module in model.modules() if isinstance(module, GroupedLinear))
    return 2 * sum(module.in_features * module.out_features for module in grouped)


def _folded(groups: Groups, branch: Branch | None, delta: Tensor | None) -> Tensor:
    """`W'` `[m, n]` bfloat16: products rounded, sums float32."""
    exact = dense(groups)
    if branch is None or delta is None:
        return exact.bfloat16()
    rows, weight = branch.vectors.bfloat16(), exact.bfloat16()
    if branch.side == "in":
        change = ((weight @ rows.T) * delta).bfloat16() @ rows
    else:
        change = rows.T @ (delta[:, None] * (rows @ weight)).bfloat16()
    return exact.add_(change).bfloat16()


def _pairs(weight: Tensor) -> Tensor:
    """bfloat16 `[m, n]` as `vectors.dot_pairs` reads it: `[blocks, n / 2, 16, 2]`."""
    rows, columns = weight.shape
    blocks = torch.nn.functional.pad(weight, (0, 0, 0, -rows % LANES))
    return blocks.view(-1, LANES, columns // 2, 2).transpose(1, 2).contiguous()


@dataclass
class _Buffers:
    """What a step writes to. `sizes`, `places`: as `products` counts them."""

    states: Tensor  # [B, stride]
    sizes: np.ndarray
    places: np.ndarray
    barrier: np.ndarray
    counters: np.ndarray
    threads: int
    others: list[Tensor] = field(default_factory=list)

    @classmethod
    def made(cls, sizes: tuple[int, ...], threads: int, n_counters: int, most: int) -> "_Buffers":
        rows, stride = sizes[1], sizes[7]
        states, normed, heard = (torch.zeros(rows, stride) for _ in range(3))
        beside, found, changed = (torch.zeros(most, rows, stride) for _ in range(3))
        scratch = torch.zeros(threads, most, rows, stride)
        sums = torch.zeros(threads, rows, stride)
        all_ = [states, normed, heard, beside, found, changed, scratch, sums]
        places = np.array([*(tensor.data_ptr() for tensor in all_), 0], np.int64)  # logits last
        counters, barrier = np.zeros(n_counters, np.int64), np.zeros(1, np.int64)
        return cls(states, np.array(sizes, np.int64), places, barrier, counters, threads, all_)
