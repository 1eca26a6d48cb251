"""Training runs on disk: what was asked, what happened, and the state to go on from.

A run is a folder: `run.json` (the plan), `metrics.jsonl` (one event a line), `state.safetensors`
(the last checkpoint, replaced atomically) and `expert.json` once it is finished. A killed process
loses the steps since its last checkpoint; metrics after it are dropped when the run goes on.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from t2local import paths
from t2local.errors import T2LocalError
from t2local.experts.expert import check_name
from t2local.training.config import TrainConfig
from t2local.training.reports import (
    Answers,
    Checkpoint,
    DryRun,
    Notice,
    StepReport,
    TrainState,
    Validation,
)

TENSORS = ("flat", "exp_avg", "exp_avg_sq", "best_flat")
Event = DryRun | StepReport | Validation | Answers | Notice | Checkpoint


@dataclass(frozen=True)
class Plan:
    """What a run is told. `source`: a dataset or a file; `model` and below: what to load."""

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

    def __post_init__(self) -> None:
        check_name(self.name)


class Run:
    """One run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, plan: Plan) -> "Run":
        """A new folder in the user's data. Raises `T2LocalError` when it cannot be written."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        folder = paths.runs_dir() / f"{stamp}-{paths.slug(plan.name)}"
        number = 2
        while folder.exists():
            folder = folder.with_name(f"{stamp}-{paths.slug(plan.name)}-{number}")
            number += 1
        run = cls(folder)
        _write_json(folder / "run.json", asdict(plan))
        return run

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

    def plan(self) -> Plan:
        """Raises `T2LocalError` when the plan is damaged."""
        try:
            values = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
            config = _known(TrainConfig, values["config"])
            return Plan(**{**_known(Plan, values), "config": TrainConfig(**config)})
        except (OSError, ValueError, TypeError, KeyError) as error:
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
        with paths.saving(path), path.open("ab") as file:
            before = file.tell()
            try:
                file.write(line.encode())
                file.flush()
            except OSError:
                file.truncate(before)  # no half a line for the next one to be glued to
                raise

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The events so far; a line cut off by a crash is passed over."""
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def state(self) -> TrainState | None:
        """The last checkpoint, None before the first. Raises `T2LocalError` when damaged."""
        path = self.folder / "state.safetensors"
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                # Copies, or the file stays open, and Windows cannot replace it by the next one.
                tensors = {name: file.get_tensor(name).clone() for name in TENSORS}
                values = json.loads(file.metadata()["state"])
            return _state(values, tensors)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
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
                return int(json.loads(file.metadata()["state"])["step"])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> T2LocalError:
        return T2LocalError(
            f"The checkpoint of run '{self.name}' is damaged ({error}); start a new run."
        )

    def rewind(self, state: TrainState | None) -> None:
        """Drop the metrics that came after `state`: those steps will be taken again."""
        last = state.step if state else 0
        kept = [m for m in self.metrics() if state and m.get("step", 0) <= last]
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
            return json.loads((self.folder / "expert.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise T2LocalError(
                f"What came of run '{self.name}' cannot be read ({error}); its expert is in the "
                "tab Experts all the same."
            ) from error

    @property
    def finished(self) -> bool:
        return (self.folder / "expert.json").is_file()

    def _save(self, state: TrainState) -> None:
        values = asdict(replace(state, **dict.fromkeys(TENSORS, None)))
        tensors = {name: getattr(state, name).detach().cpu().clone() for name in TENSORS}
        with paths.atomic_write(self.folder / "state.safetensors") as temporary:
            metadata = {"format": "pt", "state": json.dumps(values)}
            temporary.write_bytes(save(tensors, metadata=metadata))


def _state(values: dict[str, Any], tensors: dict[str, torch.Tensor]) -> TrainState:
    best = values["best"]
    return TrainState(
        step=values["step"],
        best=Validation(**best) if best else None,
        curve=tuple(values["curve"]),
        validations=tuple(Validation(**v) for v in values["validations"]),
        seconds=values["seconds"],
        tokens=values["tokens"],
        base_answers=tuple(values["base_answers"]),
        rows_per_forward=values["rows_per_forward"],
        **tensors,
    )


def _known(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """The entries of `values` that `cls` has; another version's file may have others."""
    return {f.name: values[f.name] for f in fields(cls) if f.name in values}


def _write_json(path: Path, values: dict[str, Any]) -> None:
    with paths.atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1), encoding="utf-8")
