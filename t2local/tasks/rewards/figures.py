"""Rewards for numbers and formulas: `numeric`, and `math` through the package math-verify.

A text's *figures* are read whole: a number with its sign, grouping, fraction, power of ten, scale
and percent, in the spelling of many countries; or a *code* (01067, 12:30, 1.2.3, 2024-05-01, 5-10)
in which each digit counts and which equals no number. Then the text's final one is chosen.
"""

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from t2local.tasks.rewards import math_worker
from t2local.tasks.rewards.normal import ANSWER, IS, TENS, UNITS, last_boxed, plain, readable
from t2local.tasks.rewards.words import accepted_answers, said

TOLERANCE = Fraction(1, 10**6)  # relative, for broken numbers; whole ones must be equal
_MOST_DIGITS = 400
_MOST_CHARACTERS = 4_000  # the end of a completion, where its answer stands
_SENTENCE_CHARACTERS, _MOST_STATEMENTS, _END_CHARACTERS = 400, 20, 200

Meaning = Fraction | str  # a number, or a code


def numeric(
    prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
) -> list[float | None]:
    """+1 where the completion's final number equals the answer's, else −1; `None` without one.

    The final number stands after "####", in the last `\\boxed{}`, after "the answer is", or last,
    trailing remarks aside. Of several accepted answers any is right.

    >>> numeric(["?"] * 2, ["The answer is **1,234.00**.", "12"], answer=["1234", "13"])
    [1.0, -1.0]
    """
    accepted = accepted_answers(columns, len(completions))
    rewards: list[float | None] = []
    for completion, answers in zip(completions, accepted, strict=True):
        known = [answer for answer in answers if _wanted(answer)]
        right = known and any(_same_number(answer, said(completion)) for answer in known)
        rewards.append((1.0 if right else -1.0) if known else None)
    return rewards


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


def _same_number(answer: str, text: str) -> bool:
    return _agree(final_numbers(text, _decimal_comma(answer)), _wanted(answer))


@lru_cache(maxsize=4096)
def _wanted(answer: str) -> set[Meaning]:
    return final_numbers(answer)


def _same_value(answer: str, text: str) -> bool:
    if _only_figure(answer):
        if _same_number(answer, text):
            return True
        if not re.search(
            r"\\(?!boxed|text|\W)|[√π]", text
        ):  # no formula that could have this value
            return False
    return math_worker.equal(answer, text)


def plain_number(text: str) -> bool:
    """Whether a text is a number, with its unit perhaps, and nothing else."""
    return any(isinstance(one, Fraction) for one in _only_figure(text))


def _only_figure(text: str) -> set[Meaning]:
    """The figure that is all of a text, but for its unit; empty where there is more, or none."""
    text = readable(text).strip(" $")
    figures = list(_figures(text, False))
    if len(figures) != 1 or text[: figures[0].start].strip():
        return set()
    return figures[0].meanings if _UNIT.fullmatch(text, figures[0].end) else set()


def _decimal_comma(answer: str) -> bool:
    """Whether an answer is written with a comma where others write a point: 12,50 or 1.234,5."""
    return re.search(r"\d,(?:\d{1,2}|\d{4,})(?!\d|,\d)|\d[. ]\d{3},\d", plain(answer)) is not None


def _agree(found: set[Meaning], wanted: set[Meaning]) -> bool:
    def same(a: Meaning, b: Meaning) -> bool:
        if isinstance(a, str) or isinstance(b, str):
            return a == b
        return abs(a - b) <= (TOLERANCE * abs(b) if b.denominator != 1 else 0)

    return any(same(a, b) for a in found for b in wanted)


# --- Which figure is the final one.

