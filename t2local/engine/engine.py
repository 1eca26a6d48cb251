"""Engine: owns the model and its experts; every page, command and API goes through it.

Where each person has an account, each page has a `Seat` at it, which shares the model and keeps
chats, answers and what only the owner may do apart.

An answer belongs to a chat (or to a command); its wheel and its stop button are its own. The model
(`SVFModel.lock`) is held for one step of one answer at a time.
"""

import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, NoReturn

import torch

from t2local import paths
from t2local.adapt import two_pass
from t2local.adapt.applier import Applier
from t2local.adapt.context import check_messages
from t2local.adapt.dispatch import (
    ADAPTED_ROW,
    FEW_SHOT,
    MANUAL,
    Controls,
    Dispatch,
    Token,
    offered,
)
from t2local.engine.answers import JOB, Answers
from t2local.engine.arena import Arena
from t2local.engine.attachments import Attachment, attached
from t2local.engine.chats import ChatStore
from t2local.engine.contenders import Contender, contenders_of
from t2local.engine.drafts import Drafts
from t2local.engine.evaluations import Evaluations
from t2local.engine.forgetting import Forgotten
from t2local.engine.job_record import KINDS, JobStatus, Kind
from t2local.engine.jobs import MOST_LISTED, Jobs
from t2local.engine.labelling import Labelling
from t2local.engine.loading import ASKED, Choice, Opened
from t2local.engine.model_slot import Downloads, ModelSlot, Moments, Uses
from t2local.engine.people import Account
from t2local.engine.prompts import PromptStore
from t2local.engine.recipes import RecipeStore
from t2local.engine.requests import (
    ChatRequest,
    EngineStatus,
    ExpertInfo,
    NextTokens,
    Spectrum,
)
from t2local.engine.searches import Searches
from t2local.engine.shelf import Keeping, Shelf, expert_info
from t2local.engine.training import Training
from t2local.engine.verdicts import Verdicts
from t2local.errors import T2LocalError
from t2local.experts import Expert, ExpertStore
from t2local.experts.versions import Versions
from t2local.locks import Neighbours
from t2local.models.chat_format import encode_text
from t2local.models.decode.out_of_memory import out_of_memory_told
from t2local.models.load.loader import LoadedModel
from t2local.progress import CancelToken, drain
from t2local.svf import Mixture, SVFModel

LAST_WORDS_S = 10.0  # what answers in progress get to end in, before the model goes


