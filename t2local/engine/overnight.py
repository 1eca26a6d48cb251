"""Learning from chats while nobody is there: off unless asked for, and nothing is changed by it.

Once a day, at the time that the person gave, a run is begun where enough rows are new and the
machine is idle. What it makes is *offered*, not adopted: the page tells what was measured, and the
person adopts it, tries it in the chat, or drops it. Only where they said so before is it
adopted by itself, and then only if it is proven better and nothing else fell.
"""

import datetime
import logging
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2local import paths
from t2local.engine.lessons import Lessons, lessons_of
from t2local.engine.training import Training
from t2local.engine.verdicts import Verdicts
from t2local.errors import T2LocalError
from t2local.progress import FINISHED
from t2local.tasks.files import read_examples
from t2local.tasks.rows import Example
from t2local.tasks.uploads import FEWEST_PROMPTS, write_rows
from t2local.training.config import TrainConfig
from t2local.training.dry_run import with_fitting
from t2local.training.runs import Run

if TYPE_CHECKING:
    from t2local.engine.engine import Engine

NAME = "from-my-chats"  # of the rows' file, and of the expert
FEWEST_NEW = 12  # rows, before it is worth a night
LENGTH, PATIENCE = "an hour", 4
BUSY_SHARE = 0.3  # of the processors, by whatever else runs here
LOOK_S = 60.0  # between two looks at the clock
TRIES, TRY_EVERY_S = 48, 300.0  # from the time that was given, while the machine is busy
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Appointment:
    """When, and whether what is proven better is adopted by itself."""

    at: datetime.time
    adopts: bool = False

    @classmethod
    def read(cls, text: str, adopts: bool = False) -> "Appointment":
        """Of `HH:MM`. Raises `T2LocalError`."""
        found = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text.strip())
        if found is None:
            raise T2LocalError(f"'{text}' is no time of day; write it as HH:MM, such as 02:30.")
        return cls(datetime.time(int(found[1]), int(found[2])), adopts)

    def wait(self, now: datetime.datetime) -> datetime.timedelta:
        """Until it is that time again."""
        then = datetime.datetime.combine(now.date(), self.at)
        if then <= now:
            then += datetime.timedelta(days=1)
        return then - now


# --- What no run has learnt from yet.


def key_of(row: Example) -> tuple[str, ...]:
    """Equal for a row and what is read back from its file, where spaces and turns may be joined."""
    said = "".join(str(turn["content"]) for turn in row.turns)
    return tuple("".join(text.split()) for text in (said, *row.columns.get("choices", ())))


def fresh_rows(lessons: Lessons, training: Training) -> list[Example]:
    """The choices that no expert of the loaded model has learnt from chats, the newest first."""
    learnt: set[tuple[str, ...]] = set()
    for path in paths.runs_dir().glob("*/run.json"):
        try:
            run = Run(path.parent)
            source = Path(run.plan().source)
            if source.name.startswith(f"{NAME}-") and training.has_learnt(run):
                learnt |= {key_of(row) for row in read_examples(source).examples}
        except T2LocalError:  # moved or spoilt: its rows count as new
            continue
    return [row for row in lessons.choices if key_of(row) not in learnt]


# --- One night.


def busy_with(training: Training) -> str:
    """Why this is no time to learn, "" where it is: a job, others' programs, the battery."""
    import psutil

    jobs = training.jobs.live()
    if jobs:
        return f"'{jobs[0].name}' is at work."
    battery = getattr(psutil, "sensors_battery", lambda: None)()
    if battery is not None and not battery.power_plugged:
        return "This computer runs on its battery."
    share = psutil.cpu_percent(interval=1.0) / 100
    return f"Other programs use {share:.0%} of the processors." if share > BUSY_SHARE else ""


def begin(training: Training, verdicts: Verdicts) -> str:
    """Queue a run on what is new; its name, "" where that is too little. Raises `T2LocalError`.

    An expert that was made of earlier rows goes on, and learns those again beside the new ones.
    """
    if training.offers():
        return ""  # the last one waits for an answer
    lessons = lessons_of(verdicts.all())
    fresh = fresh_rows(lessons, training)
    goes_on = NAME in training.begins()
    rows = fresh if goes_on else list(lessons.choices)
    if len(fresh) < FEWEST_NEW or len({row.group for row in rows}) < FEWEST_PROMPTS:
        return ""
    source = str(write_rows(rows, NAME))
    config: TrainConfig = with_fitting({"patience": PATIENCE}, "choice", rows)
    start = NAME if goes_on else ""
    return training.start(NAME, source, "choice", LENGTH, config, start, offered=True)


def is_proven(result: Mapping[str, Any]) -> bool:
    """Whether a finished run's expert is better than what it started from, and nothing fell."""
    gain = result.get("since_start") or result.get("held_out") or {}
    low, _ = gain.get("ci95_difference") or (0.0, 0.0)
    fell = [f for f in result.get("forgetting", ()) if f["ci95_difference"][1] < 0]
    return low > 0 and not fell


def keep(appointment: Appointment, engine: "Engine") -> None:
    """From now on, in the background."""
    Nights(appointment, engine.training, engine.verdicts).start()


class Nights:
    """Keeps an appointment, in a thread of its own. `now`, `wait`: the clock, for tests.

    `wait`: of so many seconds, True once the program ends.
    """

    def __init__(
        self,
        appointment: Appointment,
        training: Training,
        verdicts: Verdicts,
        now: Callable[[], datetime.datetime] = datetime.datetime.now,
        wait: Callable[[float], bool] | None = None,
        busy: Callable[[Training], str] = busy_with,
    ) -> None:
        self.appointment, self.training, self.verdicts = appointment, training, verdicts
        self._now, self._wait, self._busy = now, wait or threading.Event().wait, busy

    def start(self) -> None:
        threading.Thread(target=self._keep, daemon=True, name="overnight").start()

    def _keep(self) -> None:
        while not self._slept_until(self._now() + self.appointment.wait(self._now())):
            try:
                self.night()
            except Exception as error:  # of one night; there will be others
                LOG.warning("Nothing was learnt from chats this night: %s", error)

    def _slept_until(self, then: datetime.datetime) -> bool:
        """Whether the program ends before. A computer that sleeps stops the clock of a wait."""
        while (left := (then - self._now()).total_seconds()) > 0:
            if self._wait(min(left, LOOK_S)):
                return True
        return False

    def night(self) -> str:
        """Begin a run as soon as the machine is idle, and see it through; its name, "" for none."""
        for _ in range(TRIES):
            if not self._busy(self.training):
                break
            if self._wait(TRY_EVERY_S):
                return ""
        else:
            return ""
        name = begin(self.training, self.verdicts)
        if name and self.appointment.adopts:
            status = self.training.jobs.wait(name)
            if status.stage == FINISHED and is_proven(Run.open(name).result()):
                self.training.adopt_offered(name)
        return name
