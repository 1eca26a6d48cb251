"""Putting a mixture in force: which `z`, and the fastest way to apply it.

A mixture that changes is applied by the branch (a millisecond to change). One that is used again
and again on a float model, like the classifier expert's, is rebuilt once into matrices and then
costs nothing a token. On a CPU the steps of an answer are compiled, from a GGUF's own bits or from
a copy of a float model's weights in 8 bits: the only way that is not exact. On a GPU they are CUDA
graphs, and `z` is copied to where they read it.
Departure from the reference code: it rebuilds for every change.
"""

import itertools
from collections import OrderedDict
from collections.abc import Collection, Generator, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch
from transformers import DynamicCache

from t2local import paths
from t2local.errors import T2LocalError
from t2local.models.decode.compiled_steps import (
    Branch,
    CompiledSteps,
    Deltas,
    RowCache,
    compiled_problem,
    rounding_problem,
    rounding_steps,
)
from t2local.models.decode.cuda_graphs import GraphSteps, Variant
from t2local.models.decode.generate import Around, Quick
from t2local.models.decode.out_of_memory import out_of_memory
from t2local.models.fit.estimate import REBUILD_BYTES
from t2local.models.load.devices import blocks_returned_when_freed
from t2local.models.load.loader import LoadedModel
from t2local.models.storage import GGUF
from t2local.progress import CancelToken, Progress
from t2local.svf import Gains, Mixture, SVFModel, Z, attaching, compose
from t2local.svf.basis import Basis, rounded
from t2local.svf.fused import ZBuffer

# --- CUDA graphs under mixtures: a changed `z` is copied to where the graphs read it.
#
# One graph serves the base model, which costs no branch, and one serves all mixtures of the same
# experts, so nothing is captured again while sliders move.


class GraphMixtures:
    """`steps` under mixtures of `svf`'s experts; outlives the experts that come and go.

    Guarded by the model's lock (`SVFModel.lock`), which the caller holds.
    """

    def __init__(self, svf: SVFModel, steps: GraphSteps) -> None:
        self.steps = steps
        self._svf = svf
        self._buffers: dict[frozenset[str], tuple[str, ZBuffer]] = {}  # their variants' names
        self._filled: dict[str, Hashable] = {}  # variant -> key of the z in its buffer

    def under(self, key: Hashable, z: Z, matrices: Collection[str]) -> Variant | None:
        """The steps under `z` `[r]`; None where nothing can be captured.

        `key`: equal only for equal `z`. `matrices`: those that any mixture may change. The variant
        holds until the next call.
        """
        if self.steps.problem:
            return None
        if not z:
            return Variant(self.steps, "base", lambda: self._svf.using({}))
        changed = frozenset(matrices)
        if changed not in self._buffers:
            name = f"adapted {len(self._buffers)}"
            self._buffers[changed] = (name, self._svf.buffer(names=sorted(changed)))
        name, buffer = self._buffers[changed]
        if self._filled.get(name) != key:
            self._filled.pop(name, None)
            self._svf.fill(buffer, z)
            self._filled[name] = key
        return Variant(self.steps, name, lambda: self._svf.using_buffer(buffer))


# --- Compiled steps under a mixture: nothing is prepared for one but its `z − 1`.


@dataclass(frozen=True)
class CompiledVariant:
    """The compiled steps of a single row under one `z`, as `Decoder.quickly` takes them."""

    steps: CompiledSteps
    deltas: Deltas

    def begin(self, ordinary: DynamicCache, n_tokens: int) -> RowCache:
        """Take the cache over; it grows by itself."""
        return RowCache.of(ordinary)

    def step(self, cache: RowCache, tokens: torch.Tensor) -> torch.Tensor:
        """Next-token logits `[1, V]` after one more token `[1]`."""
        return self.steps.step([cache], tokens, self.deltas)

    def several(self, cache: RowCache, tokens: torch.Tensor) -> torch.Tensor:
        """`[k, V]` after each of some tokens `[k]`, of which the first joins the cache."""
        return self.steps.several(cache, tokens, self.deltas)


