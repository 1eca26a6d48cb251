"""The one place that mutates a model, with its inverse, and the lock that guards the model.

`attach` finds the target matrices, decomposes them and puts the branch beside; `SVFModel` puts a
`z` in force and takes it back; `detach` gives the untouched model again. The `lock` is held by
whoever uses the model, for one forward at a time; it is reentrant and handed on in the order in
which threads asked for it.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from t2local.errors import T2LocalError
from t2local.progress import CancelToken, Progress, drain
from t2local.svf.basis import (
    CONVENTION,
    DTYPES,
    Basis,
    BasisCache,
    decompose,
    find_targets,
    is_conv1d,
    rounded,
    stored_bytes,
    weight_digest,
)
from t2local.svf.fused import ZBuffer, branch_path
from t2local.svf.layer import InForce, SVFLinear, is_quantised, join_siblings, weight_as_used
from t2local.svf.mixing import Z

# --- A reentrant lock that is handed on in the order in which threads asked for it.
#
# Python's own lets a thread that gives up the lock take it again at once, so that a training run
# could starve a chat for minutes; with this one the chat waits for one forward.


class FairLock:
    """`with lock: ...`; the same thread may enter again."""

    def __init__(self) -> None:
        self._state = threading.Lock()  # guards the three below, held for microseconds
        self._owner: int | None = None
        self._depth = 0
        self._waiting: deque[tuple[int, threading.Lock]] = deque()

    def __enter__(self) -> "FairLock":
        me = threading.get_ident()
        with self._state:
            if self._owner in (me, None):
                self._owner, self._depth = me, self._depth + 1
                return self
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append((me, gate))
        try:
            gate.acquire()  # opened by whoever hands the lock on
        except BaseException:  # an interrupt: leave the queue, or pass on what was just handed over
            self._give_up(me, gate)
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        with self._state:
            assert self._owner == threading.get_ident(), "left by a thread that does not hold it"
            self._depth -= 1
            if self._depth == 0:
                self._hand_on()

    def _hand_on(self) -> None:
        self._owner = None
        if self._waiting:
            self._owner, gate = self._waiting.popleft()
            self._depth = 1
            gate.release()

    def _give_up(self, me: int, gate: threading.Lock) -> None:
        with self._state:
            if (me, gate) in self._waiting:
                self._waiting.remove((me, gate))
            else:
                self._depth = 0
                self._hand_on()


class SVFModel:
    """A model whose target matrices take a multiplier `z` on their singular values.

    `matrix_names`: the adapted matrices, in the model's order. `ranks`: name -> r. `branch_path`:
    how the branch runs here for few rows, in words: fused kernels or PyTorch products.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        bases: Mapping[str, Basis],
        digests: Mapping[str, str],
    ) -> None:
        self.model = model
        self.lock = FairLock()  # held to run the model under some z, and to use what is kept of it
        self._digests = dict(digests)
        self._in_force = InForce()
        self._layers = {
            name: SVFLinear(layer, bases[name], name, self._in_force)
            for name, layer in layers.items()
        }
        self.matrix_names = tuple(self._layers)
        self.ranks = {name: layer.basis.rank for name, layer in self._layers.items()}
        for name, layer in self._layers.items():
            _replace(model, name, layer)
        join_siblings(self._layers, self._in_force)
        devices = dict.fromkeys(basis.sigma.device for basis in bases.values())
        # Tried here and now: inside a captured graph there is no trying.
        self.branch_path = ", ".join(dict.fromkeys(map(branch_path, devices)))

    @property
    def singular_values(self) -> dict[str, torch.Tensor]:
        """Matrix name -> σ `[r]` float32, falling."""
        return {name: layer.basis.sigma for name, layer in self._layers.items()}

    def fingerprint(
        self, names: Iterable[str] | None = None, elsewhere: Mapping[str, str] | None = None
    ) -> str:
        """Identifies the weights of `names` (default: all) and the convention.

        Never the bits of a basis, which differ between machines' LAPACKs. Unknown names are left
        out, so that they can only make fingerprints differ. `elsewhere`: what a matrix is called
        in another model, whose fingerprint this one's is to be compared with.
        """
        chosen = self.matrix_names if names is None else names
        known = sorted(set(chosen) & self._digests.keys())
        called = elsewhere or {}
        lines = [CONVENTION, *(f"{called.get(name, name)} {self._digests[name]}" for name in known)]
        return "svf1-" + hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]

    @property
    def layers(self) -> dict[str, SVFLinear]:
        """Matrix name -> the layer in the model's place of it."""
        return dict(self._layers)

    @property
    def base_layers(self) -> dict[str, nn.Module]:
        """Matrix name -> the untouched layer that the branch is beside."""
        return {name: layer.base for name, layer in self._layers.items()}

    @property
    def basis_dtype(self) -> str:
        """How the bases are stored, by its name in `DTYPES`."""
        stored = next(iter(self._layers.values())).basis.vectors.dtype
        return next(name for name, dtype in DTYPES.items() if dtype == stored)

    @property
    def basis_bytes(self) -> int:
        return sum(
            t.numel() * t.element_size()
            for layer in self._layers.values()
            for t in (layer.basis.vectors, layer.basis.sigma, layer.basis.scale)
            if t is not None
        )

    def identity(self) -> Z:
        """The `z` of the base model: matrix name -> ones `[r]` float32."""
        return {name: torch.ones_like(layer.basis.sigma) for name, layer in self._layers.items()}

    def deltas(self, z: Z) -> Z:
        """What the branch multiplies by: `z − 1`, times the squared scale of a basis that has one.

        `[r]`, or `[B, 1, r]` for rows. Raises `T2LocalError` like `using`.
        """
        return self._deltas(z)

    @property
    def deltas_in_force(self) -> Mapping[str, torch.Tensor] | None:
        """The `deltas` that the layers obey now; None where they obey something else."""
        now = self._in_force
        return None if now.matrices or now.instead else now.deltas

    @contextmanager
    def using(self, z: Z) -> Iterator[None]:
        """Adapt the model by `z` inside the block; restores what was in force before.

        The block holds `lock`: another thread's `using` waits, so keep it to one forward where
        others share the model.

        `z`: name -> `[r]`, or a row for each sequence `[B, r]`, or for each token `[B, T, r]`.
        A missing name means 1. Raises `T2LocalError` for an unknown name or a wrong length.
        """
        with self._obeying(deltas=self._deltas(z)):
            yield

    @contextmanager
    def using_deltas(self, deltas: Z) -> Iterator[None]:
        """`using` of a `z` whose `deltas` are at hand: for many forwards under one."""
        with self._obeying(deltas=deltas):
            yield

    def buffer(self, rows: int | None = None, names: Iterable[str] | None = None) -> ZBuffer:
        """A `z` that never moves, 1 at first, for `names` (default: all matrices).

        `rows`: a `z` for each of that many rows.
        """
        chosen = self.matrix_names if names is None else names
        return ZBuffer({name: self._layers[name].basis for name in chosen}, rows)

    def fill(self, buffer: ZBuffer, z: Z) -> None:
        """Change the `z` in `buffer`: `[r]` or `[rows, r]`. Raises `T2LocalError` like `using`."""
        with self.lock:
            buffer.fill(self.checked(z))

    @contextmanager
    def using_buffer(self, buffer: ZBuffer) -> Iterator[None]:
        """Like `using`, under whatever `z` is in `buffer`; its changes take effect at once."""
        with self._obeying(deltas=buffer.deltas):
            yield

    def rebuild(self, z: Z) -> dict[str, torch.Tensor]:
        """`W'` `[m, n]` of every matrix that `z` (`[r]` a matrix) changes: about a second.

        For a `z` that stays as it is over many tokens of a float model. Where `z` asks for a
        gradient, its matrices are all there, changed or not. Raises `T2LocalError` on a quantised
        base.
        """
        wanted = {
            name: row.detach().float() - 1
            for name, row in self.checked(z).items()
            if row.requires_grad or (row != 1).any()
        }
        return {name: self._layers[name].rebuild(delta) for name, delta in wanted.items()}

    @contextmanager
    def using_rebuilt(
        self, matrices: Mapping[str, torch.Tensor], trained: Z | None = None
    ) -> Iterator[None]:
        """Like `using`, with matrices from `rebuild`: the base model's own speed.

        `trained`: the `z` they were rebuilt from, to receive gradients (`svf.layer.RebuiltLinear`).
        """
        with self._obeying(matrices=matrices, trained=trained or {}):
            yield

    @contextmanager
    def using_instead(self, layers: Mapping[str, nn.Module]) -> Iterator[None]:
        """Let other layers stand in for the named ones (another method beside SVF)."""
        assert layers.keys() <= self._layers.keys(), layers.keys() - self._layers.keys()
        with self._obeying(instead=layers):
            yield

    @contextmanager
    def _obeying(self, **wanted: Mapping) -> Iterator[None]:
        with self.lock:
            before = replace(self._in_force)
            self._in_force.obey(InForce(**wanted))
            try:
                yield
            finally:
                self._in_force.obey(before)

    def detach(self) -> nn.Module:
        """Put the original layers back and give the untouched model."""
        for name, layer in self._layers.items():
            _replace(self.model, name, layer.base)
        self._layers = {}
        return self.model

    def checked(self, z: Z) -> Z:
        """`z` itself. Raises `T2LocalError` for an unknown name or a wrong length."""
        for name, row in z.items():
            if name not in self._layers:
                raise T2LocalError(
                    f"z names the matrix '{name}', which this model does not adapt (its first is "
                    f"'{self.matrix_names[0]}'); use an expert made for this model and targets."
                )
            if row.shape[-1] != self.ranks[name] or row.dim() > 3:
                raise T2LocalError(
                    f"z of '{name}' has shape {list(row.shape)}; this model needs "
                    f"[{self.ranks[name]}], or rows of that length; use an expert made for it."
                )
        return z

    def _deltas(self, z: Z) -> Z:
        """`z − 1` ready for the layers; matrices in which every number is 1 are left out."""
        if not self.checked(z):
            return {}
        if any(row.requires_grad for row in z.values()):
            return {name: self._placed(name, row - 1) for name, row in z.items()}
        if len({row.shape[:-1] for row in z.values()}) > 1:
            changes = {name: row - 1 for name, row in z.items()}
            return {n: self._placed(n, change) for n, change in changes.items() if change.any()}
        # One subtraction and one test for all matrices: a change of z is a copy, in a millisecond.
        flat = torch.cat([row.detach() for row in z.values()], dim=-1).float() - 1  # [..., Σr]
        lengths = [row.shape[-1] for row in z.values()]
        changed = (flat != 0).reshape(-1, flat.shape[-1]).any(dim=0)  # [Σr]
        ends = torch.tensor([0, *accumulate(lengths)], device=flat.device)
        counts = torch.nn.functional.pad(changed.cumsum(0), (1, 0))[ends].tolist()
        return {
            name: self._placed(name, part)
            for name, part, before, after in zip(
                z, flat.split(lengths, dim=-1), counts[:-1], counts[1:], strict=True
            )
            if after > before
        }

    def _placed(self, name: str, change: torch.Tensor) -> torch.Tensor:
        scale = self._layers[name].basis.scale
        change = self._lifted(name, change)
        return change if scale is None else change * scale.square()

    def _lifted(self, name: str, change: torch.Tensor) -> torch.Tensor:
        change = change.to(self._layers[name].basis.sigma.device)
        return change[:, None, :] if change.dim() == 2 else change  # [B, r] -> [B, 1, r]


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


