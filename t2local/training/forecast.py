"""How long a run takes, in measured seconds, from the first step to the last.

A run learns, checks itself on the way, answers the held-out rows before and after, measures what
was forgotten and takes the expert's print. A dry run measures each of these on a few rows (`Times`)
and a length of time becomes a number of steps (`lasting`). While a run goes on, guesses are
replaced by what it is seen to take (`Forecast`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from t2local.adapt.answering import CHOICE, action_of, answer_examples, choice_tokens
from t2local.models.load.loader import LoadedModel
from t2local.progress import Progress
from t2local.svf import SVFModel
from t2local.training.config import TrainConfig
from t2local.training.reports import (
    MEASURING_FORGOTTEN,
    MEASURING_HELD_OUT,
    TAKING_PRINT,
    TRAINING_WITHOUT,
    StepReport,
    Validation,
)
from t2local.training.validation import OtherTask, base_known

LENGTHS = {"a minute": 60.0, "five minutes": 300.0, "ten minutes": 600.0, "an hour": 3600.0}
FEWEST_STEPS, MOST_STEPS = 4, 1000
TRIED_ROWS = 2  # of each other task, to learn how fast it is answered
TRIED_TOKENS = 8  # that are written to learn how fast this model writes
LEARNING, BASE_ANSWERS, TRAINED_ANSWERS, FORGOTTEN, PRINT = range(5)  # parts of a run, in order


@dataclass(frozen=True, kw_only=True)
class Times:
    """What each part of a run takes, in seconds. `step_s`: a training step; `answer_s`: a held-out
    row; the counts are of rows. `leave_one_out`: each row is held out in turn. `before_s`: all
    before the first step; `others_s`: measuring what was forgotten; `print_s`: the print."""

    step_s: float
    answer_s: float
    train: int
    validation: int
    held_out: int
    leave_one_out: bool = False
    before_s: float = 0.0
    others_s: float = 0.0
    print_s: float = 0.0

    @property
    def trainings(self) -> int:
        """Left out in turn, each row takes a training of its own."""
        return 1 + self.held_out if self.leave_one_out else 1


def run_seconds(times: Times, config: TrainConfig, forgetting: bool = True) -> float:
    """How long a run takes to its very end. `forgetting`: what was forgotten is measured too."""
    answers = (1 + checks(config)) * times.validation + 2 * times.held_out
    a_training = times.before_s + config.steps * times.step_s + answers * times.answer_s
    others_s = times.others_s if forgetting else 0.0
    return times.trainings * a_training + others_s + times.print_s


def lasting(length: str, times: Times, config: TrainConfig, forgetting: bool = True) -> TrainConfig:
    """The configuration with the steps that a length of `LENGTHS` allows, all parts of the run
    included; others stay as set. A few steps are taken however long they are."""
    if length not in LENGTHS:
        return config

    def of(steps: int) -> TrainConfig:
        return replace(config, steps=steps, validate_every=max(1, min(10, steps // 4)))

    fewest, most = FEWEST_STEPS, MOST_STEPS
    while fewest < most:
        middle = (fewest + most + 1) // 2
        if run_seconds(times, of(middle), forgetting) <= LENGTHS[length]:
            fewest = middle
        else:
            most = middle - 1
    return of(fewest)


def in_words(seconds: float) -> str:
    """`about 40 seconds`, `about 12 minutes`, `about 2.5 hours`."""
    if seconds < 90:
        return f"about {max(1, round(seconds, -1 if seconds > 20 else 0)):.0f} seconds"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {seconds / 3600:.1f} hours"


@dataclass(frozen=True)
class Agenda:
    """What a run has to do: the first of its events, never written down.

    `validation`, `held_out`: rows. `others_s`: seconds that each other task is thought to take;
    `print_s`: the expert's print.
    """

    config: TrainConfig
    validation: int
    held_out: int
    leave_one_out: bool = False
    others_s: tuple[float, ...] = ()
    print_s: float = 0.0


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
        elif event.stage.startswith(TAKING_PRINT):
            self._part = PRINT

    @property
    def remaining_s(self) -> float | None:
        """None before the first step: nothing of this run has been measured yet."""
        if self.agenda is None or not self._steps_s:
            return None
        ahead_s = self._learning_s() + self._answering_s() + self._forgotten_s()
        return ahead_s + self.agenda.print_s

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
        if self._part > FORGOTTEN:
            return 0.0
        done = self._done if self._part == FORGOTTEN else 0
        return self._slower * sum(self.agenda.others_s[done:])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
