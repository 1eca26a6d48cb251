"""Downloads of models in the background: the page may be reloaded or closed meanwhile.

One download a model; a cancelled or broken one keeps what has arrived and goes on when it is
started again. Knows nothing of what is loaded.
"""

import logging
import threading
from dataclasses import dataclass, replace

from t2local.errors import Cancelled, T2LocalError
from t2local.models.load.hub import FetchProgress, fetching
from t2local.progress import CancelToken, Progress

RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"


@dataclass(frozen=True)
class Download:
    """How far one is. `message`: why it failed, in a sentence."""

    model_id: str
    stage: str = RUNNING
    done_bytes: int = 0
    total_bytes: int = 0  # 0 while the Hub is asked
    bytes_per_s: float = 0.0  # 0 while unknown
    message: str = ""

    @property
    def running(self) -> bool:
        return self.stage == RUNNING


class Downloads:
    """Started and stopped from any thread."""

    def __init__(self) -> None:
        self._found: dict[str, Download] = {}
        self._cancels: dict[str, CancelToken] = {}
        self._lock = threading.Lock()

    def of(self, model_id: str) -> Download | None:
        """Where this model's last download stands, None where none was started."""
        return self._found.get(model_id)

    @property
    def running(self) -> bool:
        return any(download.running for download in list(self._found.values()))

    def start(self, model_id: str) -> None:
        """Begin, or go on with what has arrived; nothing happens while it is running."""
        with self._lock:
            found = self._found.get(model_id)
            if found is not None and found.running:
                return
            self._found[model_id] = Download(model_id)
            self._cancels[model_id] = cancel = CancelToken()
        threading.Thread(
            target=self._fetch, args=(model_id, cancel), daemon=True, name="download"
        ).start()

    def cancel(self, model_id: str) -> None:
        if cancel := self._cancels.get(model_id):
            cancel.cancel()

    def _fetch(self, model_id: str, cancel: CancelToken) -> None:
        try:
            for progress in fetching(model_id, cancel):
                self._tell(model_id, **_figures(progress))
        except Cancelled:
            self._tell(model_id, stage=STOPPED, bytes_per_s=0.0)
        except T2LocalError as error:
            self._tell(model_id, stage=FAILED, message=str(error))
        except Exception as error:
            logging.getLogger(__name__).exception("fetching %s failed", model_id)
            self._tell(model_id, stage=FAILED, message=f"{type(error).__name__}: {error}")
        else:
            self._tell(model_id, stage=DONE, bytes_per_s=0.0)

    def _tell(self, model_id: str, **changes: object) -> None:
        self._found[model_id] = replace(self._found[model_id], **changes)


def _figures(progress: Progress) -> dict[str, float]:
    speed = progress.bytes_per_s if isinstance(progress, FetchProgress) else 0.0
    return {"done_bytes": progress.done, "total_bytes": progress.total, "bytes_per_s": speed}
