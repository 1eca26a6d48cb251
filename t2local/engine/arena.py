"""Blind pairs: two contenders answer one prompt, the person says which is better, then sees whose.

Which wrote what is told by nothing until the vote: both answers are shown at once, when both are
written, whichever was slower, on sides that a coin chose. A pair is laid down among the verdicts
(`engine.verdicts`), and its vote is one of them.
"""

import csv
import io
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol

from t2local.adapt.dispatch import ADAPTED_ROW, Controls, Dispatched, Token, strategy_of
from t2local.engine.chats import ChatStore
from t2local.engine.contenders import Contender, label_of
from t2local.engine.job_record import BLIND_PAIR
from t2local.engine.jobs import Job, Jobs, Work
from t2local.engine.requests import ChatRequest, EngineStatus, mixture_json
from t2local.engine.standings import Standings, standings
from t2local.engine.verdicts import Verdict, Verdicts, Vote, pair_id, spoken
from t2local.errors import T2LocalError
from t2local.models.decode.sampling import Sampling
from t2local.progress import Progress
from t2local.tasks.unlabelled import inert
from t2local.untrusted import check_encodes

JOB = "pair-"  # before whose it is, and its own id
MOST_CHATS = 200  # the newest, in which questions are looked for
LONGEST_PROMPT = 20_000  # characters


class Speaker(Protocol):
    """What the arena needs of the engine."""

    verdicts: Verdicts
    chats: ChatStore

    @property
    def status(self) -> EngineStatus: ...

    def contenders(self) -> list[Contender]: ...

    def strategies(self) -> list[str]: ...

    def dispatch(self, request: ChatRequest) -> Any: ...

    def answer(self, chat_id: str, request: ChatRequest, cancel: Any = None) -> Any: ...


# --- One pair.


@dataclass(frozen=True)
class Battle:
    """A pair as a page may show it: `names`, `mixtures` are empty until the vote.

    `progress`: how far the answers are, as a sentence; `texts` come when both are written.
    """

    id: str
    prompt: str
    texts: tuple[str, str] | None = None
    said: str = ""
    names: tuple[str, str] | None = None
    mixtures: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None
    kind: str = ""
    progress: str = ""


@dataclass(frozen=True)
class Written:
    """What a contender answered, and the mixture that did, as JSON."""

    contender: Contender
    text: str
    mixture: Mapping[str, Any]


class BlindPairWork(Work):
    """Writes both answers, in any order, and lays them down."""

    kind = BLIND_PAIR
    keeps_events = False

    def __init__(
        self,
        id: str,
        engine: Speaker,
        prompt: str,
        pair: tuple[Contender, Contender],
        sampling: Sampling,
    ) -> None:
        super().__init__(id, "two answers", 2)
        self.battle = uuid.uuid4().hex
        self.engine, self.prompt, self.pair, self.sampling = engine, prompt, pair, sampling
        self.pair_id = ""  # of the verdict, once it is laid down

    def run(self, job: Job) -> Generator[Progress, None, str]:
        yield Progress("Reading your prompt …", 0, 2)
        kind = kind_of(self.engine, self.prompt)
        order, written = random.SystemRandom().sample((0, 1), 2), {}
        for done, place in enumerate(order):
            yield Progress(f"Writing answer {done + 1} of 2 …", done, 2)
            written[place] = self._write(self.pair[place], done, job)
            if job.cancel.cancelled:
                return "Stopped."
        self.pair_id = self._lay(written[0], written[1], kind)
        return "Both answers are there."

    def _write(self, contender: Contender, number: int, job: Job) -> Written:
        self._check(contender)
        request = ChatRequest(_turns(self.prompt), contender.controls, self.sampling)
        text, mixture = "", {}
        with closing(self.engine.answer(f"{self.id}-{number}", request, job.cancel)) as events:
            for event in events:
                if isinstance(event, Dispatched):
                    mixture = mixture_json(event.dispatch.mixture)
                elif isinstance(event, Token) and event.row == ADAPTED_ROW:
                    text += event.text
        self._check(contender)
        return Written(contender, spoken(text), mixture)

    def _check(self, contender: Contender) -> None:
        """Raise `T2LocalError` where it is not any more what its key says."""
        if contender.key not in {each.key for each in self.engine.contenders()}:
            raise T2LocalError(f"'{contender.label}' was changed while it was asked; ask again.")

    def _lay(self, first: Written, second: Written, kind: str) -> str:
        flipped = random.SystemRandom().random() < 0.5
        vote = Vote((first.contender.key, second.contender.key), second.text, flipped, kind=kind)
        verdict = Verdict(
            pair_id(self.battle, (first.text, second.text)),
            self.battle,
            _turns(self.prompt),
            first.text,
            mixture=first.mixture,
            over_mixture=second.mixture,
            model=self.engine.status.model_name,
            vote=vote,
        )
        return self.engine.verdicts.lay(verdict).id