# --- From a model to an `SVFModel`: find the target matrices, decompose them, put the branch
# beside.
#
# Streamed matrix by matrix, with the bases kept on disk, so that a cut-off decomposition goes on
# where it stopped.

STAGE = "Decomposing matrices"
OUTDATED = "Decomposing matrices anew (the kept bases are of another version)"


def attach(
    model: nn.Module,
    targets: str = "all",
    basis_dtype: str = "auto",
    cache_folder: Path | None = None,
) -> SVFModel:
    """Decompose the target matrices of `model` and replace their layers. See `attaching`."""
    return drain(attaching(model, targets, basis_dtype, cache_folder))


def attaching(
    model: nn.Module,
    targets: str = "all",
    basis_dtype: str = "auto",
    cache_folder: Path | None = None,
    cancel: CancelToken | None = None,
) -> Generator[Progress, None, SVFModel]:
    """`attach` with a `Progress` a matrix; the model is changed only after the last one.

    `targets`: all, mlp, attention or a pattern. `basis_dtype`: fp32, bf16, int8, int4, or auto
    (the model's own float dtype). At most one dequantised matrix is in memory at a time.
    The basis of a layer that accelerate keeps in CPU memory or on disk stays in CPU memory too.
    Raises `T2LocalError` (nothing to adapt, too little disk), `Cancelled`.
    """
    taken = [name for name, layer in model.named_modules() if isinstance(layer, SVFLinear)]
    assert not taken, f"{taken[0]} is attached already: detach it first"
    layers = find_targets(model, targets)
    dtype = _storage_dtype(model, basis_dtype)
    cache, digests, bases = BasisCache(cache_folder), {}, {}
    stage = OUTDATED if cache.drop_outdated() else STAGE
    cache.check_room(sum(stored_bytes(_rank(layer), dtype) for layer in layers.values()))
    remembered, new = cache.remembered(), {}
    for done, (name, layer) in enumerate(layers.items()):
        if cancel is not None:
            cancel.raise_if_cancelled()
        yield Progress(stage, done, len(layers), "matrices")
        stored = getattr(layer, "stored_as", "")
        known = remembered.get(stored, "") if stored else ""
        key, bases[name] = _known_or_made(layer, known, cache, dtype)
        digests[name] = key.partition(" ")[0]
        if stored and key != known:
            new[stored] = key
        if any(number.is_meta for number in layer.parameters()):
            bases[name] = replace(bases[name], vectors=bases[name].vectors.cpu())
    cache.remember(new)
    yield Progress(stage, len(layers), len(layers), "matrices")
    return SVFModel(model, layers, bases, digests)


