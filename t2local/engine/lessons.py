"""What verdicts can teach: choices between two answers, and a habit that most of them share.

An edit says that what was written is better than what the model had said, a preference that one of
two is, and a thumb up that an answer is better than another one to the same question that got a
thumb down or was asked again. Each becomes a row of two choices, the first one right, for the
reward `choice`: the policy over both is exact, nothing is sampled.

Thumbs on answers that have no other beside them teach nothing by themselves; where all liked ones
have something in common that the others lack (JSON, a language, a length), that is a reward
(`habit_in`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t2local.engine.verdicts import DOWN, UP, Verdict
from t2local.tasks.rewards import REWARDS
from t2local.tasks.rewards.languages import LANGUAGES, is_in, language_of
from t2local.tasks.rewards.words import words_in
from t2local.tasks.rows import WHOLE, Example

MOST_PAIRS = 4  # of one question's thumbs: one much-judged question must not outweigh the rest
FEWEST_ALIKE = 6  # liked answers, and as many others, before a habit is told
ALIKE = 0.85  # share of all that a habit tells apart
ANY_JSON = {"type": ["object", "array"]}  # a schema


@dataclass(frozen=True)
class Habit:
    """A reward that tells most liked answers from the others, with the rows that ask for it."""

    reward: str
    reason: str
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Lessons:
    """`choices`: rows of two choices, the newest verdicts first.

    How many of them come from what was `rewritten`, `preferred`, or from `thumbs` on one question;
    `alone`: answers with a thumb that none of them holds. `habit`: None where there is none.
    """

    choices: tuple[Example, ...]
    rewritten: int = 0
    preferred: int = 0
    thumbs: int = 0
    alone: int = 0
    habit: Habit | None = None


Pair = tuple[str, str]  # better, worse


def lessons_of(verdicts: Sequence[Verdict]) -> Lessons:
    """Of two verdicts that contradict each other the one that comes first counts: the newest."""
    found: dict[tuple[str, Pair], Example] = {}
    origins: dict[str, int] = defaultdict(int)
    held: set[str] = set()
    for verdict, pair, origin in _pairs(verdicts):
        asked = _asked(verdict)
        if pair[0] == pair[1] or {(asked, pair), (asked, pair[::-1])} & found.keys():
            continue
        found[asked, pair] = _choice(verdict, pair)
        origins[origin] += 1
        held |= {f"{asked}\n{answer}" for answer in pair}
    thumbed = [v for v in verdicts if v.thumb and not v.wanted]
    alone = sum(f"{_asked(v)}\n{v.answer}" not in held for v in thumbed)
    return Lessons(tuple(found.values()), **origins, alone=alone, habit=habit_in(verdicts))


def _pairs(verdicts: Sequence[Verdict]) -> Iterable[tuple[Verdict, Pair, str]]:
    """With what it comes from, as a field of `Lessons` is called."""
    by_question: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.wanted:
            yield verdict, (verdict.wanted, verdict.answer), "rewritten"
        if verdict.over:
            yield verdict, (verdict.answer, verdict.over), "preferred"
        by_question[_asked(verdict)].append(verdict)
    for same in by_question.values():
        liked = [v for v in same if v.thumb == UP and not v.wanted]
        others = [v for v in same if v.thumb == DOWN or (v.again and v.thumb != UP)]
        pairs = [(up, (up.answer, down.answer), "thumbs") for up in liked for down in others]
        yield from pairs[:MOST_PAIRS]


def _asked(verdict: Verdict) -> str:
    """Equal where the model was asked the same."""
    return repr([(t["role"], t["content"], t.get("images", [])) for t in verdict.turns])


def _choice(verdict: Verdict, pair: Pair) -> Example:
    return _example(verdict, pair[0], {"choices": list(pair), "label": 0, WHOLE: True})


def _example(verdict: Verdict, answer: str, columns: Mapping[str, Any]) -> Example:
    *before, asked = verdict.turns
    rest: dict[str, Any] = dict(columns)
    if before:
        rest["messages"] = [dict(turn) for turn in before]
    if asked.get("images"):
        rest["images"] = list(asked["images"])
    return Example(asked["content"], answer, rest)


# --- What liked answers have in common.


def habit_in(verdicts: Sequence[Verdict]) -> Habit | None:
    """The habit that tells liked or written answers from the others, None where none does."""
    liked = [text for v in verdicts if (text := v.wanted or (v.answer if _likes(v) else ""))]
    others = [v.over or v.answer for v in verdicts if v.wanted or v.over or v.thumb == DOWN]
    if min(len(liked), len(others)) < FEWEST_ALIKE:
        return None
    kinds = _json_habit, _language_habit, _length_habit
    return next(filter(None, (kind(verdicts, liked, others) for kind in kinds)), None)


def _likes(verdict: Verdict) -> bool:
    return verdict.thumb == UP or bool(verdict.over)


def _json_habit(
    verdicts: Sequence[Verdict], liked: Sequence[str], others: Sequence[str]
) -> Habit | None:
    def share(texts: Sequence[str]) -> float:
        earned = REWARDS["json"].score([""] * len(texts), texts, schema=[ANY_JSON] * len(texts))
        return sum(reward == 1.0 for reward in earned) / len(texts)

    if share(liked) < ALIKE or share(others) > 1 - ALIKE:
        return None
    reason = f"{share(liked):.0%} of {len(liked)} answers that you liked or wrote are JSON, "
    reason += f"{share(others):.0%} of {len(others)} others are: any JSON is right."
    return Habit("json", reason, _asking(verdicts, "", {"schema": ANY_JSON}))


def _language_habit(
    verdicts: Sequence[Verdict], liked: Sequence[str], others: Sequence[str]
) -> Habit | None:
    spoken = Counter(filter(None, map(language_of, liked))).most_common(1)
    if not spoken:
        return None
    code, name = spoken[0][0], LANGUAGES[spoken[0][0]][0]
    told = sum(is_in(text, code) for text in liked) / len(liked)
    apart = sum(language_of(text) not in ("", code) for text in others) / len(others)
    if min(told, apart) < ALIKE:
        return None
    reason = f"{told:.0%} of {len(liked)} answers that you liked or wrote are in {name}, "
    reason += f"{apart:.0%} of {len(others)} others in another language: {name} is right."
    return Habit("language", reason, _asking(verdicts, name, {}))


def _length_habit(
    verdicts: Sequence[Verdict], liked: Sequence[str], others: Sequence[str]
) -> Habit | None:
    """Fewer words, or more, than most others have."""
    wanted, rest = sorted(map(words_in, liked)), sorted(map(words_in, others))
    least, most = _within(wanted)
    if sum(n > most for n in rest) >= ALIKE * len(rest):
        least = 1  # the others are longer: only too many words are wrong
    most = max(most, least + 1)
    told = sum(least <= n <= most for n in wanted) / len(wanted)
    apart = sum(not least <= n <= most for n in rest) / len(rest)
    if min(told, apart) < ALIKE:
        return None
    reason = f"{told:.0%} of {len(liked)} answers that you liked or wrote have {least} to {most} "
    reason += f"words, {1 - apart:.0%} of {len(others)} others do: so many words are right."
    return Habit("length", reason, _asking(verdicts, f"{least}-{most}", {}))


def _within(words: Sequence[int]) -> tuple[int, int]:
    """From which number of words to which most of them are, one in twenty aside at each end."""
    aside = len(words) // 20
    return max(1, words[aside]), max(1, words[-1 - aside])


def _asking(
    verdicts: Sequence[Verdict], answer: str, columns: Mapping[str, Any]
) -> tuple[Example, ...]:
    """Each question once, with what a right answer to it has to be."""
    once = {_asked(v): _example(v, answer, columns) for v in verdicts if v.says}
    return tuple(once.values())