def kind_of(engine: Speaker, prompt: str) -> str:
    """The kind of prompt by the best strategy that asks; "" where there is none."""
    asking = [name for name in engine.strategies() if strategy_of(name).asks]
    if not asking:
        return ""
    try:
        found = engine.dispatch(ChatRequest(_turns(prompt), Controls(asking[0]))).probabilities
    except T2LocalError:
        return ""
    return max(found, key=found.__getitem__) if found else ""


def _turns(prompt: str) -> tuple[Mapping[str, Any], ...]:
    return ({"role": "user", "content": prompt},)


# --- What a page asks for.


class Arena:
    """Blind pairs at one engine, or at one seat of it. From any thread.

    `scope`: sets apart the pairs of several seats that share their `jobs`.
    """

    def __init__(self, jobs: Jobs, engine: Speaker, scope: str = "") -> None:
        self._jobs, self._engine, self._prefix = jobs, engine, JOB + scope

    def start(self, prompt: str, keys: Sequence[str], sampling: Sampling) -> str:
        """Let two of the contenders answer; the id of the job. Raises `T2LocalError`.

        Of several the pair with the fewest votes so far is taken, at random among equals.
        """
        if not prompt.strip():
            raise T2LocalError("The prompt is empty; write what both are to answer.")
        if len(prompt) > LONGEST_PROMPT:
            raise T2LocalError(
                f"The prompt has {len(prompt):,} characters, the most is {LONGEST_PROMPT:,}; "
                "shorten it."
            )
        check_encodes(prompt, "the prompt")
        known = {each.key: each for each in self._engine.contenders()}
        gone = [key for key in keys if key not in known]
        if gone:
            raise T2LocalError(f"'{label_of(gone[0])}' is not there any more; choose others.")
        if len(set(keys)) < 2:
            raise T2LocalError("A pair takes two; choose at least two that are to be compared.")
        pair = self._next_pair(sorted(set(keys)))
        if sampling.seed is None:  # both draw the same random numbers
            sampling = replace(sampling, seed=random.SystemRandom().randrange(2**31))
        both = known[pair[0]], known[pair[1]]
        id = self._prefix + uuid.uuid4().hex
        work = BlindPairWork(id, self._engine, prompt.strip(), both, sampling)
        return self._jobs.start(work)

    def _next_pair(self, keys: Sequence[str]) -> tuple[str, str]:
        model = self._engine.status.model_name
        votes = [v for v in self._engine.verdicts.votes() if v.model == model]
        met = Counter(tuple(sorted(v.vote.contenders)) for v in votes)
        pairs = [(a, b) for i, a in enumerate(keys) for b in keys[i + 1 :]]
        fewest = min(met[pair] for pair in pairs)
        return random.SystemRandom().choice([pair for pair in pairs if met[pair] == fewest])

    def asked_before(self, besides: str = "") -> str:
        """A question from the chats, at random. Raises `T2LocalError` where there is none."""
        chats = [each.id for each in self._engine.chats.list()][:MOST_CHATS]
        for id in random.SystemRandom().sample(chats, len(chats)):
            try:
                messages = self._engine.chats.load(id).messages
            except T2LocalError:  # damaged, or gone meanwhile
                continue
            alone = (m for m in messages if m.role == "user" and not (m.images or m.files))
            asked = {message.content.strip() for message in alone}
            asked = {text for text in asked if text and len(text) <= LONGEST_PROMPT} - {besides}
            if asked:
                return random.SystemRandom().choice(sorted(asked))
        raise T2LocalError("There is no other question in your chats; write one here.")

    def battle(self, id: str) -> Battle:
        """By the id of its job while it is written, or of the pair. Raises `T2LocalError`."""
        job = self._own(id)
        if job is not None:
            if job.work.pair_id:
                return self._shown(self._engine.verdicts.pair(job.work.pair_id))
            status = self._jobs.status(id)
            if not status.live:
                raise T2LocalError(f"{status.message or 'Stopped.'} There is no pair; ask again.")
            return Battle(id, job.work.prompt, progress=status.message or "It waits its turn …")
        return self._shown(self._engine.verdicts.pair(id))

    def awaited(self) -> Battle | None:
        """The pair that is being written, else the newest that waits for its vote."""
        live = [s.id for s in self._jobs.live(BLIND_PAIR) if s.id.startswith(self._prefix)]
        if live:
            return self.battle(live[-1])
        found = self._engine.verdicts.awaited()
        return self._shown(found[0]) if found else None

    def stop(self, id: str) -> None:
        """Nothing happens to one that is written already."""
        if self._own(id) is not None:
            self._jobs.stop(id)

    def _own(self, id: str) -> Job | None:
        return self._jobs.find(id) if id.startswith(self._prefix) else None

    def vote(self, id: str, said: str) -> Battle:
        """Raises `T2LocalError` for a pair that is gone, or that was voted on otherwise."""
        return self._shown(self._engine.verdicts.cast(id, said))

    def standings(self) -> Standings:
        model = self._engine.status.model_name
        return standings(self._engine.verdicts.votes(), self._known(), model)

    def export(self, as_csv: bool) -> str:
        """All votes, the oldest first: CSV for a spreadsheet, else JSONL."""
        rows = [_row(verdict) for verdict in reversed(self._engine.verdicts.votes())]
        if not rows:
            raise T2LocalError("There is no vote yet; vote on a pair first.")
        if not as_csv:
            return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: inert(value) for name, value in row.items()} for row in rows)
        return out.getvalue()

    def _known(self) -> list[Contender]:
        return self._engine.contenders() if self._engine.status.ready else []

    def _shown(self, pair: Verdict) -> Battle:
        assert pair.vote is not None, pair.id
        battle = Battle(pair.id, pair.question, pair.sides, pair.vote.said)
        if not pair.vote.said:
            return battle
        known = self._known()
        mixtures = _named(pair.mixture, known), _named(pair.over_mixture, known)
        first, second = (label_of(key, known) for key in pair.vote.sides)
        return replace(
            battle,
            names=(first, second),
            mixtures=mixtures[::-1] if pair.vote.flipped else mixtures,
            kind=pair.vote.kind,
        )


def _named(mixture: Mapping[str, Any], known: Collection[Contender]) -> Mapping[str, Any]:
    """Of an earlier version the label instead of the name that it has in mixtures."""
    labels = {n: each.label for each in known for n in each.controls.mixture.experts}
    alpha = {labels.get(name, name): a for name, a in mixture.get("alpha", {}).items()}
    return {**mixture, "alpha": alpha}


def _row(verdict: Verdict) -> dict[str, str]:
    """A vote as texts, its sides as they were shown."""
    assert verdict.vote is not None, verdict.id
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(verdict.given))
    a, b = verdict.vote.sides
    return {
        "time": moment, "model": verdict.model, "kind": verdict.vote.kind,
        "prompt": verdict.question, "a": a, "b": b, "vote": verdict.vote.said,
        "preferred": verdict.vote.winner, "answer_a": verdict.sides[0],
        "answer_b": verdict.sides[1],
    }  # fmt: skip
