"""The reward for numbers, `numeric`, and the reading of numbers for all that compares them.

A text's *figures* are read whole: a number with its sign, grouping, fraction, power of ten, scale
and percent, in the spelling of many countries; or a *code* (01067, 12:30, 1.2.3, 2024-05-01, 5-10)
in which each digit counts and which equals no number. Then the text's final one is chosen.
"""

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from t2local.tasks.rewards.normal import (
    ANSWER,
    IS,
    chinese_number,
    last_boxed,
    number_words,
    plain,
    readable,
    without_reasons,
)
from t2local.tasks.rewards.words import accepted_answers, said

TOLERANCE = Fraction(1, 10**6)  # relative, for broken numbers; whole ones must be equal
_MOST_DIGITS = 400
_MOST_CHARACTERS = 4_000  # the end of a completion, where its answer stands
_LOOK_BACK = 50
_SENTENCE_CHARACTERS, _MOST_STATEMENTS, _END_CHARACTERS = 400, 20, 150

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
        text = said(completion) if known else ""
        right = any(same_number(answer, text) for answer in known)
        rewards.append((1.0 if right else -1.0) if known else None)
    return rewards


def same_number(answer: str, text: str) -> bool:
    """Whether the final number of a text is the answer's."""
    return _agree(final_numbers(text, _decimal_comma(answer)), _wanted(answer))


@lru_cache(maxsize=4096)
def _wanted(answer: str) -> set[Meaning]:
    return final_numbers(answer)


def plain_number(text: str) -> bool:
    """Whether a text is a number, with its unit perhaps, and nothing else."""
    return any(isinstance(one, Fraction) for one in only_figure(text))


def only_figure(text: str) -> set[Meaning]:
    """The figure that is all of a text, but for its unit; empty where there is more, or none."""
    return _alone(readable(text))


def _alone(text: str, decimal_comma: bool = False) -> set[Meaning]:
    """As `only_figure`, of a readable text."""
    text = text.strip(" $\n")
    figures = list(_figures(text, decimal_comma))
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

