"""A person's rows on their way to training: read, given a reward, kept in the user's own data.

A file is parsed once per content, whoever asks for it.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from t2local import paths
from t2local.errors import T2LocalError
from t2local.pictures import COLUMNS, data_uri, picture_bytes
from t2local.tasks.files import (
    DETECTED,
    BadRow,
    ExampleFile,
    Fits,
    Look,
    Wanted,
    content_hash,
    look_by,
    read_examples,
)
from t2local.tasks.rewards import (
    MOST_CHOICES,
    MOST_ODD,
    MOST_TRIED,
    REWARDS,
    Reward,
    check_reward,
    distinct_answers,
    parts_of,
    rewards_of,
)
from t2local.tasks.rewards.words import tidy
from t2local.tasks.rows import Example, shown
from t2local.tasks.tables import MOST_BYTES
from t2local.untrusted import check_encodes

CHOICE = "choice"
MOST_KEPT, MOST_KEPT_BYTES = 4, 64 * 2**20  # of their files, beside the newest


@dataclass(frozen=True)
class _Key:
    """What the rows depend on; `wanted` as in `read_examples`. `size_bytes` goes with the hash."""

    sha256: str
    size_bytes: int
    path: Path
    wanted: Wanted


class Uploads:
    """The parses that are kept. `_lock` guards them; it is not held while a file is parsed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Key, Future[ExampleFile]] = OrderedDict()

    def read(self, path: Path, wanted: Wanted = DETECTED) -> ExampleFile:
        """As `read_examples`; who asks for what another thread is parsing waits for it."""
        key = _key(path, wanted)
        if key is None:
            return read_examples(path, wanted)
        with self._lock:
            there = self._kept.get(key)
            parse = self._kept.setdefault(key, Future())
            self._kept.move_to_end(key)
        if there is not None:
            return there.result()
        try:
            file = read_examples(path, wanted)
        except BaseException as error:
            self._drop(key)
            parse.set_exception(error)
            raise
        parse.set_result(file)
        if _key(path, wanted) != key or not _whole(file):
            self._drop(key)
        self._make_room()
        return file

    def _drop(self, key: _Key) -> None:
        with self._lock:
            self._kept.pop(key, None)

    def _make_room(self) -> None:
        with self._lock:
            while len(self._kept) > MOST_KEPT or (
                len(self._kept) > 1 and sum(k.size_bytes for k in self._kept) > MOST_KEPT_BYTES
            ):
                self._kept.popitem(last=False)


UPLOADS = Uploads()
read_upload = UPLOADS.read


def _key(path: Path, wanted: Wanted) -> _Key | None:
    """None for a file that cannot be read or is too large, which reading it will say."""
    try:
        path = path.absolute()
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return None
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return _Key(digest, file.tell(), path, wanted)
    except OSError:
        return None


def _whole(file: ExampleFile) -> bool:
    """Whether its rows depend on no other file."""
    if any("picture" in row.reason for row in file.bad_rows):
        return False
    pictures = (picture for example in file.examples for picture in example.pictures)
    return all(picture.startswith("data:") for picture in pictures)


# --- The reward that fits; answers of few kinds become choices.


class Suggestion(NamedTuple):
    reward: str
    reason: str


def suggest_reward(examples: Sequence[Example]) -> Suggestion:
    """The reward that fits the examples best, with the reason as a sentence.

    Of those that fit, the surest under which nearly all of the rows' own answers earn +1; programs
    are not run to find out.

    >>> suggest_reward([Example("2 + 2?", "4"), Example("3 + 5?", "8")]).reward
    'numeric'
    """
    assert examples, "no examples"
    fitting = [
        (sure, name, reason)
        for name, reward in REWARDS.items()
        for sure, why in reward.suggested
        if (reason := why(examples))
    ]
    fitting.sort(key=lambda found: -found[0])  # of equals the first stays first
    sample = _spread(examples, SUGGESTED_BY)
    earning = (found for found in fitting if _earns(found[1], sample))
    _, name, reason = next(earning, fitting[0])
    return Suggestion(name, reason)


def _earns(reward: str, examples: Sequence[Example]) -> bool:
    """Whether nearly all answers earn +1; one that refuses the rows says why when it is used."""
    if REWARDS[reward].runs_programs:
        return True
    try:
        gold = _gold_answers(reward, _ready(reward, examples))
    except T2LocalError:
        return True
    return sum(tried.reward != 1.0 for tried in gold) <= MOST_ODD * len(gold)