def adapting(
    loaded: LoadedModel, targets: str, basis: str, cancel: CancelToken | None = None
) -> Generator[Progress, None, tuple[LoadedModel, SVFModel]]:
    """Attach SVF to a loaded model, and have its steps compiled where they can be."""
    folder = paths.basis_dir() / loaded.slug
    with blocks_returned_when_freed():  # each matrix once as floats
        svf = yield from attaching(loaded.model, targets, basis, folder, cancel)
    return with_compiled_steps(loaded, svf), svf


def with_compiled_steps(loaded: LoadedModel, svf: SVFModel) -> LoadedModel:
    """`loaded` with compiled steps, or with a note that says why there are none."""
    if loaded.quantization != GGUF:
        return loaded
    layers, bases = svf.base_layers, {name: layer.basis for name, layer in svf.layers.items()}
    if problem := compiled_problem(loaded.model):
        return _noting(loaded, problem)
    if any(basis.vectors.dtype != torch.int8 for basis in bases.values()):
        return _noting(loaded, "compiled steps read int8 bases")
    branches = {name: Branch(basis.vectors, basis.side) for name, basis in bases.items()}
    steps = CompiledSteps(
        loaded.model, layers, branches, loaded.context_length, lambda: svf.deltas_in_force
    )
    return replace(loaded, steps=steps)


class RoundedSteps:
    """The steps of a float model from a copy of its weights and bases in 8 bits, made at first use.

    One copy serves every mixture. Guarded by the model's lock (`SVFModel.lock`).
    """

    def __init__(self, loaded: LoadedModel, svf: SVFModel) -> None:
        assert not rounding_problem(loaded), rounding_problem(loaded)
        self._loaded, self._svf = loaded, svf
        self._making: Generator[None, None, CompiledSteps] | None = None
        self._steps: CompiledSteps | None = None
        self._scales: dict[str, torch.Tensor] = {}  # squared, of the bases that the steps read
        self._bases_bytes = 0  # of those that are not the model's own
        self.problem = ""  # why there will be none, in a few words

    def make_on(self) -> bool:
        """Round one more matrix; True while there is more to do.

        Where memory runs out there is no copy, and `problem` says it.
        """
        if self._steps is not None or self.problem:
            return False
        self._making = self._making or self._made()
        try:
            next(self._making)
            return True
        except StopIteration as made:
            self._steps = made.value
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            self.problem = "there was no memory for a copy of its weights in 8 bits"
        self._making = None
        return False

    def under(self, z: Z) -> CompiledVariant | None:
        """The steps under `z` `[r]`, None before they are made."""
        if self._steps is None:
            return None
        deltas = {name: (row - 1) * self._scales[name] for name, row in z.items()}
        return CompiledVariant(self._steps, deltas)

    @property
    def held_bytes(self) -> int:
        """What the copy takes, 0 before it is made."""
        return 0 if self._steps is None else self._steps.held_bytes + self._bases_bytes

    def _made(self) -> Generator[None, None, CompiledSteps]:
        branches, own_bytes = {}, 0
        for name, layer in self._svf.layers.items():
            basis = layer.basis
            if basis.vectors.dtype != torch.int8:
                basis = rounded(Basis(basis.dense(), basis.sigma, basis.side), torch.int8)
                own_bytes += basis.vectors.nbytes + basis.scale.nbytes
                yield
            branches[name] = Branch(basis.vectors, basis.side)
            self._scales[name] = basis.scale.square()
        steps = yield from rounding_steps(self._loaded, self._svf.base_layers, branches)
        self._bases_bytes = own_bytes
        return steps


def _noting(loaded: LoadedModel, problem: str) -> LoadedModel:
    words = f"Answers are slower than they could be: {problem}."
    return replace(loaded, notes=(*loaded.notes, words))


NEUTRAL = Gains()
Alpha = tuple[tuple[str, float], ...]  # expert and weight, by name, without zeros


@dataclass(frozen=True)
class MixtureKey:
    """Equal only for mixtures that give the same `z`; see `Applier.key`.

    `generation`: of the experts that the names stand for, None for the base model alone. The other
    fields are those of `Mixture`.
    """

    generation: int | None = None
    alpha: Alpha = ()
    strength: float = 1.0
    gains: Gains = NEUTRAL
    by_matrix: tuple[tuple[str, Alpha], ...] = ()

    @property
    def experts(self) -> set[str]:
        """All that have a part in the mixture."""
        every = (self.alpha, *(own for _, own in self.by_matrix))
        return {name for alpha in every for name, _ in alpha}