_ANSWER, _COPULA = re.compile(ANSWER), re.compile(IS)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)(?<!\d\.(?=\d))|\n|。")
_CLAUSE_END = re.compile(r"[,;]\s|\b(?:because|since|as|so|denn|weil|car|porque)\b")
_BRACKETS = re.compile(r"\([^()\n]*\)")
_DIRECTLY = re.compile(
    r"(?:[\s:$*(\[=~≈]|about|approximately|exactly|equal to|just|only|now|the number|therefore)*",
)
_CORRECTED = re.compile(r"\b(?:wait|actually|correction|sorry|oops|no(?=[,.;:!]))\b")
# What is denied, or only compared: "I don't think it is 18", "17 < 18".
_NEGATED = re.compile(
    r"(?:\b(?:not|than|instead of|nicht|pas)|n't|不是|[≠≤≥]|(?<=[\w)] )[<>]=?"
    r"|\b(?:don't|doesn't|not) (?:think|believe)\b[^.,;\n\d]{0,30})\s*[$(]*\Z"
)
# What is said beside the answer: how sure one is, notes, goodbyes, and how many steps it took.
_REMARK = re.compile(
    r"(?P<before>[.!?\n(,;。，])[ \t]*(?:[(*\[-]\s*)?(?:"
    r"(?:note|nb|n\.b|p\.?s|remark|hint|tip|sources?|confidence|certainty|rating|rate|check|checking"
    r"|verification|verify|to (?:check|verify)|proof|reference|time taken|steps used|difficulty)\b"
    r"(?=[^.\n]*[:\d])"
    r"|(?:i(?:'m| am)|we(?:'re| are))\b[^.\n]{0,20}\b(?:sure|confident|certain|positive)\b"
    r"|(?:\d+ ?%|one hundred percent) (?:sure|confident|certain|correct|guaranteed|positive)"
    r"|(?:i )?hope\b|let me know\b|see you\b|thanks?\b|thank you\b|feel free\b|by the way\b|bye\b"
    r"|have an? (?:nice|good|great)\b|good luck\b|fun fact\b|(?:call|ask|text|email) me\b"
    r"|(?:this|it|that|i|we|which) (?:took|uses?|used|needed)\b(?=[^.\n]* "
    r"(?:steps?|rules?|tries|attempts|lines|tokens|seconds|minutes)\b)"
    r"|(?:solved|done|found|computed|calculated) (?:it )?(?:in|with|using|after)?\s*\d"
    r"|(?:一?共|总共|總共)?用了|共\s*\d+\s*步|注[::意]|備考|참고"
    r")[^.!?\n。]*(?:\.\d[^.!?\n。]*)*",
)
_DASH = re.compile(r"\A\s*(?:[-=]+>|→|-(?= ))\s*")  # "Answer - 18"
_UNFINISHED = re.compile(r"\banswer is[\s:$*]*\Z")
_BOLD = re.compile(r"(?<=[^\s>-] )\*\*([^*\n]*\d[^*\n]*)\*\*")
_IT_IS = re.compile(r"\A(?:(?:it|that|this)(?: is|'s)|about|so)\s+")
_ITEM = re.compile(r"1\.\s|\d+\. [^\n]*\n+\s*\d+\.\s|\d+\.\s\S+\Z")  # the first of a list
_EXPLAINS = re.compile(
    r"\W*(?:explanation|reason(?:ing)?|because|justification|rationale|solution|steps?|erklärung"
    r"|begründung|explication|explicación|理由|原因|解释|解析|说明|説明)\b"
)
_CONCLUDES = re.compile(
    r"[=≈]|\b(?:so|therefore|thus|hence|totals?|then|leav(?:es|ing)|equals?|final\w*|gives?|results?"
    r"|plus|minus|add\w*|subtract\w*|now|not|wrong|in all|altogether)\b|所以|因此|一共|等于"
)
_WHOLE = r"\d+\b(?![.,]\d)"
_LABEL = re.compile(
    r"\b(?:(?:steps?|rules?|problem|question|exercise|example|figure|fig\.|table|chapter|section"
    r"|pages?|note|method|equation|eq\.|part|option|version|no\.)"
    r"\s*\(?#?\d+(?:\.\d+)*\)?(?!\s*[*/+=\d%])"
    # Beside the answer: "18 each for each of the 3 boxes", "18 more to reach 20", "18 in 1 day".
    rf"|each of the {_WHOLE}|more (?:\w+ )?to (?:reach|make|have|get to) {_WHOLE}|24/7\b"
    r"|in 1 (?:second|minute|hour|day|week|month|year)\b)"
    r"|^[ \t]*\d{1,2}[.)][ \t]+(?=[^\n]*[^\W\d])|\[\d{1,2}\](?!\s*[*/+=])",
    re.MULTILINE,
)
_CHINESE_LABEL = re.compile(r"第\s*\d+\s*[步题題]|步骤\s*\d+|(?:共?(?:用了?)?\s*)?\d+\s*步")


def final_numbers(text: str, decimal_comma: bool = False) -> set[Meaning]:
    """What the final number of a text may mean: "50%" is 50 as well as 1/2; empty without one.

    `decimal_comma`: 1.234 may be a thousand, and 1,234 little more than one.
    """
    written = text[-_MOST_CHARACTERS:]
    text = readable(written)
    hashes = re.findall(r"####[ \t]*(\S[^\n]*)", text)
    if hashes and (found := _first(hashes[-1], decimal_comma)):
        return found
    if boxed := last_boxed(text):
        usable = _usable(boxed, decimal_comma)
        return usable[-1].meanings if len(usable) == 1 else set()
    unfinished = _UNFINISHED.search(text, max(0, len(text) - _LOOK_BACK))
    for known in _without_asides(text):
        if found := _stated(known, decimal_comma):
            return found
        if not unfinished and (found := _unmarked(known, written, decimal_comma)):
            return found
    return set()


def _without_asides(text: str) -> Iterator[str]:
    """The text without labels and remarks, then with the one, the other, and both."""
    if not any(map(str.isdecimal, text)):
        yield text
        return
    unlabelled = text
    for labels in (_LABEL,) if text.isascii() else (_LABEL, _CHINESE_LABEL):
        unlabelled = labels.sub(lambda label: " " * len(label[0]), unlabelled)
    for one in (unlabelled, text):
        yield _REMARK.sub(r"\g<before> ", f"\n{one}").lstrip("\n")
    yield from (unlabelled, text)


def _unmarked(text: str, written: str, decimal_comma: bool) -> set[Meaning]:
    """Where no words say which: in bold, alone before what explains it, or last."""
    return (
        _in_bold(written, text)
        or _before_explanation(text, decimal_comma)
        or _last(without_reasons(text), decimal_comma)
        or _last(text, decimal_comma)
    )