def _known_or_made(
    layer: nn.Module, known: str, cache: BasisCache, dtype: torch.dtype
) -> tuple[str, Basis]:
    """Under which key a layer's basis is kept, and the basis: of `known`, "" where it is not."""
    if known:
        basis = cache.load(known, dtype, next(layer.buffers()).device)
        if basis is not None and basis.rank == _rank(layer):
            return known, basis
    weight = weight_as_used(layer)
    key = f"{weight_digest(weight)} {weight.dtype}"  # float32 is not served a bfloat16 one's basis
    basis = cache.load(key, dtype, weight.device)
    if basis is None:
        basis = rounded(decompose(weight), dtype)
        cache.save(key, dtype, basis)
    return key, basis


def _rank(layer: nn.Module) -> int:
    if is_conv1d(layer):
        return min(layer.weight.shape)
    return min(layer.in_features, layer.out_features)


def _storage_dtype(model: nn.Module, basis_dtype: str) -> torch.dtype:
    if basis_dtype == "auto":
        floats = (p.dtype for p in model.parameters() if p.is_floating_point())
        return next(floats, torch.float32)
    if basis_dtype not in DTYPES:
        raise T2LocalError(
            f"Basis dtype '{basis_dtype}' is unknown; choose auto, {', '.join(DTYPES)}."
        )
    return DTYPES[basis_dtype]


