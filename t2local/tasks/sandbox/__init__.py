"""Running programs that a model wrote: see `process` for what is promised and what is not."""

from t2local.tasks.sandbox.process import (
    RISK,
    Protection,
    RunResult,
    TestResult,
    add_consent_argument,
    allow_unsafe_code,
    bare_environment,
    check_allowed,
    is_unsafe_code_allowed,
    protection,
    run_code,
    run_tests,
)

__all__ = [
    "RISK",
    "Protection",
    "RunResult",
    "TestResult",
    "add_consent_argument",
    "allow_unsafe_code",
    "bare_environment",
    "check_allowed",
    "is_unsafe_code_allowed",
    "protection",
    "run_code",
    "run_tests",
]