class Engine:
    """See the module. What it takes is what the command line says, in its words."""

    def __init__(
        self,
        model: str | None = None,
        quantize: str = "auto",
        basis: str = "auto",
        targets: str = "all",
        why: str = ASKED,
        precision: str = "auto",
    ) -> None:
        self.chats, self._neighbours = ChatStore(), Neighbours()
        self.verdicts, self.recipes = Verdicts(self.chats.folder), RecipeStore()
        self.prompts = PromptStore()
        self.jobs, self.uses = Jobs(), Uses()
        self.downloads = Downloads(self.jobs)
        choice = Choice(model or paths.default_model(), quantize, basis, targets, why, precision)
        self.models = ModelSlot(choice, self.jobs, self.uses, self._let_go)
        self._moments = Moments()
        self.answers, self.arena = Answers(self.jobs, self), Arena(self.jobs, self)
        self.training = Training(self.jobs, self._trained_model, self.adopt, self.uses)
        self.training.begin_with(choice)
        self._drafts = Drafts(self.training)
        self.library = Keeping(self._trained_model, self.restock, self.training.names_in_training)
        needs = self.jobs, self._trained_model, lambda: self._shelf, self.uses, self._forget
        self.searches, self.evaluations = Searches(*needs), Evaluations(*needs)
        self.labelling, self.forgotten = Labelling(*needs), Forgotten(*needs, self.library)

    # --- loading

    @property
    def status(self) -> EngineStatus:
        status, opened = self.models.status, self.models.opened
        status = replace(status, beside=self._neighbours.sentence)
        return opened.now(status) if status.ready and opened is not None else status

    def start(self) -> None:
        """Be the program of a page: tidy up, let others on this home know, load in the background.

        `status` tells how far it is, or why it failed.
        """
        paths.tidy_home()
        self.chats.purge()
        self._neighbours.announce()
        self.models.start()

    def load(self, on_progress=None) -> "Engine":
        """Load now and wait. Raises `T2LocalError`."""
        drain(self.models.loading(), on_progress)
        return self

    def switch(
        self, source: str, quantize: str = "auto", basis: str = "auto", targets: str = "all"
    ) -> None:
        """Load another model in the background; answers in progress end, paused runs are kept.

        The old model is freed first, and comes back where the new one fails (`status.note` says
        why). Raises `T2LocalError` at once for what cannot be loaded, and while a run, a search or
        an evaluation uses the model.
        """
        for job in self.jobs.busy():
            kind = KINDS[job.kind]
            raise T2LocalError(
                f"{kind.label} '{job.name}' is using the model; pause or stop it in the tab "
                f"{kind.tab}, then load another model."
            )
        precision = self.models.choice.precision
        choice = Choice(source.strip(), quantize, basis, targets, precision=precision)
        self.models.switch(choice)

    def _let_go(self) -> None:
        """Nobody holds the old model when this returns, abandoned answers aside."""
        self.jobs.let_go(LAST_WORDS_S)
        self._drafts.clear()
        self.training.begin_with(self.models.choice)
        self._moments.end(LAST_WORDS_S)

    def adopt(self, expert: Expert) -> None:
        """Save a new expert and offer it to every later answer."""
        ExpertStore(self._ready().loaded.slug).save(expert)
        self._drafts.drop(expert.name)
        self.restock()

    def draft(self, run: str) -> str:
        """Offer the current z of a run in progress to the chat, and give its name there."""
        draft = self._drafts.take(run)
        self.restock()
        return draft.name

    def restock(self) -> None:
        """Read the expert files again for every later answer; running ones keep what they have."""
        self.models.restock(lambda before: before.restocked(self._drafts.besides))
        threading.Thread(target=self._warm_up, daemon=True, name="warm up").start()

    def _warm_up(self) -> None:
        with self._moments.moment():
            if opened := self.models.opened:  # another model may have come meanwhile
                opened.warm_up()

    def _trained_model(self) -> tuple[LoadedModel, SVFModel]:
        opened = self._ready()
        return opened.loaded, opened.svf

    def _forget(self) -> None:
        """Give back what chats have kept: memory ran out."""
        if opened := self.models.opened:
            opened.workshop.forget()

    def _ready(self) -> Opened:
        return self.models.ready()

    @property
    def _shelf(self) -> Shelf:
        """Empty while no model is loaded."""
        opened = self.models.opened
        return opened.shelf if opened else Shelf()

    # --- what there is

    def experts(self) -> list[ExpertInfo]:
        """Every expert file for this model, unusable ones with the reason as their warning."""
        shelf = self._shelf  # another may take its place at any time
        overlaps, told = shelf.overlaps, shelf.prints.prints if shelf.prints else {}
        opened, found = self.models.opened, []
        versions = Versions(ExpertStore(opened.loaded.slug)).counts() if opened else {}
        for entry in shelf.entries:
            name = entry.stored.expert.name if entry.usable else ""
            prompts = len(told[name]) if name in told else 0
            before = 0 if entry.stored.shipped else versions.get(entry.stored.path.stem, 0)
            found.append(expert_info(entry, overlaps.get(name, ""), prompts, before))
        return found

    def strategies(self) -> list[str]:
        """The strategies that are possible with the experts there are, best first."""
        kept = self.searches.kept() if self._shelf.skills else ()
        return offered(replace(self._shelf.available, kept=kept))

    def contenders(self) -> list[Contender]:
        """Whose answers can be compared blindly. Raises `T2LocalError` before a model is loaded."""
        shelf = self._ready().shelf
        return contenders_of(shelf, self.strategies(), self.searches.mixture)

    def settled(self, controls: Controls) -> Controls:
        """`controls` that other homes understand: a kept mixture itself in the place of its name.

        Raises `T2LocalError` for a mixture that is not here.
        """
        if controls.strategy.partition(":")[0] != FEW_SHOT:
            return controls
        mixture = self.searches.resolved(controls.strategy, controls.mixture)
        return replace(controls, strategy=MANUAL, mixture=mixture)

    def see_forgotten(self, name: str) -> str:
        """Measure one of the user's experts on others' tasks in the background; the job's id."""
        return self.forgotten.start(name)

    def prompts_of(self, name: str) -> tuple[str, ...]:
        """The prompts of an expert's print in its order, while its run's data are here; else ()."""
        expert = self._shelf.usable.get(name)
        return self.training.prompts_behind(expert) if expert and expert.prompt_print else ()

    def attached(
        self, files: Sequence[str], beside: str, answer_tokens: int
    ) -> tuple[Attachment, ...]:
        """The texts of files, as far as the loaded model can read them beside words and an answer.

        Raises `T2LocalError`.
        """
        tokenizer = self._ready().loaded.tokenizer

        def count(text: str) -> int:
            return len(encode_text(tokenizer, text, "user"))

        return attached(files, count, self.status.context_length - answer_tokens - count(beside))

    def matrix_names(self) -> list[str]:
        return list(self._ready().svf.matrix_names)

    def deltas(self, mixture: Mixture) -> dict[str, float]:
        """Matrix name -> rms of `z − 1` under a mixture: the heat map."""
        applier = self._checked(mixture)
        z = applier.z_of(mixture)
        rms = {name: float((row - 1).square().mean().sqrt()) for name, row in z.items()}
        return {name: rms.get(name, 0.0) for name in applier.svf.matrix_names}

    def spectrum(self, matrix_name: str, mixture: Mixture) -> Spectrum:
        """σ and z of one matrix. Raises `T2LocalError` for a name that is not adapted."""
        applier = self._checked(mixture)
        sigma = applier.svf.singular_values.get(matrix_name)
        if sigma is None:
            raise T2LocalError(
                f"'{matrix_name}' is not an adapted matrix of this model; choose one such as "
                f"'{applier.svf.matrix_names[0]}'."
            )
        z = applier.z_of(mixture).get(matrix_name, torch.ones_like(sigma))
        return Spectrum(tuple(sigma.tolist()), tuple(z.tolist()))

    def _checked(self, mixture: Mixture) -> Applier:
        applier = self._ready().workshop.applier
        applier.check(mixture)
        return applier

    # --- answering

    def answer(
        self, chat_id: str, request: ChatRequest, cancel: CancelToken | None = None
    ) -> Iterator[two_pass.Event]:
        """Both passes for the last message; events as in `adapt.answer_stream`.

        Starting an answer stops the one this chat had running. `cancel`: another way to stop it.
        Raises `T2LocalError`.
        """
        with self._moments.moment():
            opened = self._ready()
            workshop = opened.workshop
            with self._moments.of(chat_id, workshop, cancel) as running:
                controls = self._controls(request)
                self._ready()  # it may be going just now; from here on its going is told
                events = two_pass.answer(
                    workshop,
                    request.messages,
                    controls,
                    request.sampling,
                    running.steering,
                    running.cancel,
                    request.compare,
                    request.continue_last,
                )
                with closing(events):  # what it keeps is kept before the model may go
                    for event in events:
                        if isinstance(event, Token) and event.row == ADAPTED_ROW:
                            running.said += event.text
                        yield event

    def dispatch(self, request: ChatRequest) -> Dispatch:
        """Pass 1 alone for the last user message. Raises `T2LocalError`."""
        check_messages(request.messages)
        question = [m["content"] for m in request.messages if m["role"] == "user"][-1]
        with self._moments.moment():
            opened = self._ready()
            controls = self._controls(request)
            with out_of_memory_told(opened.loaded, opened.workshop.forget):
                return two_pass.dispatch(opened.workshop, question, controls)

    def steer(self, chat_id: str, mixture: Mixture) -> None:
        """Turn the wheel of this chat's running answer; nothing happens when it is idle."""
        running = self._moments.running(chat_id)
        if running is None:
            self._checked(mixture)
            return
        running.workshop.applier.check(mixture)
        running.steering.steer(mixture)

    def stop(self, chat_id: str) -> None:
        """End this chat's answer after its current token; its `Done` still comes."""
        if running := self._moments.running(chat_id):
            running.cancel.cancel()

    def next_tokens(
        self, chat_id: str, request: ChatRequest, mixture: Mixture, k: int = 10
    ) -> NextTokens:
        """The `k` likeliest next tokens of base and adapted model after the words so far."""
        with self._moments.moment():
            opened = self._ready()
            opened.workshop.applier.check(mixture)
            running = self._moments.running(chat_id)
            said = running.said if running else ""
            return opened.previews.bars(opened.workshop, request.messages, said, mixture, k)

    def _controls(self, request: ChatRequest) -> Controls:
        """The request's, with the mixture that its strategy names."""
        controls = request.controls
        mixture = self.searches.resolved(controls.strategy, controls.mixture)
        return replace(controls, mixture=mixture)