def _in_bold(written: str, text: str) -> set[Meaning]:
    """The one figure in bold of the last line with figures, where `text` has it too."""
    line = next((one for one in reversed(written.splitlines()) if re.search(r"\d", one)), "")
    bold = [*_BOLD.finditer(line)]
    if len(bold) != 1 or _CONCLUDES.search(line, bold[0].end()) or readable(bold[0][1]) not in text:
        return set()
    return only_figure(bold[0][1])


def _before_explanation(text: str, decimal_comma: bool) -> set[Meaning]:
    """The figure that is all of the first sentence, where the others conclude nothing."""
    text = text.strip()
    end = _SENTENCE_END.search(text)
    if end is None or end.start() > _LOOK_BACK or _ITEM.match(text):
        return set()
    found = _alone(_IT_IS.sub("", text[: end.start()]), decimal_comma)
    rest = text[end.end() :].strip()
    if not found or not rest or _CORRECTED.search(rest):
        return set()
    if _EXPLAINS.match(rest):
        return found
    concluded = _CONCLUDES.search(rest) or _alone(rest.rpartition("\n")[2], decimal_comma)
    return set() if concluded else found


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
    sentence = _DASH.sub(": ", sentence)
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


_ONE = r"-?\d+(?:[.,/:]\d+)*"
_LISTING = re.compile(
    rf"[\s$({{\[]*{_ONE}(?:(?:\s*[,;&]\s*|\s+|\s*,?\s*\band\s+)(?:(?:\.\.\.|…)[,\s]*)?{_ONE})+"
    r"[\s.)}\]$]*"
)


def _first(text: str, decimal_comma: bool) -> set[Meaning]:
    """The first figure, or what it is said to equal; brackets only where all stands in them."""
    if usable := _usable(_BRACKETS.sub(" ", text), decimal_comma):
        text = _BRACKETS.sub(" ", text)
    elif not (usable := _usable(text, decimal_comma)):
        return set()
    if listed := _listed(text, usable[:2]):
        return listed
    end = _CLAUSE_END.search(text, usable[0].start + 1)
    clause = text[: end.start()] if end else text
    equal = _usable(clause[clause.rindex("=") :], decimal_comma) if "=" in clause else []
    return (equal or usable)[0].meanings


def _last(text: str, decimal_comma: bool) -> set[Meaning]:
    for part in (text[-_END_CHARACTERS:], text):  # it mostly stands at the end
        usable = _usable(_BRACKETS.sub(" ", part), decimal_comma) or _usable(part, decimal_comma)
        if usable and (part == text or usable[-1].start > _LOOK_BACK):
            line = part[part.rfind("\n", 0, usable[-1].start) + 1 :].partition("\n")[0]
            return _listed(line, usable[-2:]) or usable[-1].meanings
    return set()


def _listed(text: str, figures: Sequence["Figure"]) -> set[Meaning]:
    """Of a text that is nothing but several figures, a code: "5, 6" is neither 5 nor 6."""
    if len(figures) < 2 or not _LISTING.fullmatch(text):
        return set()
    return {",".join(re.findall(_ONE, text))}


def _usable(text: str, decimal_comma: bool) -> list["Figure"]:
    """The figures that may be an answer; number words where there are no digits.

    Not what is denied, nor the left side of an equation, where anything else is left.
    """
    if not any(map(str.isdecimal, text)):
        spelled = number_words(text) or chinese_number(text)
        return [Figure(start, end, set(values)) for start, end, values in spelled]
    figures = [one for one in _figures(text, decimal_comma) if one.meanings]
    figures = [one for one in figures if not _NEGATED.search(text[: one.start][-_LOOK_BACK:])]
    return [one for one in figures if not _LEFT_SIDE.match(text, one.end)] or figures


# --- Reading figures.


class Figure(NamedTuple):
    """`meanings` are empty for a part of a term, or a term that is not worked out."""

    start: int
    end: int
    meanings: set[Meaning]