def with_choices(examples: Sequence[Example]) -> list[Example]:
    """The examples ready for the reward `choice`: a row without choices gets all answers' kinds.

    Raises `T2LocalError` when a row has no choices and the answers are too many to be kinds.
    """
    if _all_have(examples, "choices"):
        return list(examples)
    kinds = sorted(distinct_answers(examples))
    places = {tidy(kind): place for place, kind in enumerate(kinds)}
    if not kinds:
        many = len({example.answer.strip() for example in examples})
        raise T2LocalError(
            f"The reward 'choice' needs a column 'choices' or 2 to {MOST_CHOICES} answers that "
            f"repeat, but {len(examples)} rows have {many} different ones; choose another reward."
        )
    return [
        replace(e, columns={**e.columns, "choices": kinds, "label": places[tidy(e.answer)]})
        for e in examples
    ]


def _all_have(examples: Sequence[Example], column: str) -> bool:
    return all(example.columns.get(column) for example in examples)


# --- A reward tried on the rows before anybody learns from it.

SUGGESTED_BY = 200  # rows by which a suggestion is checked
WRONG = 1_000  # wrong answers at most: they tell about the reward, not about each row
SHOWN = 3  # right answers, and as many wrong ones
MOST_LUCKY = 0.02  # of the wrong answers: a few stand within a right one by chance


class Tried(NamedTuple):
    """What one answer earns. `wanted`: the row's own answer; `gold`: whether `said` is it."""

    prompt: str
    said: str
    wanted: str
    reward: float | None
    gold: bool


@dataclass(frozen=True)
class Trial:
    """`rows`: three right answers, then three wrong ones, those with a fault first; fewer or none
    where nobody knows what is right or wrong (`regex`: the pattern is no answer).

    `problem`: a sentence where right answers do not earn +1, or wrong ones do; "" for none.
    `sample`: says that not all rows were tried, where they were not.
    """

    rows: tuple[Tried, ...]
    problem: str = ""
    sample: str = ""


MOST_TRIALS_KEPT = 16
_trials: OrderedDict[tuple[str, str], Trial] = OrderedDict()
_trials_lock = threading.Lock()  # guards them; it is not held while a reward is tried


def try_reward(reward: str, examples: Sequence[Example]) -> Trial:
    """What the rows' own answers earn, and what wrong ones do: another row's, another choice.

    Of very many rows some are tried, fewer where each takes its time (`math`, `code`); equal rows
    are tried once. Raises `T2LocalError` where the reward does not fit the rows, or runs programs
    and may not.
    """
    check_reward(reward, rows := _ready(reward, examples))
    key = reward, content_hash(rows)
    with _trials_lock:
        trial = _trials.get(key)
    trial = trial or _trial(reward, rows)
    with _trials_lock:
        _trials[key] = trial
        _trials.move_to_end(key)
        while len(_trials) > MOST_TRIALS_KEPT:
            _trials.popitem(last=False)
    return trial


def _trial(reward: str, rows: Sequence[Example]) -> Trial:
    gold = _gold_answers(reward, rows)
    wrong = _wrong_answers(reward, rows)
    missed = [tried for tried in gold if tried.reward != 1.0]
    lucky = [tried for tried in wrong if tried.reward == 1.0]
    problem = ""
    if missed:
        first, do = missed[0], "does" if len(missed) == 1 else "do"
        problem = (
            f"{len(missed)} of {len(gold)} answers in your rows {do} not earn +1 under '{reward}', "
            f"the first is '{shown(first.said, 40)}' (asked '{shown(first.prompt)}'); "
            "choose another reward or mend them."
        )
    elif len(lucky) > MOST_LUCKY * len(wrong):
        first, earn = lucky[0], "earns" if len(lucky) == 1 else "earn"
        problem = (
            f"{len(lucky)} of {len(wrong)} wrong answers {earn} +1 under '{reward}', the first is "
            f"'{shown(first.said, 40)}' where '{shown(first.wanted, 40)}' is wanted; "
            "choose another reward."
        )
        wrong.sort(key=lambda tried: tried.reward != 1.0)
    gold.sort(key=lambda tried: tried.reward == 1.0)
    most = min(_tried(reward), len(rows))
    sample = f"{most:,} of {len(rows):,} rows were tried." if gold and most < len(rows) else ""
    return Trial((*gold[:SHOWN], *wrong[:SHOWN]), problem, sample)


def _ready(reward: str, examples: Sequence[Example]) -> list[Example]:
    listed = CHOICE in {name for _, name in parts_of(reward)}
    return with_choices(examples) if listed else list(examples)