# --- A seat at the engine for each account.

ALL: Mapping[str, Any] = {}  # of a part: whoever may use it may use all of it
# What a guest may use of the engine. All else is its owner's, also what the engine learns later.
GUEST_MAY: Mapping[str, Mapping[str, Any]] = {
    "status": ALL, "experts": ALL, "strategies": ALL, "matrix_names": ALL, "deltas": ALL,
    "spectrum": ALL, "settled": ALL, "attached": ALL,
    "library": {"compare": ALL, "share": ALL, "deleted": ALL},
}  # fmt: skip
# What is refused, in words.
OWNERS_ACTS = {
    "start": "load a model", "load": "load a model", "switch": "load another model",
    "models": "load models", "downloads": "fetch models", "training": "train",
    "draft": "try an expert in training", "adopt": "add an expert", "restock": "add an expert",
    "searches": "search for mixtures", "labelling": "label tables",
    "forgotten": "measure an expert", "see_forgotten": "measure an expert",
    "keep_forgetting": "measure an expert",
    "evaluations": "evaluate", "rename": "rename an expert",
    "duplicate": "copy an expert", "delete": "delete an expert", "jobs": "see others' work",
    "restore": "bring back an expert", "import_file": "add an expert",
    "back": "go back to an earlier version",
    "contenders": "compare answers blindly", "vote": "compare answers blindly",
    "note_prompts": "note an expert's prompts", "prompts_of": "see what an expert learnt from",
}  # fmt: skip