_ANSWER, _COPULA = re.compile(ANSWER, re.IGNORECASE), re.compile(IS, re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)(?<!\d\.(?=\d))|\n|。")
_CLAUSE_END = re.compile(r"[,;]\s|\b(?:because|since|as|so|denn|weil|car|porque)\b")
_BRACKETS = re.compile(r"\([^()\n]*\)")
_DIRECTLY = re.compile(
    r"(?:[\s:$*(\[=~≈]|about|approximately|exactly|equal to|just|only|now|the number|therefore)*",
    re.IGNORECASE,
)
_CORRECTED = re.compile(r"\b(?:wait|actually|correction|sorry|oops|no(?=[,.;:!]))\b", re.IGNORECASE)
_NEGATED = re.compile(
    r"(?:\bnot|n't|\bthan|\binstead of|\bnicht|\bpas|不是)\s*[$(]*\Z", re.IGNORECASE
)
# What is said beside the answer: how sure one is, notes, goodbyes, and how many steps it took.
_REMARK = re.compile(
    r"(?:^|(?<=[.!?\n(,;。，]))[ \t]*(?:[(*\[-]\s*)?(?:"
    r"(?:note|nb|n\.b|p\.?s|remark|hint|tip|sources?|confidence|certainty|rating|rate|check|checking"
    r"|verification|verify|to (?:check|verify)|proof|reference|time taken|steps used|difficulty)\b"
    r"(?=[^.\n]*[:\d])"
    r"|(?:i(?:'m| am)|we(?:'re| are))\b[^.\n]{0,20}\b(?:sure|confident|certain|positive)\b"
    r"|(?:\d+ ?%|one hundred percent) (?:sure|confident|certain|correct|guaranteed|positive)"
    r"|(?:i )?hope\b|let me know\b|see you\b|thanks?\b|thank you\b|feel free\b|by the way\b|bye\b"
    r"|good luck\b|fun fact\b|(?:call|ask|text|email) me\b"
    r"|(?:this|it|that|i|we|which) (?:took|uses?|used|needed)\b(?=[^.\n]* "
    r"(?:steps?|rules?|tries|attempts|lines|tokens|seconds|minutes)\b)"
    r"|(?:solved|done|found|computed|calculated) (?:it )?(?:in|with|using|after)?\s*\d"
    r"|(?:一?共|总共|總共)?用了|共\s*\d+\s*步|注[::意]|備考|참고"
    r")[^.!?\n。]*(?:\.\d[^.!?\n。]*)*",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"\b(?:steps?|rules?|problem|question|exercise|example|figure|fig\.|table|chapter|section|pages?"
    r"|note|method|equation|eq\.|part|option|version|no\.)\s*\(?#?\d+(?:\.\d+)*\)?(?!\s*[*/+=\d%])"
    r"|^\s*\d{1,2}[.)]\s+(?=[^\n]*[^\W\d])|第\s*\d+\s*[步题題]|步骤\s*\d+|\[\d{1,2}\](?!\s*[*/+=])"
    r"|共?(?:用了?)?\s*\d+\s*[步]",
    re.IGNORECASE | re.MULTILINE,
)


def final_numbers(text: str, decimal_comma: bool = False) -> set[Meaning]:
    """What the final number of a text may mean: "50%" is 50 as well as 1/2; empty without one.

    `decimal_comma`: 1.234 may be a thousand, and 1,234 little more than one.
    """
    text = readable(text[-_MOST_CHARACTERS:])
    hashes = re.findall(r"####[ \t]*(\S[^\n]*)", text)
    if hashes and (found := _first(hashes[-1], decimal_comma)):
        return found
    if boxed := last_boxed(text):
        usable = _usable(boxed, decimal_comma)
        return usable[-1].meanings if len(usable) == 1 else set()
    unlabelled = _LABEL.sub(lambda label: " " * len(label[0]), text)
    for known in (_REMARK.sub(" ", unlabelled), _REMARK.sub(" ", text), unlabelled, text):
        if found := _stated(known, decimal_comma) or _last(known, decimal_comma):
            return found
    return set()


def _stated(text: str, decimal_comma: bool) -> set[Meaning]:
    """The figure of the last sentence that says "the answer is", or of what corrects it."""
    for marker in [*_ANSWER.finditer(text)][: -_MOST_STATEMENTS - 1 : -1]:
        rest = text[marker.end() :]
        end = _SENTENCE_END.search(rest)
        sentence = (rest[: end.start()] if end else rest)[:_SENTENCE_CHARACTERS]
        if end and not sentence.strip(" :*=$") and (below := rest[end.end() :].lstrip()):
            sentence = ":" + below.partition("\n")[0]  # "Answer:", and the number a line below
        if found := _said_to_be(sentence, decimal_comma):
            corrected = _CORRECTED.search(rest, len(sentence))
            return (corrected and _last(rest[corrected.end() :], decimal_comma)) or found
    return set()


