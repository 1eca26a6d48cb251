"""Running programs that a model wrote: see `process` for what is promised and what is not."""

from t2local.tasks.sandbox.process import (
    Protection,
    RunResult,
    TestResult,
    protection,
    run_code,
    run_tests,
)

__all__ = ["Protection", "RunResult", "TestResult", "protection", "run_code", "run_tests"]