def _parts(reward: str) -> list[Reward]:
    return [REWARDS[name] for _, name in parts_of(reward)]


def _gold_answers(reward: str, rows: Sequence[Example]) -> list[Tried]:
    known = [(row, _gold(reward, row)) for row in _spread(rows, _tried(reward))]
    return _scored(reward, [(row, text) for row, text in known if text], gold=True)


def _gold(reward: str, row: Example) -> str:
    """What a right answer says; "" where one part of the reward does not know."""
    texts = [part.gold(row) for part in _parts(reward)]
    return next((text for text in texts if text != row.answer), texts[0]) if all(texts) else ""


def _wrong_answers(reward: str, rows: Sequence[Example]) -> list[Tried]:
    """One a row: a choice that it lists beside the right one, else another row's answer."""
    parts, most = _parts(reward), _tried(reward)
    others = {_meant(row.answer): row.answer for row in _spread(rows, SUGGESTED_BY) if row.answer}
    said = []
    for number, row in enumerate(_spread(rows, WRONG if most == MOST_TRIED else SHOWN)):
        if _gold(reward, row) and any(part.tells_apart(row) for part in parts):
            own = [text for part in parts for text in part.wrong(row)]
            wrong = own[:1] or _another(row, others, number)
            said += [(row, text) for text in wrong]
    return _scored(reward, said, gold=False)


def _another(row: Example, others: Mapping[str, str], number: int) -> list[str]:
    """Another row's answer, if there is one; `number` makes it a different one for each row."""
    right = set(map(_meant, (*row.answers, row.answer)))
    wrong = [key for key in others if key not in right]
    return [others[wrong[number % len(wrong)]]] if wrong else []


def _meant(answer: str) -> str:
    """Equal for answers that mean the same: 2,000 and 2000.0, JSON in another order."""
    answer = tidy(answer.rpartition("####")[2])
    try:
        return str(float(answer.replace(",", "").strip("$€£% ")))
    except ValueError:
        pass
    try:
        return json.dumps(json.loads(answer), sort_keys=True)
    except (ValueError, RecursionError):
        return answer


def _tried(reward: str) -> int:
    return min(part.tried for part in _parts(reward))


def _scored(reward: str, said: Sequence[tuple[Example, str]], gold: bool) -> list[Tried]:
    rows, texts = [row for row, _ in said], [text for _, text in said]
    earned = rewards_of(reward, rows, texts) if rows else []
    return [
        Tried(row.prompt, text, " or ".join(row.answers), value, gold)
        for row, text, value in zip(rows, texts, earned, strict=True)
    ]


def _spread(rows: Sequence[Example], most: int) -> list[Example]:
    """At most so many rows, evenly from first to last."""
    step = max(1.0, len(rows) / most)
    return [rows[int(i * step)] for i in range(min(most, len(rows)))]


# --- Rows to train on, written where an upload's temporary folder cannot take them away.
#
# The file's name carries a hash of its rows, so equal rows are written once.

BAD_SHOWN = 3
PASTED = "pasted-"
FEWEST_PROMPTS = 5  # each is held out in turn: with fewer, three or less are left to learn from


@dataclass(frozen=True)
class Draft:
    """`name`: the file's, without its ending."""

    name: str
    file: ExampleFile
    suggestion: Suggestion


def read_draft(path: str | None, wanted: Wanted = DETECTED) -> Draft:
    """A file's rows and the reward that fits them.

    Raises `T2LocalError` for a file that cannot serve.
    """
    if not path:
        raise T2LocalError("There are no rows yet; choose a file, or paste some.")
    file = read_upload(Path(path), wanted)
    check_enough(Path(path).name, file.examples, file.bad_rows)
    return Draft(paths.slug(Path(path).stem), file, suggest_reward(file.examples))


def check_enough(name: str, examples: Sequence[Example], bad_rows: Sequence[BadRow] = ()) -> None:
    """Raise `T2LocalError` where the rows of a file are too few to train on."""
    different = len({example.group for example in examples})
    if different < FEWEST_PROMPTS:
        raise T2LocalError(
            f"'{name}' holds {different} different prompts; training needs at least "
            f"{FEWEST_PROMPTS}: add some rows{and_bad(bad_rows)}."
        )


