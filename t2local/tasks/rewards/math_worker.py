"""The reward for formulas, `math`: math-verify in a process of its own, asked over pipes.

math-verify bounds its time with `signal.alarm`, which works on a main thread only, and callbacks
and trainers run elsewhere; sympy can also take for ever or all memory on a hostile formula. So it
runs here, on a main thread, and is ended and started anew when it does not answer in time or
takes too much memory.

On Windows math-verify's own limit is of no use: it starts a process with a function that cannot be
pickled, and every formula counts as unreadable. There the time limit of the asker is the only one.
"""

import atexit
import contextlib
import json
import queue
import re
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Sequence
from typing import Any

import psutil

from t2local.paths import PROJECT_ROOT
from t2local.tasks.rewards.figures import only_figure, same_number
from t2local.tasks.rewards.normal import ANSWER, IS, last_boxed, plain, tidy
from t2local.tasks.rewards.words import accepted_answers, said
from t2local.tasks.sandbox import bare_environment

ANSWER_S = 5  # math-verify's own limit for parsing and for comparing, each
PATIENCE_S = 4 * ANSWER_S
WATCH_S = 0.2  # between two looks at the worker's memory
MEMORY_BYTES = 3 * 2**30
ROUNDED, TOLERANCE = 1e-4, 1e-6  # below the first, numbers are compared by their own size
MOST_CHARACTERS = 20_000  # the end of a completion, where its answer stands

_HAS_FORMULA = re.compile(r"\\(?!boxed|text|\W)|[√π]")  # that could have a number's value

_lock = threading.Lock()
_workers: list[subprocess.Popen] = []


def math(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """+1 where the completion's final value or formula equals the answer's, else −1.

    Plain numbers are compared here; everything else by math-verify in a process of its own, which
    is ended when it takes too long (that counts as wrong). `None` for a row without an answer.

    >>> math(["?"], ["So it is \\\\boxed{\\\\frac12}."], answer=["1/2"])
    [1.0]
    """
    accepted = accepted_answers(columns, len(completions))
    rewards: list[float | None] = []
    for completion, answers in zip(completions, accepted, strict=True):
        text = said(completion)
        right = bool(text.strip()) and any(_same_value(answer, text) for answer in answers)
        rewards.append((1.0 if right else -1.0) if answers else None)
    return rewards


def _same_value(answer: str, text: str) -> bool:
    if only_figure(answer):
        if same_number(answer, text):
            return True
        if not _HAS_FORMULA.search(text):
            return False
    return equal(answer, text)


def equal(answer: str, text: str) -> bool:
    """Whether the last formula in `text` equals `answer` (LaTeX, or plain). Thread safe."""
    question = json.dumps([answer, text[-MOST_CHARACTERS:]]) + "\n"
    with _lock:
        worker = _worker()
        reply = _reply(worker, question.encode())
        if not reply:
            _end(worker)
        return reply.strip() == b"true"


def _reply(worker: subprocess.Popen, question: bytes) -> bytes:
    """The worker's line; b"" where it ends, is not done in time or takes too much memory.

    A thread waits for the line, since Windows can wait for sockets only, and not for pipes.
    """
    replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def ask() -> None:
        try:
            worker.stdin.write(question)
            worker.stdin.flush()
            replies.put(worker.stdout.readline())
        except OSError:  # the worker has ended
            replies.put(b"")

    threading.Thread(target=ask, daemon=True).start()
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(queue.Empty):
            return replies.get(timeout=WATCH_S)
        if held_bytes(worker) > MEMORY_BYTES:
            break
    return b""


def held_bytes(process: subprocess.Popen) -> int:
    """Memory of a process and of those it started; 0 once it has ended.

    In a virtual environment on Windows `python.exe` starts the interpreter as a second process.
    """
    with contextlib.suppress(psutil.Error):
        first = psutil.Process(process.pid)
        return sum(one.memory_info().rss for one in (first, *first.children(recursive=True)))
    return 0


def _worker() -> subprocess.Popen:
    if not _workers or _workers[0].poll() is not None:
        _workers[:] = [
            subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=PROJECT_ROOT,
                env=bare_environment(),
            )
        ]
        atexit.register(_end, _workers[0])
    return _workers[0]


def _end(worker: subprocess.Popen) -> None:
    worker.kill()
    worker.wait()
    for pipe in (worker.stdin, worker.stdout):
        with contextlib.suppress(OSError):
            pipe.close()


def _serve() -> None:
    """Answer questions from stdin, a line each, until it ends."""
    _bound_memory()
    for line in sys.stdin:
        answer, text = json.loads(line)
        print(json.dumps(same(answer, text)), flush=True)


