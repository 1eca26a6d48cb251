"""From a choice to a model that answers: weights, bases, experts, adapter, a warm classifier.

`Opened` is all there is of a loaded model; whoever drops it (and the answers begun with it) frees
the memory. Knows nothing of what was loaded before.
"""

from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass, field, replace

from t2local import paths
from t2local.adapt.mixer import Adapter, CapturedMixtures, may_rebuild
from t2local.adapt.two_pass import PACK_AFTER, Workshop
from t2local.engine.choice import EXACT, Choice
from t2local.engine.preview import Previews
from t2local.engine.requests import EngineStatus
from t2local.engine.shelf import Shelf
from t2local.experts import Expert
from t2local.models.decode import cuda_graphs, int8
from t2local.models.decode.int8 import Packer
from t2local.models.decode.prefix_cache import PrefixCache
from t2local.models.fit.estimate import PACK_BYTES, REBUILT_COPIES
from t2local.models.load.loader import LoadedModel, basis_for, load_model
from t2local.progress import CancelToken, Progress
from t2local.svf import Mixture, SVFModel, attaching
from t2local.svf.basis import DTYPES


@dataclass(frozen=True)
class Opened:
    """A loaded model with its bases, experts and caches."""

    choice: Choice
    loaded: LoadedModel
    svf: SVFModel
    shelf: Shelf
    workshop: Workshop
    previews: Previews = field(default_factory=Previews)

    @property
    def reader(self) -> Mixture | None:
        """The classifier alone, as pass 1 uses it."""
        return Mixture({self.shelf.classifier: 1.0}) if self.shelf.classifier else None

    def restocked(self, besides: Callable[[Collection[str]], list[Expert]]) -> "Opened":
        """The same model with the expert files there are now.

        `besides`: the drafts to offer beside experts of these names. A classifier that is still
        the same stays warm.
        """
        shelf = Shelf.read(self.loaded, self.svf)
        shelf = shelf.with_drafts(besides(shelf.usable))
        adapter = _adapter(self.choice, self.loaded, self.svf, shelf)
        with self.svf.lock:
            adapter.take_over(self.workshop.adapter)
        workshop = replace(
            self.workshop, adapter=adapter, warnings=shelf.warnings, available=shelf.available
        )
        return replace(self, shelf=shelf, workshop=workshop)

    def warm_up(self) -> None:
        """Rebuild the classifier's matrices where that is allowed: pass 1 then costs no rebuild."""
        if self.reader is not None:
            with self.svf.lock:
                self.workshop.adapter.settle(self.reader)

    def status(self, serial: int) -> EngineStatus:
        """What the page shows of it. `serial`: how many models were opened before."""
        loaded, choice, copies = self.loaded, self.choice, self.workshop.adapter.copies_bytes
        vectors = self.svf.model.get_submodule(self.svf.matrix_names[0]).basis.vectors
        return EngineStatus(
            "Ready",
            1.0,
            ready=True,
            model_name=loaded.name,
            dtype=loaded.dtype,
            quantization=loaded.quantization,
            resident_bytes=loaded.resident_bytes + self.svf.basis_bytes + copies,
            device=loaded.device,
            context_length=loaded.context_length,
            basis_bytes=self.svf.basis_bytes,
            copies_bytes=copies,
            basis=next(name for name, dtype in DTYPES.items() if dtype == vectors.dtype),
            targets=choice.targets,
            sees=loaded.pictures is not None,
            source=choice.source,
            why=choice.why,
            remarks=loaded.notes,
            serial=serial,
        )

    def now(self, status: EngineStatus) -> EngineStatus:
        """`status` with the memory that its copies take at this moment."""
        copies = self.workshop.adapter.copies_bytes
        resident = status.resident_bytes - status.copies_bytes + copies
        return replace(status, resident_bytes=resident, copies_bytes=copies)

    def decoding(self) -> str:
        """How answers are written here, with the reason; on a GPU a step is captured for trial."""
        adapter, why = self.workshop.adapter, cuda_graphs.why_not(self.loaded)
        if not why:
            with self.svf.lock:
                why = adapter.capture_problem()
        elif not self.loaded.device.startswith("cuda"):
            why = _why_not_packed(self.choice, self.loaded)
        if why:
            return f"plain steps ({why})"
        if adapter.packs:
            return f"8-bit copies of the weights, from {PACK_AFTER} tokens of a long answer on"
        return "captured steps (CUDA graphs)"


def opening(choice: Choice, cancel: CancelToken | None = None) -> Generator[Progress, None, Opened]:
    """Load the model, attach SVF and read the experts.

    Raises `T2LocalError` for whatever stands in the way, `Cancelled`.
    """
    loaded = yield from load_model(choice.source, choice.quantize, cancel)
    folder = paths.basis_dir() / loaded.slug
    basis = basis_for(loaded, choice.basis, choice.targets)
    svf = yield from attaching(loaded.model, choice.targets, basis, folder, cancel)
    shelf = Shelf.read(loaded, svf)
    workshop = Workshop(
        loaded,
        _adapter(choice, loaded, svf, shelf),
        PrefixCache(),
        lambda: svf.lock,
        shelf.warnings,
        shelf.available,
    )
    opened = Opened(choice, loaded, svf, shelf, workshop)
    if opened.reader is not None:
        yield Progress("Warming up", 0, 1)
        opened.warm_up()
    return opened


def _adapter(choice: Choice, loaded: LoadedModel, svf: SVFModel, shelf: Shelf) -> Adapter:
    experts = {name: expert.z for name, expert in shelf.usable.items()}
    copies = REBUILT_COPIES if may_rebuild(loaded) else 0
    packer = None if _why_not_packed(choice, loaded) else Packer(loaded)
    steps = cuda_graphs.CapturedSteps(loaded) if not cuda_graphs.why_not(loaded) else None
    mixtures = CapturedMixtures(svf, steps) if steps else None
    return Adapter(svf, experts, copies, shelf.mixable, packer, mixtures)


def _why_not_packed(choice: Choice, loaded: LoadedModel) -> str:
    """Why answers are not written from 8-bit copies, in a few words; "" where they are."""
    if choice.precision == EXACT:
        return "exact answers were asked for"
    if why := int8.why_not(loaded):
        return why
    if not may_rebuild(loaded):
        return "the model is too large for copies beside it"
    return "so small a model is fast enough" if loaded.resident_bytes < PACK_BYTES else ""
