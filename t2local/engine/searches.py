"""What the Adapt page and the command `adapt` ask for: a search over a file's rows, kept mixtures.

A search runs in its caller's thread and holds the model for one forward at a time, so that chats go
on beside it. Its state is in the user's data: the same request goes on where it was left. Knows
nothing of gradio.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from t2local import paths
from t2local.adapt.answer_stream import FEW_SHOT
from t2local.adapt.cem import CEMConfig
from t2local.adapt.few_shot import Found, Generation, draw_shots, search
from t2local.engine.model_slot import Uses
from t2local.engine.shelf import Shelf
from t2local.experts.mixture_file import MixtureFile, MixtureStore
from t2local.models.decode.out_of_memory import Work, out_of_memory_told
from t2local.models.load.loader import LoadedModel
from t2local.progress import CancelToken
from t2local.svf import Mixture, SVFModel
from t2local.tasks.rows import Example

SEARCH = Work("This search", "shorten its answers (`--max-new-tokens`) or give it shorter rows")


@dataclass(frozen=True)
class AdaptingDesk:
    """`model`, `shelf`: of this moment; an error where the model is not ready."""

    model: Callable[[], tuple[LoadedModel, SVFModel]]
    shelf: Callable[[], Shelf]
    uses: Uses = field(default_factory=Uses)
    forget: Callable[[], None] = lambda: None  # gives back what chats keep, when memory runs out

    def search(
        self,
        examples: Sequence[Example],
        reward: str,
        config: CEMConfig,
        cancel: CancelToken | None = None,
    ) -> Generator[Generation, None, Found]:
        """Search a mixture of the skills there are. Raises `T2LocalError`, `Cancelled`."""
        with self.uses.of("A search on the page Adapt"):
            loaded, svf = self.model()
            shelf = self.shelf()
            experts = {name: shelf.usable[name].z for name in shelf.skills}
            shots = draw_shots(examples, config)
            found = search(
                loaded, svf, experts, shots, reward, config, paths.home() / "searches", cancel
            )
            with out_of_memory_told(loaded, self.forget, SEARCH):
                return (yield from found)

    def file_of(self, found: Found, reward: str, config: CEMConfig) -> MixtureFile:
        """What a search found as a file, with what it was found for."""
        loaded, _ = self.model()
        task = {
            "reward": reward,
            "shots": found.shots,
            "shots_sha256": found.shots_sha256,
            "shot_prompts": list(found.shot_prompts),
            "accuracy": found.accuracy,
            "log_likelihood": found.log_likelihood,
            "evaluations": found.evaluations,
            "sharing": config.sharing,
            "objective": config.objective,
            "seed": config.seed,
        }
        return MixtureFile(found.mixture, loaded.name, task)

    def keep(self, name: str, file: MixtureFile) -> Path:
        """Keep a mixture under a name for the chat. `T2LocalError` for an impossible name."""
        return self._store().save(name, file)

    def mixture(self, name: str) -> Mixture:
        """A kept mixture, checked against the model and its experts. `T2LocalError`."""
        loaded, _ = self.model()
        file = self._store().load(name)
        file.check(loaded.name, self.shelf().skills)
        return file.mixture

    def kept(self) -> list[str]:
        """The names of kept mixtures; each is a strategy `few-shot:NAME`."""
        return self._store().names()

    def resolved(self, strategy: str, mixture: Mixture) -> Mixture:
        """The mixture that `strategy` answers with: for `few-shot:NAME` the kept one at the
        strength of `mixture` (and with its gains, where it has some), else `mixture` itself.

        Raises `T2LocalError` for an unknown name.
        """
        kind, _, name = strategy.partition(":")
        if kind != FEW_SHOT or not name:
            return mixture
        kept = self.mixture(name)
        gains = kept.gains if mixture.gains.neutral else mixture.gains
        return replace(kept, strength=kept.strength * mixture.strength, gains=gains)

    def _store(self) -> MixtureStore:
        loaded, _ = self.model()
        return MixtureStore(loaded.slug)
