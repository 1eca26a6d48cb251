"""How long a run takes: what is ahead of it, in measured seconds, from the first step to the last.

A run learns, checks itself on the way, answers the held-out rows before and after, and measures
what was forgotten. Guesses are replaced by what the run itself is seen to take.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from t2local.adapt.answering import CHOICE, action_of, answer_examples, choice_tokens
from t2local.models.load.loader import LoadedModel
from t2local.progress import Progress
from t2local.svf import SVFModel
from t2local.training.config import TrainConfig
from t2local.training.reports import (
    MEASURING_FORGOTTEN,
    MEASURING_HELD_OUT,
    TRAINING_WITHOUT,
    StepReport,
    Validation,
)
from t2local.training.validation import OtherTask, base_known

TRIED_ROWS = 2  # of each other task, to learn how fast it is answered
TRIED_TOKENS = 8  # that are written to learn how fast this model writes
LEARNING, BASE_ANSWERS, TRAINED_ANSWERS, FORGOTTEN = range(4)  # the parts of a run, in order


@dataclass(frozen=True)
class Agenda:
    """What a run has to do: the first of its events, never written down.

    `validation`, `held_out`: rows. `others_s`: seconds that each other task is thought to take.
    """

    config: TrainConfig
    validation: int
    held_out: int
    leave_one_out: bool = False
    others_s: tuple[float, ...] = ()


def other_seconds(
    loaded: LoadedModel, svf: SVFModel, tasks: Sequence[OtherTask]
) -> tuple[float, ...]:
    """Seconds that measuring what was forgotten takes, a task each, from a few rows of each.

    The base model's part is left out where it is remembered.
    """
    return tuple(
        _pass_seconds(loaded, svf, task) * (1 if base_known(loaded, svf, task) else 2)
        for task in tasks
    )


def _pass_seconds(loaded: LoadedModel, svf: SVFModel, task: OtherTask) -> float:
    """Seconds in which all rows are answered once."""
    rows, tokens = task.rows, task.max_new_tokens
    if action_of(rows) == CHOICE:
        tried = rows[:: -(-len(rows) // TRIED_ROWS)]
        share = _read(loaded, rows) / _read(loaded, tried)
    else:
        tried, share = rows, tokens / min(tokens, TRIED_TOKENS)
    started = time.perf_counter()
    answer_examples(loaded, tried, min(tokens, TRIED_TOKENS), around=lambda: svf.using({}))
    return share * (time.perf_counter() - started)


def _read(loaded: LoadedModel, rows: Sequence) -> int:
    return sum(choice_tokens(loaded, row) for row in rows)


def checks(config: TrainConfig, until: int | None = None) -> int:
    """Validations after the first step up to step `until` (None: all), the last one included."""
    if until is None:
        return -(-config.steps // config.validate_every)
    return until // config.validate_every


@dataclass
class Forecast:
    """Listens to a run's events, each with the seconds it took, and says what is left."""

    agenda: Agenda | None = None
    _step: int = 0
    _steps_s: list[float] = field(default_factory=list)
    _checks_s: list[float] = field(default_factory=list)
    _part: int = LEARNING
    _done: int = 0  # of the part's trainings or tasks
    _slower: float = 1.0  # than the other tasks were thought to be

    def listen(self, event: object, seconds: float) -> None:
        """`seconds`: how long the work before `event` took, waiting aside."""
        match event:
            case Agenda():
                self.agenda = event
            case StepReport():
                self._step = event.step
                self._steps_s.append(seconds)
            case Validation():
                self._checks_s.append(seconds)
            case Progress():
                self._measuring(event, seconds)

    def _measuring(self, event: Progress, seconds: float) -> None:
        if event.stage.startswith(MEASURING_HELD_OUT):
            self._part = TRAINED_ANSWERS if event.done else BASE_ANSWERS
        elif event.stage.startswith(TRAINING_WITHOUT):
            self._part, self._done = TRAINED_ANSWERS, event.done
        elif event.stage.startswith(MEASURING_FORGOTTEN):
            self._part, self._done = FORGOTTEN, event.done
            thought = self.agenda.others_s[event.done - 1] if self.agenda and event.done else 0.0
            self._slower = seconds / thought if thought else self._slower

    @property
    def remaining_s(self) -> float | None:
        """None before the first step: nothing of this run has been measured yet."""
        if self.agenda is None or not self._steps_s:
            return None
        return self._learning_s() + self._answering_s() + self._forgotten_s()

    def _training_s(self, step: int = 0) -> float:
        """Of one whole training, from after `step`."""
        config = self.agenda.config
        ahead = checks(config) - checks(config, step)
        return (config.steps - step) * _mean(self._steps_s) + ahead * _mean(self._checks_s)

    def _learning_s(self) -> float:
        return self._training_s(self._step) if self._part == LEARNING else 0.0

    def _answering_s(self) -> float:
        """Held-out rows by the base model and by the trained one, or by one that left each out."""
        held_out, part = self.agenda.held_out, self._part
        pass_s = held_out * _mean(self._checks_s) / max(1, self.agenda.validation)
        base_s = pass_s if part <= BASE_ANSWERS else 0.0
        if part > TRAINED_ANSWERS:
            return 0.0
        if not self.agenda.leave_one_out:
            return base_s + pass_s
        left = held_out - (self._done if part == TRAINED_ANSWERS else 0)
        return base_s + left * self._training_s()

    def _forgotten_s(self) -> float:
        done = self._done if self._part == FORGOTTEN else 0
        return self._slower * sum(self.agenda.others_s[done:])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