_MONEY = (
    r"(?:(?:us|ca?|au?|hk|nz|s|r)?\$|[€£¥₹₩₽₺₴₦฿₫₪¢₱]"
    r"|\b(?:usd|eur|gbp|chf|inr|jpy|cny|rmb|rs\.?|kr\.?|fr\.))"
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
    r"(?=[-+.\d$€£¥₹₩₽₺₴₦฿₫₪¢₱]|\b[a-z])"  # where one may begin, found fast
    rf"(?P<sign>(?<![\w)%])[+-] ?)?(?P<money>{_MONEY}\s?)?(?P<second>(?<![\w)%])[+-])?"
    rf"(?<![A-Za-z_\d])(?<!\d[.,':])(?P<digits>{_DIGITS})(?:e(?P<power>[+-]?\d{{1,3}})(?!\w))?"
    rf"(?P<scale>{_SCALE})?(?P<percent>{_PERCENT})?",
)
_OPERATOR = re.compile(r"\s?(?:[*/×÷·∙^+~-]|\b(?:to|bis|or|oder|ou|или)\b|[至到或])\s?| x |")
_PART_OF = re.compile(  # 7 left out of 10, 7 of the 10, 7 of 10
    r"(?: [a-z]+){0,2}? out of (?:the |all |a total of )?"
    r"|(?: [a-z]+)? of (?:the|these|those|all|his|her|their|our|my) | of "
)
_RANGE_OF = re.compile(r"(?:\bbetween|\bzwischen|\bentre|\btra|介于)\s*\Z")
_FROM = re.compile(r"(?:\bfrom|\bvon|\bde|\bda|从)\s*\Z")
_AND = re.compile(r"\s?(?:and|und|y|et|e|和|到)\s?")
_RANGES = {"-", "~", "to", "bis", "or", "oder", "ou", "или", "至", "到", "或", "and"}
_PART_BEFORE = re.compile(r"(?:[\w)§] ?[*/×÷^+] ?|\b[A-Za-z] ?-|[√π§±] ?)\Z")
_PART_AFTER = re.compile(
    r"\+(?=\s|\Z)|\s?[*×÷^+]\s?[(A-Za-z\\√π§]|\s?/\s?[(A-Za-z§](?![A-Za-z])|[xyzn](?!\w)|\s?[√π§]|\s?-\s?[a-z](?!\w)"
)
_LEFT_SIDE = re.compile(r"\s*(?:[^\W\d_]{1,12}\s*|[$%€])?[=≈]\s*[-$€£(\[]*\s?[\d.]")
_UNIT = re.compile(
    r"(?:\s?(?:[$€£¥₹₩₽₺₴₦฿₫₪¢%°²³]|[^\W\d_]{2,20}[.]?|[mglshdvwnjcf](?!\w)|[^\W\d_a-zA-Z])){0,3}"
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
    if _PART_OF.fullmatch(gap) or (gap == " in " and chain[-1][0] == "1"):
        return "of"
    if _AND.fullmatch(gap) and _RANGE_OF.search(before):
        return "and"
    if (
        not gap
        or not _OPERATOR.fullmatch(gap)
        or (gap.strip() in ("to", "bis") and _FROM.search(before))
    ):
        return ""
    return gap.strip()


_FRACTION_NEXT = re.compile(r"\d+ ?/ ?\d+(?![\d/])")


def _meanings(chain: list[re.Match[str]], joints: list[str], decimal_comma: bool) -> set[Meaning]:
    if any(len(amount[0]) > _MOST_DIGITS for amount in chain):
        return set()
    values = [_values(amount, decimal_comma) for amount in chain]
    if not joints:
        return values[0]
    firsts = [min((v for v in each if isinstance(v, Fraction)), default=None) for each in values]
    if None not in firsts and (worked := _worked_out(chain, firsts, joints)) is not None:
        if joints == ["of"]:  # 7 out of 10 are 7, and also 7/10
            return values[0] | {worked}
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
    if joints in (["/"], ["of"]):
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
    if not (amount["power"] or amount["scale"] or amount["percent"] or amount["sign"]):
        return {-v for v in plain_values} if amount["second"] == "-" else set(plain_values)
    factor = Fraction(10) ** int(amount["power"] or 0)
    scale = (amount["scale"] or "").strip(" .")
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


_BULLET = re.compile(r"(?:(?:\A|\n)[ \t]*|[^\W\d]{2,} )\Z")  # "- 5" as an item, or "Apples - 5"
_THREES = re.compile(r"[1-9]\d{0,2}(?:[., ']\d{3})+")
_INDIAN = re.compile(r"[1-9]\d?(?:,\d\d)*,\d{3}")


@lru_cache(maxsize=4096)
def _digit_values(digits: str, decimal_comma: bool) -> frozenset[Fraction]:
    """By the rules of grouping: 1,234.5 and 1.234,5 and 1'234 and 1,00,000; empty for a code."""
    marks = [mark for mark in digits if not mark.isdecimal()]
    if ":" in marks or re.match(r"0\d", digits):
        return frozenset()
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
    return frozenset(readings)
