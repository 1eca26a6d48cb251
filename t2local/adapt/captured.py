"""Mixtures for captured steps: a changed `z` is copied to where the graphs read it.

One graph serves the base model, which costs no branch, and one every mixture of the same experts.
Nothing is captured again while sliders move. Knows nothing of caches and tokens.
"""

from collections.abc import Collection, Hashable

from t2local.models.decode.cuda_graphs import CapturedSteps, Variant
from t2local.svf import SVFModel, Z
from t2local.svf.fused import ZBuffer


class CapturedMixtures:
    """`steps` under mixtures of `svf`'s experts; outlives the experts that come and go.

    Guarded by the model's lock (`SVFModel.lock`), which the caller holds.
    """

    def __init__(self, svf: SVFModel, steps: CapturedSteps) -> None:
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