# --- The paper's own form, for many rows of differing `z`: `W'x = P (z ⊙ Qx)` with `P Q = W`.
#
#     in side    Q = Vᵀ    P = W V
#     out side   Q = UᵀW   P = U
#
# A batch in which every row has its own `z` is bound by arithmetic, not by reading weights. The
# branch costs `2 r² + m n` products a token and matrix, this form `r (m + n)`: a quarter less on
# the embedded model. The price is a copy of the weights, and that a row of `z = 1` is the base
# model to rounding only. For searches and evaluations on float models; the chat keeps the branch.


class FactoredLinear(nn.Module):
    """`first` Q `[r, n]`, `second` P `[m, r]`, `z` `[r]`, `[B, 1, r]` or `[B, T, r]`."""

    def __init__(self, layer: SVFLinear) -> None:
        super().__init__()
        weight, rows = weight_as_used(layer.base).float(), layer.basis.dense()
        dtype = layer.base.weight.dtype
        if layer.basis.side == "in":
            first, second = rows, weight @ rows.T
        else:
            first, second = rows @ weight, rows.T
        self.first, self.second = first.to(dtype), second.to(dtype)
        self.bias = layer.bias
        self.z: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, T, n] -> [B, T, m]
        return F.linear(F.linear(x, self.first) * self.z, self.second, self.bias)


class FactoredModel:
    """The adapted matrices of `svf` in two factors each; about a second and a copy of the weights.

    Raises `T2LocalError` on a quantised base, which has no exact factors.
    """

    def __init__(self, svf: SVFModel) -> None:
        self.svf = svf
        for name, layer in svf.base_layers.items():
            if is_quantised(layer):
                raise T2LocalError(
                    f"'{name}' is a {type(layer).__name__} layer, which cannot be factored "
                    "exactly; use the branch (`svf.using`) on a quantised model."
                )
        self._layers = {name: FactoredLinear(layer) for name, layer in svf.layers.items()}

    @contextmanager
    def using(self, z: Z) -> Iterator[None]:
        """As `SVFModel.using`, without gradients. Matrices that `z` leaves out are the base's."""
        layers = {name: self._layers[name] for name in self.svf.checked(z)}
        with self.svf.using_instead(layers):
            for name, row in z.items():
                row = row.detach().to(layers[name].first)
                layers[name].z = row[:, None] if row.dim() == 2 else row
            try:
                yield
            finally:
                for layer in layers.values():
                    layer.z = None