def _said_to_be(sentence: str, decimal_comma: bool) -> set[Meaning]:
    """The figure right after "is"; else the first after the first "is" that one follows."""
    places = [match.end() for match in _COPULA.finditer(sentence)]
    for at in places:
        begin = _DIRECTLY.match(sentence, at).end()
        figures = _figures(sentence[begin:], decimal_comma) if begin < len(sentence) else ()
        words = [] if any(map(str.isdecimal, sentence)) else _usable(sentence[begin:], False)
        first = next(iter(figures), None) or next(iter(words), None)
        if first and first.start == 0:
            return _first(sentence[at:], decimal_comma)
    for at in places:
        if found := _first(sentence[at:], decimal_comma):
            return found
    direct = re.match(r"\s*[$€£¥-]*\s?[\d.]", sentence)  # "Answer 42"
    return _first(sentence, decimal_comma) if direct else set()


def _first(text: str, decimal_comma: bool) -> set[Meaning]:
    """The first figure, or what it is said to equal; brackets only where all stands in them."""
    if usable := _usable(_BRACKETS.sub(" ", text), decimal_comma):
        text = _BRACKETS.sub(" ", text)
    elif not (usable := _usable(text, decimal_comma)):
        return set()
    end = _CLAUSE_END.search(text, usable[0].start + 1)
    clause = text[: end.start()] if end else text
    equal = _usable(clause[clause.rindex("=") :], decimal_comma) if "=" in clause else []
    return (equal or usable)[0].meanings


