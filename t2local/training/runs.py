"""Training runs on disk: what was asked, what happened, and the state to go on from.

A run is a folder: `run.json` (the plan), `metrics.jsonl` (one event a line), `state.safetensors`
(the last checkpoint, replaced atomically) and `expert.json` once it is finished. A killed process
loses the steps since its last checkpoint; metrics after it are dropped when the run goes on.
"""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from t2local import paths
from t2local.errors import T2LocalError
from t2local.experts.expert import Measured, Shares, check_name
from t2local.training.config import TrainConfig
from t2local.training.reports import (
    Answers,
    Checkpoint,
    DryRun,
    Gain,
    Notice,
    StepReport,
    TrainState,
    Validation,
)
from t2local.untrusted import check_encodes, parsed, read_document, read_lines, typed


class Summary(TypedDict, total=False):
    """What a page reads of what came of a run (`training.runner.summary`)."""

    expert: str | None
    numbers: int
    train_s: float
    held_out: Shares
    forgetting: tuple[Measured, ...]
    since_start: Measured | None
    offer: str


TENSORS = ("flat", "exp_avg", "exp_avg_sq", "best_flat")
Event = DryRun | StepReport | Validation | Answers | Notice | Gain | Checkpoint


@dataclass(frozen=True)
class Plan:
    """What a run is told. `source`: a dataset or a file; `model` and below: what to load.

    `start`: the expert from whose `z` it goes on, "" for the base model; `start_run`: the run that
    made that one, "" where it is not known; `replays`: whether its rows are learnt again beside
    these. `offered`: its expert waits in the run's folder until the person adopts it.
    `forgetting`: what it does to other experts' tasks is measured in the end.
    """

    name: str
    source: str
    reward: str
    config: TrainConfig = field(default_factory=TrainConfig)
    description: str = ""
    classifier: bool = False
    model: str = "embedded"
    quantization: str = "auto"
    basis: str = "auto"
    command: str = ""
    start: str = ""
    start_run: str = ""
    replays: bool = False
    offered: bool = False
    forgetting: bool = True

    def __post_init__(self) -> None:
        check_name(self.name)
        check_encodes(self.description, "the description")