BASE_KEY = MixtureKey()


def may_rebuild(loaded: LoadedModel) -> bool:
    """Whether rebuilt matrices are exact here (a float model) and small enough to keep."""
    small = loaded.resident_bytes <= REBUILD_BYTES and not loaded.spread
    return loaded.quantization == "none" and small


def holding(loaded: LoadedModel, svf: SVFModel, z: Z) -> Around:
    """How to hold an unchanging `z` `[r]` over many forwards: rebuilt where that is allowed.

    Gradients reach a `z` that asks for them either way.
    """
    trained = any(row.requires_grad for row in z.values())
    if may_rebuild(loaded):
        matrices = svf.rebuild(z)
        return lambda: svf.using_rebuilt(matrices, z if trained else None)
    ready: list[Z] = []  # made at the first forward: some are never asked for one

    def around() -> AbstractContextManager[None]:
        if trained and torch.is_grad_enabled():
            return svf.using(z)
        if not ready:
            ready.append(svf.deltas({name: row.detach() for name, row in z.items()}))
        return svf.using_deltas(ready[0])

    return around


_GENERATIONS = itertools.count()


class Applier:
    """Experts by name on one model. `rebuild_limit`: rebuilt copies kept (0: never rebuild).

    `mixable`: the experts that people may mix (None: all); a classifier only decides. `in_8_bits`:
    steps from rounded weights (None: every answer is exact). `graphs`: the CUDA graphs of a model
    on a GPU, `compiled`: the steps of one on a CPU (None: the forward itself).

    Guarded by the model's lock (`SVFModel.lock`): whoever calls a method holds it. `check`, `key`,
    `z_of`, `rounds` and `copies_bytes` are for any thread: what they read is exchanged whole.
    """

    def __init__(
        self,
        svf: SVFModel,
        experts: Mapping[str, Z],
        rebuild_limit: int = 0,
        mixable: Collection[str] | None = None,
        in_8_bits: RoundedSteps | None = None,
        graphs: GraphMixtures | None = None,
        compiled: CompiledSteps | None = None,
    ) -> None:
        self.svf = svf
        self._mixable = tuple(experts if mixable is None else mixable)
        self._generation = next(_GENERATIONS)  # a retrained expert keeps its name, not its z
        self.experts = {name: self._on_device(z) for name, z in experts.items()}
        self._limit = rebuild_limit
        self._rebuilt: OrderedDict[MixtureKey, dict[str, torch.Tensor]] = OrderedDict()
        self._graphs, self._compiled = graphs, compiled
        self._matrices = {matrix for z in self.experts.values() for matrix in z}
        self._in_8_bits = in_8_bits
        self._last: tuple[MixtureKey, Z] = (BASE_KEY, {})
        self._last_applied = BASE_KEY

    def check(self, mixture: Mixture) -> None:
        """Raise `T2LocalError` when the mixture names an expert that is not there."""
        for name in mixture.experts:
            if name not in self._mixable:
                known = ", ".join(sorted(self._mixable)) or "none"
                raise T2LocalError(
                    f"There is no expert '{name}' for this model; choose among: {known}."
                )

    def key(self, mixture: Mixture) -> MixtureKey:
        """Equal only for mixtures that give the same `z`; what KV caches are kept under."""
        if mixture.is_base:
            return BASE_KEY
        by_matrix = tuple((m, _ordered(own)) for m, own in sorted(mixture.by_matrix.items()))
        return MixtureKey(
            self._generation, _ordered(mixture.alpha), mixture.strength, mixture.gains, by_matrix
        )

    def z_of(self, mixture: Mixture) -> Z:
        """The composed `z`, `{}` for the base model; the last one is remembered."""
        last, key = self._last, self.key(mixture)
        if last[0] != key:
            last = self._last = (key, compose(self.experts, mixture))
        return last[1]

    @contextmanager
    def using(self, mixture: Mixture, beside_base: bool = False) -> Iterator[None]:
        """Adapt the model inside the block; `beside_base`: row 0 adapted, row 1 the base model."""
        key = self.key(mixture)
        if beside_base:
            with self.svf.using(self._beside_base(self.z_of(mixture))):
                yield
        elif key in self._rebuilt:
            self._rebuilt.move_to_end(key)
            with self.svf.using_rebuilt(self._rebuilt[key]):
                yield
        else:
            with self.svf.using(self.z_of(mixture)):
                yield

    def settle(self, mixture: Mixture) -> None:
        """Say that `mixture` stays as it is for many tokens: rebuild it if that is allowed."""
        key = self.key(mixture)
        if key == BASE_KEY or key in self._rebuilt or not self._limit:
            return
        self._rebuilt[key] = self.svf.rebuild(self.z_of(mixture))
        while len(self._rebuilt) > self._limit:
            self._rebuilt.popitem(last=False)

    def take_over(self, before: "Applier") -> None:
        """Keep those copies of `before` whose experts are here with the same `z`.

        `before`: of the same model, so that one lock guards both.
        """
        same = {
            name
            for name, z in self.experts.items()
            if (old := before.experts.get(name)) is not None
            and z.keys() == old.keys()
            and all(torch.equal(row, old[matrix]) for matrix, row in z.items())
        }
        if before._in_8_bits is not None and self._in_8_bits is not None:
            self._in_8_bits = before._in_8_bits
        if before._compiled is not None and self._compiled is not None:
            self._compiled = before._compiled
        if before._graphs is not None and self._graphs is not None:
            self._graphs = before._graphs
        for key, copy in before._rebuilt.items():
            if key == BASE_KEY:
                self._rebuilt[key] = copy
            elif key.experts <= same:
                self._rebuilt[replace(key, generation=self._generation)] = copy

    def settle_if_repeated(self, mixture: Mixture) -> None:
        """`settle` a mixture that also served the answer before this one."""
        key = self.key(mixture)
        if key == self._last_applied:
            self.settle(mixture)
        self._last_applied = key

    @property
    def compiles(self) -> bool:
        """Whether steps are compiled, exact under any mixture."""
        return self._compiled is not None

    @property
    def rounds(self) -> bool:
        """Whether quick steps, where there are any, come from weights rounded to 8 bits."""
        return self._in_8_bits is not None and not self._in_8_bits.problem

    @property
    def rounding_problem(self) -> str:
        """Why there is no 8-bit copy though there should be one, in a few words; else ""."""
        return self._in_8_bits.problem if self._in_8_bits is not None else ""

    def round_on(self) -> bool:
        """Work on the 8-bit copy; True while there is more to do, False where there is none."""
        return self._in_8_bits is not None and self._in_8_bits.make_on()

    def quick(self, mixture: Mixture, may_round: bool) -> Quick | None:
        """How a single row's next steps under this mixture are made faster than by the forward.

        None: not at all. `may_round`: an 8-bit copy may serve. Ask again before every step.
        """
        if self._compiled is not None:
            return CompiledVariant(self._compiled, self.svf.deltas(self.z_of(mixture)))
        if self._in_8_bits is not None and may_round:
            return self._in_8_bits.under(self.z_of(mixture))
        if self._graphs is None:
            return None
        return self._graphs.under(self.key(mixture), self.z_of(mixture), self._matrices)

    @property
    def copies_bytes(self) -> int:
        """What rebuilt matrices and an 8-bit copy take at this moment."""
        rebuilt = [m for copy in list(self._rebuilt.values()) for m in copy.values()]
        rounded_bytes = self._in_8_bits.held_bytes if self._in_8_bits is not None else 0
        return sum(m.nbytes for m in rebuilt) + rounded_bytes

    def capture_problem(self) -> str:
        """Why steps cannot be captured though they should be, tried now; nothing is in force."""
        return self._graphs.steps.trial() if self._graphs is not None else ""

    def release(self) -> None:
        """Give back what can be made again: memory ran out."""
        if self._graphs is not None:
            self._graphs.steps.release()

    def _beside_base(self, z: Z) -> Z:
        return {name: torch.stack([row, torch.ones_like(row)]) for name, row in z.items()}

    def _on_device(self, z: Z) -> Z:
        sigma = self.svf.singular_values
        return {name: row.to(sigma[name].device) for name, row in z.items()}


def _ordered(alpha: Mapping[str, float]) -> Alpha:
    return tuple(sorted((name, a) for name, a in alpha.items() if a != 0.0))