def and_bad(bad_rows: Sequence[BadRow]) -> str:
    """The end of a sentence that there are too few rows: which others could not be used, and why.

    >>> and_bad([BadRow(2, "the answer is empty")])
    ', or mend those that could not be used: row 2 (the answer is empty)'
    """
    listed = ", ".join(f"row {row.number} ({row.reason})" for row in bad_rows[:BAD_SHOWN])
    more = len(bad_rows) - BAD_SHOWN
    rest = f" and {more} more" if more > 0 else ""
    return f", or mend those that could not be used: {listed}{rest}" if bad_rows else ""


def keep_rows(draft: Draft, reward: str, leave_out_bad: bool) -> Path:
    """Write the rows to learn from as JSONL into the user's data and give the file.

    Raises `T2LocalError` for bad rows that were not to be left out, and where a reward does not
    fit the rows.
    """
    if not leave_out_bad:
        refuse_bad(draft.name, draft.file.bad_rows)
    rows = draft.file.examples
    return write_rows(with_choices(rows) if reward == CHOICE else rows, draft.name)


def refuse_bad(name: str, bad: Sequence[BadRow], way_out: str = "tick that") -> None:
    """Raise `T2LocalError` where there are bad rows. `way_out`: how to have them left out."""
    if bad:
        raise T2LocalError(
            f"{len(bad)} bad {'row is' if len(bad) == 1 else 'rows are'} in '{name}', the first is "
            f"row {bad[0].number} ({bad[0].reason}); mend the file, or {way_out} they are left out."
        )


def was_pasted(path: Path) -> bool:
    """Whether a file is text that `keep_text` wrote."""
    return path.parent == paths.home() / "data" and path.name.startswith(PASTED)


def keep_text(text: str) -> Path:
    """Pasted text as a file in the user's data. Raises `T2LocalError` for none or no UTF-8."""
    if not text.strip():
        raise T2LocalError("Nothing was pasted; paste rows with a header, such as prompt,answer.")
    check_encodes(text, "what was pasted")
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    path = paths.home() / "data" / f"{PASTED}{digest}.txt"
    with paths.atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def keep_file(path: str) -> Path:
    """A copy of a file in the user's data, under its own name, where it does not lie there yet.

    What a page uploads is gone when the program ends; long work may want it again.
    """
    source, folder = Path(path), paths.home() / "data"
    if source.resolve().is_relative_to(folder.resolve()):
        return source
    content, short = source.read_bytes(), f"{source.stem[:50]}{source.suffix}"
    kept = folder / hashlib.sha256(content).hexdigest()[:12] / short
    if not kept.is_file():
        with paths.atomic_write(kept) as temporary:
            temporary.write_bytes(content)
    return kept


def write_rows(examples: Sequence[Example], name: str) -> Path:
    """The examples as JSONL: reading the file again gives equal examples."""
    path = paths.home() / "data" / f"{name}-{content_hash(examples)[:8]}.jsonl"
    with paths.atomic_write(path) as temporary:
        lines = (json.dumps(_row(example), ensure_ascii=False) for example in examples)
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _row(example: Example) -> Mapping[str, object]:
    rest = {n: v for n, v in example.columns.items() if n.lower() not in ("prompt", "answer")}
    rest |= {n: _embedded(v) for n, v in rest.items() if n in COLUMNS}
    if example.before:
        rest["messages"] = [_embedded_turn(turn) for turn in example.before]
    return {"prompt": example.prompt, "answer": example.answer, **rest}


def _embedded_turn(turn: Mapping[str, object]) -> Mapping[str, object]:
    return {**turn, "images": _embedded(turn["images"])} if "images" in turn else turn


def _embedded(pictures: str | list[str]) -> str | list[str]:
    """The pictures themselves: a file that lies elsewhere may not name those beside another."""
    if isinstance(pictures, str):
        return pictures if pictures.startswith("data:") else data_uri(picture_bytes(pictures))
    return [_embedded(picture) for picture in pictures]


def look_at(path: Path, wanted: Wanted = DETECTED, fits: Fits | None = None) -> Look:
    """As `look_by`, of a file that is parsed once."""
    return look_by(read_upload, path, wanted, fits)


def kept_as_read(look: Look, leave_out_bad: bool, way_out: str = "tick that") -> str:
    """A file that gives these rows without the choices: the same, or one in the user's data.

    Raises `T2LocalError` for a file that cannot serve, and for bad rows not to be left out.
    """
    if look.file is None or look.problem:
        raise T2LocalError(look.problem)
    if not leave_out_bad:
        refuse_bad(look.path.name, look.bad_rows, way_out)
    if look.wanted == DETECTED and not look.bad_rows:
        return str(look.path)
    return str(write_rows(look.file.examples, paths.slug(look.path.stem)))