def same(answer: str, text: str) -> bool:
    """What `equal` tells, on a main thread and in this process."""
    if _words(answer) == _words(final_formula(text)):
        return True
    # half a second of imports that only a worker needs
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    limit_s = None if sys.platform == "win32" else ANSWER_S

    def understood(formula: str) -> list:
        """As LaTeX; as a plain expression, such as 9/4, where it is none."""
        latex = f"${in_latex(formula)}$"
        found = parse(latex, (LatexExtractionConfig(),), parsing_timeout=limit_s)
        if found and not isinstance(found[0], str):
            return found
        return parse(formula, (ExprExtractionConfig(),), parsing_timeout=limit_s) or found

    wanted = understood(_undelimited(answer))
    found = understood(final_formula(text)) if wanted else []
    return bool(
        found and verify(wanted, found, timeout_seconds=limit_s) and not _tiny(wanted[0], found[0])
    )


def _tiny(wanted: object, found: object) -> bool:
    """Whether two numbers are equal only because math-verify rounds to six places."""
    if not (getattr(wanted, "is_number", False) and getattr(found, "is_number", False)):
        return False
    one, other = abs(wanted.evalf()), abs(found.evalf())
    return bool(min(one, other) < ROUNDED) and not bool(
        abs(one - other) <= TOLERANCE * max(one, other)
    )


# --- The formula of a text.

_DELIMITED = re.compile(
    r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\[(.+?)\\\]|\\\((.+?)\\\)"
    r"|\\begin\{(?:equation|align)\*?\}(.+?)\\end\{",
    re.DOTALL,
)
_STATED = re.compile(rf"{ANSWER}[^.\n]*?{IS}[\s*]*(\S[^\n]*)", re.IGNORECASE)
_PROSE = re.compile(
    r"(?<![\\\w{^])(?!(?:sin|cos|tan|cot|sec|csc|log|exp|lim|max|min|mod|gcd|sqrt|cbrt|frac|pi|inf)\b)"
    r"(?:[^\W\d_]{3,}|is|so|it|be|we|of|in|to|or|as|an|at|by|if|cm|km|mm|kg)\b[:,]?"
)
_LATEX = tuple(
    (re.compile(pattern), latex)
    for pattern, latex in (
        (r"(?<!\\)\bsqrt\s*\(([^()]*)\)|√\s*\(([^()]*)\)|√\s*(\w+)", r"\\sqrt{\1\2\3}"),
        (r"[⁰¹²³⁴-⁹⁺⁻]+", lambda found: f"^{{{unicodedata.normalize('NFKC', found[0])}}}"),
        (r"\*\*", "^"),
        (r"\^\(([^()]*)\)", r"^{\1}"),
        (r"(?<!\\)\b(pi|theta|alpha|beta|sin|cos|tan|cot|log|ln|exp)\b", r"\\\1 "),
        (r"\*", r"\\cdot "),
    )
)
_SIGNS = str.maketrans(
    {
        "π": r"\pi ", "θ": r"\theta ", "∞": r"\infty ", "±": r"\pm ", "≤": r"\le ", "≥": r"\ge ",
        "≠": r"\ne ", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "∪": r"\cup ",
        "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "°": r"^\circ ",
        "½": r"\frac12 ", "¼": r"\frac14 ", "¾": r"\frac34 ", "⅓": r"\frac13 ", "⅔": r"\frac23 ",
    }
)  # fmt: skip


def final_formula(text: str) -> str:
    """What stands in the last `\\boxed{}`; else what is stated as the answer, or said last.

    A delimited formula there, else what is left of the line without its prose.

    >>> final_formula("So $a = 1$. The answer is 2\\\\sqrt{2} metres.")
    '2\\\\sqrt{2}'
    """
    text = plain(text)
    if boxed := last_boxed(text):
        return boxed.strip()
    stated = _STATED.findall(text)
    lines = [line for line in text.splitlines() if re.search(r"[\w∞∅]", line)]
    place = stated[-1] if stated else lines[-1] if lines else ""
    if delimited := _delimited(place):
        return delimited[0 if stated else -1]
    parts = [part.strip(" \t.,;:!?*`") for part in _PROSE.split(place)]
    formulas = [part for part in parts if re.search(r"[\w∞∅\\]", part)]
    if stated and formulas:  # also where another formula is delimited before it
        return formulas[-1]
    return [place.strip(" .!*"), *formulas, *_delimited(text)][-1]


def _delimited(text: str) -> list[str]:
    return ["".join(groups).strip() for groups in _DELIMITED.findall(text)]


def in_latex(formula: str) -> str:
    """A formula with what is typed as on a keyboard, or as signs, in LaTeX: √8, x², pi, x**2."""
    for pattern, latex in _LATEX:
        formula = pattern.sub(latex, formula)
    return formula.translate(_SIGNS)


def _undelimited(answer: str) -> str:
    answer = plain(answer).strip()
    boxed, delimited = last_boxed(answer), _DELIMITED.fullmatch(answer)
    if boxed:
        return boxed
    return next(filter(None, delimited.groups())).strip() if delimited else answer.strip("$")


def _words(formula: str) -> str:
    """For answers that are no formulas, such as a weekday."""
    return tidy(re.sub(r"\\(?:text|textbf|mathrm)\s*\{([^{}]*)\}", r"\1", _undelimited(formula)))


def _bound_memory() -> None:
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


if __name__ == "__main__":
    _serve()