def refuse_guest(act: str) -> NoReturn:
    raise T2LocalError(
        f"Only the owner of this t2local can {OWNERS_ACTS.get(act, 'do this')}; ask them."
    )


class Limited:
    """Some of the engine, or of a part of it; the rest raises `T2LocalError`, whoever asks."""

    def __init__(self, part: Any, may: Mapping[str, Any]) -> None:
        self._part, self._may = part, may

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if name in self._may:
            return Limited(found, self._may[name]) if self._may[name] else found
        if not callable(found):
            refuse_guest(name)

        @functools.wraps(found)
        def refused(*args: Any, **more: Any) -> NoReturn:
            refuse_guest(name)

        return refused


class Seat:
    """What an account has of the engine: chats, recipes, prompts, verdicts and jobs of its own.

    All else is the engine's: everything for an owner, `GUEST_MAY` for a guest. The engine knows its
    chats by their account and id, so no id leads to another's answer.
    """

    def __init__(self, engine: Engine, account: Account, chats: ChatStore) -> None:
        self.account, self.chats = account, chats
        self.verdicts = Verdicts(chats.folder)
        first = chats is engine.chats  # goes on with what is from before there were accounts
        own = paths.recipes_dir() / account.folder
        self.recipes = engine.recipes if first else RecipeStore(own)
        own = paths.prompts_dir() / account.folder
        self.prompts = engine.prompts if first else PromptStore(own)
        self._engine = engine
        self._shared = engine if account.owns else Limited(engine, GUEST_MAY)
        self._scope = f"{account.name}."  # no name has a dot
        self.answers = Answers(engine.jobs, self, self._scope)
        arena = Arena(engine.jobs, self, self._scope)
        self.arena = arena if account.owns else Limited(arena, {})
        self.jobs = OwnJobs(engine.jobs, account, JOB + self._scope)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shared, name)

    def answer(
        self, chat_id: str, request: ChatRequest, cancel: CancelToken | None = None
    ) -> Iterator[two_pass.Event]:
        return self._engine.answer(self._scope + chat_id, request, cancel)

    def steer(self, chat_id: str, mixture: Mixture) -> None:
        self._engine.steer(self._scope + chat_id, mixture)

    def stop(self, chat_id: str) -> None:
        self._engine.stop(self._scope + chat_id)

    def next_tokens(
        self, chat_id: str, request: ChatRequest, mixture: Mixture, k: int = 10
    ) -> NextTokens:
        return self._engine.next_tokens(self._scope + chat_id, request, mixture, k)


class OwnJobs:
    """Long work as an account sees it: a guest its own answers, an owner all.

    What others ask stays theirs: of their answers an owner sees only that they are written.
    """

    def __init__(self, jobs: Jobs, account: Account, prefix: str) -> None:
        self._jobs, self._owns, self._prefix = jobs, account.owns, prefix
        self._shared = jobs if account.owns else Limited(jobs, {})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shared, name)

    def history(self, kind: Kind | None = None, most: int = MOST_LISTED) -> list[JobStatus]:
        if self._owns:
            return [self._without_words(status) for status in self._jobs.history(kind, most)]
        own = [status for status in self._jobs.live(kind) if self._is_own(status.id)]
        return own[::-1][:most]

    def stop(self, id: str) -> None:
        self._check(id)
        self._jobs.stop(id)

    def resume(self, id: str) -> None:
        self._check(id)
        if self._is_others(id):
            raise T2LocalError("An answer cannot be taken up again; whoever asked can ask anew.")
        self._jobs.resume(id)

    def _check(self, id: str) -> None:
        if not (self._owns or self._is_own(id)):
            raise T2LocalError(f"There is no job '{id}'; choose one from the list.")

    def _is_own(self, id: str) -> bool:
        return id.startswith(self._prefix)

    def _is_others(self, id: str) -> bool:
        """Whether it is an answer to somebody else."""
        return id.startswith(JOB) and not self._is_own(id)

    def _without_words(self, status: JobStatus) -> JobStatus:
        if not self._is_others(status.id):
            return status
        whose = status.id.removeprefix(JOB).partition(".")[0]
        return replace(status, name=f"for {whose}", message="")
