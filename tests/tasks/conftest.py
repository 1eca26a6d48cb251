"""Where the benchmark files are; tests that need them are skipped without."""

import os
from pathlib import Path

import pytest

from t2local.paths import PROJECT_ROOT


@pytest.fixture(scope="session")
def data_folder() -> Path:
    named = os.environ.get("T2LOCAL_DATA")
    folder = Path(named) if named else PROJECT_ROOT.parent / "shared" / "data"
    if not (folder / "gsm8k.test.jsonl").is_file():
        pytest.skip("the benchmark files are not here; name their folder with T2LOCAL_DATA")
    return folder