def _last(text: str, decimal_comma: bool) -> set[Meaning]:
    for part in (text[-_END_CHARACTERS:], text):  # it mostly stands at the end
        usable = _usable(_BRACKETS.sub(" ", part), decimal_comma) or _usable(part, decimal_comma)
        if usable and (part == text or usable[-1].start > _END_CHARACTERS // 4):
            return usable[-1].meanings
    return set()


def _usable(text: str, decimal_comma: bool) -> list["Figure"]:
    """The figures that may be an answer; number words where there are no digits.

    Not what is denied, nor the left side of an equation, where anything else is left.
    """
    if not any(map(str.isdecimal, text)):
        return _number_words(text) or _chinese_number(text)
    figures = [
        figure
        for figure in _figures(text, decimal_comma)
        if figure.meanings and not _NEGATED.search(text, max(0, figure.start - 20), figure.start)
    ]
    return [one for one in figures if not _LEFT_SIDE.match(text, one.end)] or figures


# --- Reading figures.


class Figure(NamedTuple):
    """`meanings` are empty for a part of a term, or a term that is not worked out."""

    start: int
    end: int
    meanings: set[Meaning]


_MONEY = (
    r"(?:(?:US|CA?|AU?|HK|NZ|S|R)?\$|[€£¥₹₩₽₺₴₦฿₫₪¢₱]"
    r"|\b(?:USD|EUR|GBP|CHF|INR|JPY|CNY|RMB|Rs\.?|kr\.?|Fr\.))"
)
_GROUPED = r"\d{1,3}(?: \d{3})+(?!\d)(?:[.,]\d+)?(?! ?/ ?\d)"
_DIGITS = rf"(?:{_GROUPED}|\d+(?:[.,':]\d+)*|(?<![\d.])\.\d+)"
_SCALES = {
    "dozen": 12, "hundred": 100, "thousand|tausend|mille|mil|тысяч\\w*": 10**3,
    "lakhs?": 10**5, "crores?": 10**7,
    "millions?|millionen|millones|millón|milhões|milhão|milioni|mio|mn|миллион\\w*": 10**6,
    "billions?|bn|milliarden?|milliards?|mrd|miliardi|миллиард\\w*": 10**9,
    "trillions?|billionen": 10**12,
    "[千]": 10**3, "[万萬만]": 10**4, "[億亿억]": 10**8, "k": 10**3,
}  # fmt: skip
_WORDS_OF_SCALE = "|".join(words for words in _SCALES if words[0] != "[" and words != "k")
_SCALE = rf"\s?(?:{_WORDS_OF_SCALE})(?![^\W\d_])\.?|\s?[千万萬만億亿억]|k(?![^\W\d_])"
_PERCENT = (
    r"\s?(?:%|(?:percent|per cent|pct|prozent|por ?cento|por ciento|pour ?cents?|per ?cento|procent"
    r"|процент\w*)\b|パーセント|퍼센트|프로)"
)
_AMOUNT = re.compile(
    rf"(?P<sign>(?<![\w)%])[+-]\s?)?(?P<money>{_MONEY}\s?)?(?P<second>(?<![\w)%])[+-])?"
    rf"(?<![A-Za-z_\d])(?<!\d[.,':])(?P<digits>{_DIGITS})(?:e(?P<power>[+-]?\d{{1,3}})(?!\w))?"
    rf"(?P<scale>{_SCALE})?(?P<percent>{_PERCENT})?",
    re.IGNORECASE,
)
_OPERATOR = re.compile(r"\s?(?:[*/×÷·∙^+~-]|\b(?:to|bis|or|oder|ou|или)\b|[至到或])\s?| x |", re.I)
_RANGE_OF = re.compile(r"(?:\bbetween|\bzwischen|\bentre|\btra|介于)\s*\Z", re.IGNORECASE)
_FROM = re.compile(r"(?:\bfrom|\bvon|\bde|\bda|从)\s*\Z", re.IGNORECASE)
_AND = re.compile(r"\s?(?:and|und|y|et|e|和|到)\s?", re.IGNORECASE)
_RANGES = {"-", "~", "to", "bis", "or", "oder", "ou", "или", "至", "到", "或", "and"}
_PART_BEFORE = re.compile(r"(?:[\w)§] ?[*/×÷^+] ?|\b[A-Za-z] ?-|[√π§±] ?)\Z")
_PART_AFTER = re.compile(
    r"\s?[*×÷^+]\s?[(A-Za-z\\√π§]|\s?/\s?[(A-Za-z§](?![A-Za-z])|[xyzn](?!\w)|\s?[√π§]|\s?-\s?[a-z](?!\w)"
)
_LEFT_SIDE = re.compile(r"\s*(?:[^\W\d_]{1,12}\s*|[$%€])?[=≈]\s*[-$€£(\[]*\s?[\d.]")
_UNIT = re.compile(
    r"(?:\s?(?:[$€£¥₹₩₽₺₴₦฿₫₪¢%°²³]|[^\W\d_]{2,20}[.]?|[mglshdVWNJCF](?!\w)|[^\W\d_a-zA-Z])){0,3}"
    r"(?:\s?/\s?[^\W\d_]{1,12}[²³]?)?[\s.,!-]*"
)


def _figures(text: str, decimal_comma: bool) -> Iterator[Figure]:
    """All figures of a readable text; amounts that operators join are one."""
    amounts = list(_AMOUNT.finditer(text))
    at = 0
    while at < len(amounts):
        chain, joints = [amounts[at]], []
        while at + 1 < len(amounts) and (joint := _joint(text, chain, amounts[at + 1])):
            chain.append(amounts[at + 1])
            joints.append(joint)
            at += 1
        at += 1
        start, end = chain[0].start(), chain[-1].end()
        begin = chain[0].end("sign") if chain[0]["sign"] else start
        part = _PART_BEFORE.search(text, max(0, begin - 4), begin)
        if text[max(0, start - 2) : start].strip() == "±" and not joints:
            yield Figure(start, end, {f"±{chain[0]['digits']}"})
        elif part or _PART_AFTER.match(text, end):
            yield Figure(start, end, set())
        else:
            yield Figure(start, end, _meanings(chain, joints, decimal_comma))


def _joint(text: str, chain: list[re.Match[str]], other: re.Match[str]) -> str:
    """The operator between two amounts; a space in a mixed number; "" where nothing joins them."""
    gap = text[chain[-1].end() : other.start()]
    if other["sign"] and not gap.strip() and "\n" not in gap and len(gap) < 2:
        return other["sign"].strip()
    if gap == " " and _FRACTION_NEXT.match(text, other.start()) and chain[-1]["digits"].isdecimal():
        return " "
    before = text[max(0, chain[-1].start() - 12) : chain[-1].start()]
    if _AND.fullmatch(gap) and _RANGE_OF.search(before):
        return "and"
    if (
        not gap
        or not _OPERATOR.fullmatch(gap)
        or (gap.strip() in ("to", "bis") and _FROM.search(before))
    ):
        return ""
    return gap.strip().casefold()


_FRACTION_NEXT = re.compile(r"\d+ ?/ ?\d+(?![\d/])")


def _meanings(chain: list[re.Match[str]], joints: list[str], decimal_comma: bool) -> set[Meaning]:
    if any(len(amount[0]) > _MOST_DIGITS for amount in chain):
        return set()
    values = [_values(amount, decimal_comma) for amount in chain]
    if not joints:
        return values[0]
    firsts = [min((v for v in each if isinstance(v, Fraction)), default=None) for each in values]
    if None not in firsts and (worked := _worked_out(chain, firsts, joints)) is not None:
        return {worked, worked / 100} if chain[-1]["percent"] else {worked}
    if set(joints) <= _RANGES or joints.count("/") == len(joints) > 1:  # a range, a date
        digits = [re.sub(r"\s", "", amount["digits"]) for amount in chain]
        mark = "/" if joints[0] == "/" else "-"
        return {mark.join(digits)}
    return set()


def _worked_out(
    chain: list[re.Match[str]], values: list[Fraction], joints: list[str]
) -> Fraction | None:
    """A fraction, a mixed number, a power or a number times a power of ten; `None` for terms."""
    if joints == ["/"]:
        return values[0] / values[1] if values[1] else None
    if joints == [" ", "/"]:
        broken = values[1] / values[2] if values[2] else Fraction(0)
        return values[0] - broken if "-" in (chain[0]["sign"] or "") else values[0] + broken
    if joints == ["^"]:
        return _power(values[0], values[1])
    if len(joints) == 2 and joints[0] in "*×·∙x" and joints[1] == "^" and values[1] == 10:
        power = _power(values[1], values[2])
        return None if power is None else values[0] * power
    return None


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    small = exponent.denominator == 1 and abs(exponent) * len(str(base)) <= _MOST_DIGITS
    return base**exponent if small and (base or exponent >= 0) else None


def _values(amount: re.Match[str], decimal_comma: bool) -> set[Meaning]:
    """What one amount may mean."""
    digits = amount["digits"]
    plain_values = _digit_values(digits, decimal_comma)
    if not plain_values:
        return {digits} if re.search(r"\A0\d|[.:].*[.:]|:", digits) else set()
    factor = Fraction(10) ** int(amount["power"] or 0)
    scale = (amount["scale"] or "").strip(" .").casefold()
    factor *= next((by for words, by in _SCALES.items() if re.fullmatch(words, scale)), 1)
    if "-" in (amount["sign"] or "") + (amount["second"] or ""):
        factor = -factor
    percents = (1, Fraction(1, 100)) if amount["percent"] else (1,)
    before = amount.string[: amount.start()]
    bullet = (amount["sign"] or "").endswith(" ") and _BULLET.search(before)
    signs = (1, -1) if bullet else (1,)
    return {
        value * factor * by * sign for value in plain_values for by in percents for sign in signs
    }


_BULLET = re.compile(r"(?:\n[ \t]*|[^\W\d]{2,} )\Z")  # "- 5" as an item, or "Apples - 5"
_THREES = re.compile(r"[1-9]\d{0,2}(?:[., ']\d{3})+")
_INDIAN = re.compile(r"[1-9]\d?(?:,\d\d)*,\d{3}")


def _digit_values(digits: str, decimal_comma: bool) -> set[Fraction]:
    """By the rules of grouping: 1,234.5 and 1.234,5 and 1'234 and 1,00,000; empty for a code."""
    marks = [mark for mark in digits if not mark.isdecimal()]
    if ":" in marks or re.match(r"0\d", digits):
        return set()
    decimal = marks[-1] if marks and marks[-1] in ".," and marks.count(marks[-1]) == 1 else ""
    whole, _, broken = digits.rpartition(decimal) if decimal else (digits, "", "")
    grouped = _THREES.fullmatch(whole) or _INDIAN.fullmatch(whole)
    readings = set()
    if decimal and (whole.isdecimal() or not whole or grouped):
        readings.add(Fraction(f"{re.sub('[., ' + chr(39) + ']', '', whole) or 0}.{broken}"))
    if (_THREES.fullmatch(digits) and len(set(marks)) == 1) or _INDIAN.fullmatch(digits):
        as_groups = Fraction(re.sub(r"\D", "", digits))
        if not decimal or decimal_comma:
            readings.add(as_groups)
        elif decimal == ",":
            readings = {as_groups}
    if not marks:
        readings.add(Fraction(digits))
    return readings


# --- Number words, and a text made readable.

_WORD_VALUES = {word: value for value, word in enumerate(UNITS)} | {
    word: 10 * value for value, word in enumerate(TENS, 2)
}
_PARTS = {"hal": 2, "thi": 3, "qua": 4, "fou": 4, "fif": 5, "six": 6, "eig": 8, "ten": 10}
_WORD = (
    rf"(?:(?:{'|'.join(TENS)})[- ](?:{'|'.join(UNITS[1:10])})"
    rf"|{'|'.join([*UNITS[::-1], *TENS])})\b"
)
_NUMBER_WORD = re.compile(
    rf"(?<![\w-])(?P<sign>-\s?)?(?:(?P<word>{_WORD})"
    r"|an?(?= (?:half|third|quarter|dozen|hundred|thousand|million)\b)|(?=half\b))"
    r"(?:[- ]?(?P<part>half|halves|thirds?|quarters?|fourths?|fifths?|sixths?|eighths?|tenths?)\b)?"
    r"(?P<half> and (?:a|one)[- ]half\b)?(?: (?P<scale>dozen|hundred|thousand|million|billion)\b"
    rf"(?: (?:and )?(?P<rest>{_WORD}))?)?(?P<percent>{_PERCENT})?(?!-\w)",
    re.IGNORECASE,
)
_WORDS_JOINED = re.compile(
    r"[ -](?:(?:to|or|and|point|times|plus|minus|over)[ -])?|\s?[-+*/×]\s?", re.IGNORECASE
)
_ONE_STANDS_ALONE = 5  # "one" is a number only in a text of so few words


def _number_words(text: str) -> list[Figure]:
    """Numbers in English words; those joined to another by words are none."""
    matches = list(_NUMBER_WORD.finditer(text))
    short = len(text.split()) <= _ONE_STANDS_ALONE
    figures = []
    for at, match in enumerate(matches):
        before = text[matches[at - 1].end() : match.start()] if at else ","
        after = text[match.end() : matches[at + 1].start()] if at + 1 < len(matches) else ","
        joined = _WORDS_JOINED.fullmatch(before) or _WORDS_JOINED.fullmatch(after)
        if not joined and (short or match[0].casefold() != "one"):
            figures.append(Figure(match.start(), match.end(), _word_meanings(match)))
    return figures


def _chinese_number(text: str) -> list[Figure]:
    """Where a text is nothing but a Chinese or Japanese number and its counting word."""
    match = _CHINESE.fullmatch(text.strip(" .!:*$"))
    if not match:
        return []
    total = section = digit = 0
    for sign in match[2]:
        if sign in _CHINESE_DIGITS:
            digit = _CHINESE_DIGITS[sign]
        elif sign in _CHINESE_UNITS:
            section += (digit or 1) * _CHINESE_UNITS[sign]
            digit = 0
        else:
            total += (section + digit) * _CHINESE_SCALES[sign]
            section = digit = 0
    value = Fraction(total + section + digit) * (-1 if match[1] else 1)
    return [Figure(0, len(text), {value, value / 100} if text.startswith("百分之") else {value})]


_CHINESE_DIGITS = dict(
    zip("零〇一二两兩三四五六七八九", (0, 0, 1, 2, 2, 2, *range(3, 10)), strict=True)
)
_CHINESE_UNITS = {"十": 10, "百": 100, "千": 1000}
_CHINESE_SCALES = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_CHINESE = re.compile(
    "(?:百分之)?([负負])?([零〇一二两兩三四五六七八九十百千万萬亿億]+)[个個只元人天年岁歲块塊本条條张張次円です]{0,3}"
)


def _word_meanings(match: re.Match[str]) -> set[Meaning]:
    def value_of(words: str) -> int:
        return sum(_WORD_VALUES[word] for word in re.split(r"[- ]", words.casefold()))

    value = Fraction(value_of(match["word"]) if match["word"] else 1)
    if match["part"]:
        value /= _PARTS[match["part"][:3].casefold()]
    value += Fraction(1, 2) if match["half"] else 0
    if match["scale"]:
        scale = match["scale"].casefold()
        value *= next(by for words, by in _SCALES.items() if re.fullmatch(words, scale))
        value += value_of(match["rest"]) if match["rest"] else 0
    value = -value if match["sign"] else value
    return {value, value / 100} if match["percent"] else {value}
