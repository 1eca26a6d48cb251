"""An engine without a model: tests wiring, plots and error paths of the page in milliseconds.

It dispatches by a word in the prompt, says one word a token, and obeys `steer` and `stop` as the
real one does: after a steer, the words carry the new α of math. A prompt with "slowly" gives a
browser time to act in the middle of the answer; "very slowly", to act before it could ever end.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

from t2local.adapt.dispatch import (
    BASE,
    BASE_ROW,
    MANUAL,
    Controls,
    Dispatch,
    Dispatched,
    Done,
    Steered,
    Token,
    offered,
)
from t2local.engine.answers import Answers
from t2local.engine.arena import Arena
from t2local.engine.attachments import attached
from t2local.engine.chats import ChatStore
from t2local.engine.contenders import Contender
from t2local.engine.engine import Engine
from t2local.engine.evaluations import Evaluations
from t2local.engine.forgetting import Forgotten
from t2local.engine.jobs import Jobs
from t2local.engine.labelling import Labelling
from t2local.engine.loading import Choice
from t2local.engine.model_slot import Downloads, ModelSlot, Uses
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
from t2local.engine.shelf import Shelf
from t2local.engine.training import Training
from t2local.engine.verdicts import Verdicts
from t2local.errors import T2LocalError
from t2local.progress import CancelToken
from t2local.svf.mixing import Mixture
from tests.ui.fake_library import FakeLibrary

SKILLS = ("math", "code", "reasoning")
KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MATRICES = [
    f"model.layers.{layer}.{'self_attn' if kind[0] in 'qkvo' else 'mlp'}.{kind}"
    for layer in range(30)
    for kind in KINDS
]
SAID = (
    "Each spider has **8 legs**, so 7 spiders have `7 * 8` legs.\n\n```python\nlegs = 7 * 8\n"
    "print(legs)  # 56\n```\n\n| animal | legs |\n|---|---|\n| spider | 8 |\n\nThe answer is 56. "
)


def pace(prompt: str) -> int:
    """How many times slower than usual the words come."""
    if "very slowly" in prompt:
        return 60
    return 12 if "slowly" in prompt else 1


class FakeEngine:
    def __init__(
        self,
        delay_s: float = 0.01,
        load_s: float = 0.0,
        chats: ChatStore | None = None,
        sees: bool = False,
    ) -> None:
        self.delay_s, self.load_s, self.said, self.sees = delay_s, load_s, SAID, sees
        self.chats = chats or ChatStore()
        self.verdicts = Verdicts(self.chats.folder)
        self.recipes = RecipeStore(self.chats.folder / "recipes")
        self.prompts = PromptStore(self.chats.folder / "prompts")
        self.error: str | None = None
        self.requests: list[tuple[str, ChatRequest]] = []
        self.steered: list[tuple[str, Mixture]] = []
        self._started = time.monotonic()
        self._running: dict[str, CancelToken] = {}
        self._mixtures: dict[str, Mixture] = {}
        self._lock = threading.Lock()
        self.jobs = Jobs()
        self.answers, self.arena = Answers(self.jobs, self), Arena(self.jobs, self)
        self.training = Training(self.jobs, _no_model, lambda expert: None)
        needs = self.jobs, _no_model, Shelf, Uses(), lambda: None
        self.searches, self.evaluations = Searches(*needs), Evaluations(*needs)
        self.labelling = Labelling(*needs)
        self.downloads = Downloads(self.jobs)
        self.models = ModelSlot(Choice("embedded"), self.jobs, Uses(), lambda: None)
        self.switched: list[Choice] = []
        self.library = FakeLibrary(shipped_experts)
        self.forgotten = Forgotten(*needs, self.library)

    def attached(self, files, beside, answer_tokens):
        """Each word is a token."""
        room = self.status.context_length - answer_tokens - len(beside.split())
        return attached(files, lambda text: len(text.split()), room)

    def start(self) -> None:
        self._started = time.monotonic()

    @property
    def status(self) -> EngineStatus:
        share = 1.0 if not self.load_s else (time.monotonic() - self._started) / self.load_s
        if self.error:
            return EngineStatus("failed", error=self.error)
        if share < 1.0:
            return EngineStatus("decomposing matrices", fraction=share)
        return EngineStatus(
            "ready", 1.0, True, None, "SmolLM2-135M-Instruct", "float32", "none", 1_130_000_000,
            "cpu", 8192, sees=self.sees,
        )  # fmt: skip

    def switch(
        self, source: str, quantize: str = "auto", basis: str = "auto", targets: str = "all"
    ) -> None:
        self.switched.append(Choice(source, quantize, basis, targets))

    def draft(self, run: str) -> str:
        return _no_model()

    def experts(self) -> list[ExpertInfo]:
        return self.library.all()

    def strategies(self) -> list[str]:
        return offered()

    def contenders(self) -> list[Contender]:
        alone = {name: Controls(MANUAL, mixture=Mixture({name: 1.0})) for name in SKILLS}
        skills = [Contender(f"{name}@00000000", name, alone[name]) for name in SKILLS]
        return [Contender(BASE, BASE, Controls(MANUAL, mixture=Mixture())), *skills]

    def dispatch(self, request: ChatRequest) -> Dispatch:
        return self._dispatch(request, request.messages[-1]["content"])

    def settled(self, controls: Controls) -> Controls:
        return Engine.settled(self, controls)

    def prompts_of(self, name: str) -> tuple[str, ...]:
        return ()

    def see_forgotten(self, name: str) -> str:
        return self.forgotten.start(name)

    def answer(
        self, chat_id: str, request: ChatRequest, cancel: CancelToken | None = None
    ) -> Iterator[object]:
        self.requests.append((chat_id, request))
        cancel = self._running[chat_id] = cancel or CancelToken()
        try:
            yield from self._events(chat_id, request, cancel)
        finally:
            del self._running[chat_id]

    def _events(self, chat_id: str, request: ChatRequest, cancel: CancelToken) -> Iterator[object]:
        prompt = request.messages[-1]["content"]
        if "unanswerable" in prompt:
            raise T2LocalError("The model <b>refused</b>; ask something else.")
        dispatch = self._dispatch(request, prompt)
        cut = 1234 if len(prompt) > 20_000 else 0
        yield Dispatched(dispatch, context_tokens=len(prompt.split()) + 30, cut_tokens=cut)
        began = time.monotonic()
        texts, tokens, finish = ["", ""], 0, "stop"
        words = self.said.replace(" ", " \0").split("\0")
        if "differ" in prompt:  # each contender says something else
            words = [f"Variant {sum(map(ord, ''.join(dispatch.mixture.alpha)))}. ", *words]
        for word in words[: request.sampling.max_new_tokens]:
            time.sleep(self.delay_s * pace(prompt))
            with self._lock:
                mixture = self._mixtures.pop(chat_id, None)
            if mixture is not None:
                yield Steered(mixture, tokens, len(texts[0]))
                word = f"[math {mixture.alpha.get('math', 0):.2f}] {word}"
            tokens += 1
            texts[0] += word
            yield Token(word, tokens=tokens)
            if request.compare:
                texts[1] += word.upper()
                yield Token(word.upper(), BASE_ROW, tokens)
            if cancel.cancelled:
                finish = "cancelled"
                break
        spent = time.monotonic() - began
        said = tuple(texts[: 1 + request.compare])
        yield Done(said, tokens, dispatch.seconds, spent, finish, 42 + tokens, 8192)

    def _dispatch(self, request: ChatRequest, prompt: str) -> Dispatch:
        controls = request.controls
        if controls.override:
            alpha = {} if controls.override == "base" else {controls.override: 1.0}
            return Dispatch(
                controls.strategy, {}, controls.override, controls.mixture.with_alpha(alpha)
            )
        if controls.strategy in ("manual", "base"):
            if controls.strategy == "manual":
                return Dispatch(controls.strategy, {}, MANUAL, controls.mixture)
            return Dispatch(controls.strategy, {}, "base", controls.mixture.with_alpha({}))
        found = next((s for s in SKILLS if s in prompt), "math")
        rest = [name for name in (*SKILLS, "other") if name != found]
        probabilities = {found: 0.86, **dict(zip(rest, (0.09, 0.03, 0.02), strict=True))}
        alpha = {name: p for name, p in probabilities.items() if name != "other"}
        return Dispatch(
            controls.strategy, probabilities, found, controls.mixture.with_alpha(alpha), 0.31
        )

    def steer(self, chat_id: str, mixture: Mixture) -> None:
        with self._lock:
            self.steered.append((chat_id, mixture))
            if chat_id in self._running:
                self._mixtures[chat_id] = mixture

    def stop(self, chat_id: str) -> None:
        if cancel := self._running.get(chat_id):
            cancel.cancel()

    def next_tokens(
        self, chat_id: str, request: ChatRequest, mixture: Mixture, k: int = 10
    ) -> NextTokens:
        math = mixture.alpha.get("math", 0.0)
        words = ("The", " 7", "\n", " legs", "56", " So", "To", " each", "<b>", " spider")
        base = tuple((word, 0.4 / (i + 1)) for i, word in enumerate(words[:k]))
        moved = [(w, p * (1 + math if w in (" 7", "56") else 1)) for w, p in base]
        total = sum(p for _, p in moved)
        adapted = sorted(((w, p / total) for w, p in moved), key=lambda pair: -pair[1])
        return NextTokens(base, tuple(adapted), 0.05)

    def deltas(self, mixture: Mixture) -> dict[str, float]:
        size = sum(abs(a) for a in mixture.alpha.values()) * mixture.strength
        return {name: size * (0.01 + 0.001 * (i % 11)) for i, name in enumerate(MATRICES)}

    def matrix_names(self) -> list[str]:
        return MATRICES

    def spectrum(self, matrix_name: str, mixture: Mixture) -> Spectrum:
        size = mixture.alpha.get("math", 0.0)
        sigma = tuple(20.0 / (1 + 0.05 * rank) for rank in range(576))
        return Spectrum(sigma, tuple(1 + 0.02 * size * ((-1) ** (r // 40)) for r in range(576)))


def shipped_experts() -> list[ExpertInfo]:
    held_out = {"n": 240, "base": 0.467, "trained": 0.593, "ci95_difference": [0.06, 0.19]}
    about = {
        "math": "Word problems in several steps, from GSM8K and SVAMP.",
        "code": "Short Python functions, from MBPP.",
        "reasoning": "Science questions with four answers, from ARC-Easy.",
    }
    skills = [
        ExpertInfo(name, about[name], "skill", held_out, size_bytes=480_000) for name in SKILLS
    ]
    skills[1] = replace(skills[1], warning="transferred from the same model in 4 bits")
    lost = {
        "task": "math",
        "n": 100,
        "base": 0.42,
        "trained": 0.41,
        "ci95_difference": [-0.05, 0.03],
    }
    skills[2] = replace(skills[2], forgetting=(lost,))
    told = {"n": 300, "base": 0.4, "trained": 0.93, "ci95_difference": [0.48, 0.58]}
    about_it = "Tells math, code, reasoning and other prompts apart."
    return [*skills, ExpertInfo("classifier", about_it, "classifier", told)]


def _no_model():
    raise T2LocalError("This engine has no model; nothing can be trained.")