class Run:
    """One run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, plan: Plan) -> "Run":
        """A new folder in the user's data. Raises `T2LocalError` when it cannot be written."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        name = f"{stamp}-{paths.slug(plan.name)}"
        with paths.saving(paths.runs_dir() / name):
            folder = paths.fresh_folder(paths.runs_dir(), name)
        _write_json(folder / "run.json", asdict(plan))
        return cls(folder)

    @classmethod
    def open(cls, name: str) -> "Run":
        """A run by its folder's name or path; "last" is the newest. Raises `T2LocalError`."""
        found = sorted(paths.runs_dir().glob("*/run.json"))
        if name == "last" and found:
            return cls(found[-1].parent)
        for folder in (paths.runs_dir() / name, Path(name).expanduser()):
            if (folder / "run.json").is_file():
                return cls(folder)
        known = ", ".join(path.parent.name for path in found[-5:]) or "none yet"
        raise T2LocalError(f"There is no training run '{name}'; the newest are: {known}.")

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def lock(self) -> Path:
        """Held by whoever drives the run."""
        return self.folder / ".lock"

    def plan(self) -> Plan:
        """Raises `T2LocalError` when the plan is damaged."""
        try:
            return typed(Plan, read_document(self.folder / "run.json"))
        except (OSError, ValueError, T2LocalError) as error:
            raise T2LocalError(
                f"The plan of run '{self.name}' cannot be read ({error}); start a new run."
            ) from error

    def record(self, event: Event) -> None:
        """Write an event down: a checkpoint replaces the last one if due, others are appended.

        Raises `T2LocalError` (`DiskFull`) and leaves what was there readable.
        """
        if isinstance(event, Checkpoint):
            if event.due:
                self._save(event.state)
            return
        path = self.folder / "metrics.jsonl"
        line = json.dumps({"event": type(event).__name__, **asdict(event)}) + "\n"
        with paths.saving(path):
            paths.append(path, line.encode())

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The events so far; a line cut off by a crash is passed over.

        Raises `T2LocalError` where their file is none.
        """
        try:
            for event in read_lines(self.folder / "metrics.jsonl"):
                if isinstance(event, dict) and type(event.get("step", 0)) is int:
                    yield event
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise T2LocalError(
                f"What run '{self.name}' noted down cannot be read ({error}); start a new run."
            ) from error

    def state(self) -> TrainState | None:
        """The last checkpoint, None before the first. Raises `T2LocalError` when damaged."""
        path = self.folder / "state.safetensors"
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                # Copies, or the file stays open, and Windows cannot replace it by the next one.
                tensors = {name: file.get_tensor(name).clone() for name in TENSORS}
                kept = _kept(file)
            if len({(row.shape, row.dtype) for row in tensors.values()}) > 1:
                raise ValueError("its tensors are not of one length")
            return TrainState(**vars(kept), **tensors)
        except (SafetensorError, OSError, ValueError) as error:
            raise self._damaged(error) from error

    def step(self) -> int:
        """Of the last checkpoint, read without its tensors; 0 before the first.

        Raises `T2LocalError` when it is damaged.
        """
        path = self.folder / "state.safetensors"
        if not path.is_file():
            return 0
        try:
            with safe_open(path, framework="pt") as file:
                return _kept(file).step
        except (SafetensorError, OSError, ValueError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> T2LocalError:
        return T2LocalError(
            f"The checkpoint of run '{self.name}' is damaged ({error}); start a new run."
        )

    def rewind(self, state: TrainState | None) -> None:
        """Drop the metrics that came after `state`: those steps will be taken again.

        What was measured of a run that then went on is measured again in any case.
        """
        last = state.step if state else 0
        kept = [
            m
            for m in self.metrics()
            if state and m.get("step", 0) <= last and m.get("event") != Gain.__name__
        ]
        with paths.atomic_write(self.folder / "metrics.jsonl") as temporary:
            text = "".join(json.dumps(m) + "\n" for m in kept)
            temporary.write_text(text, encoding="utf-8")

    def finish(self, result: dict[str, Any]) -> None:
        """Write down what came of it."""
        _write_json(self.folder / "expert.json", result)

    def result(self) -> dict[str, Any]:
        """What `finish` wrote; {} before. Raises `T2LocalError` when it is damaged."""
        if not self.finished:
            return {}
        try:
            return typed(Summary, read_document(self.folder / "expert.json"))
        except (OSError, ValueError) as error:
            raise T2LocalError(
                f"What came of run '{self.name}' cannot be read ({error}); its expert is in the "
                "tab Experts all the same."
            ) from error

    @property
    def offered(self) -> Path:
        """The file of an expert that waits to be adopted; there only while it does."""
        return self.folder / "offered.safetensors"

    @property
    def finished(self) -> bool:
        return (self.folder / "expert.json").is_file()

    def _save(self, state: TrainState) -> None:
        values = asdict(replace(state, **dict.fromkeys(TENSORS, None)))
        tensors = {name: getattr(state, name).detach().cpu().clone() for name in TENSORS}
        with paths.atomic_write(self.folder / "state.safetensors") as temporary:
            metadata = {"format": "pt", "state": json.dumps(values)}
            temporary.write_bytes(save(tensors, metadata=metadata))


@dataclass(frozen=True)
class _Kept:
    """A `TrainState` without its tensors, beside which it is kept as JSON."""

    step: int
    best: Validation | None
    curve: tuple[float, ...]
    validations: tuple[Validation, ...]
    seconds: Mapping[str, float]
    tokens: int
    base_answers: tuple[str, ...]
    rows_per_forward: int
    draws: tuple[int, ...] = ()
    passed: tuple[float, ...] = ()
    gap_told: bool = False


def _kept(file: Any) -> _Kept:
    """Of an open checkpoint. Raises `ValueError`."""
    return typed(_Kept, parsed((file.metadata() or {}).get("state", ""), finite=False))


def _write_json(path: Path, values: dict[str, Any]) -> None:
    with paths.atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")
