"""A number as a spreadsheet shows it under a cell's format code (ECMA-376 part 1, 18.8.31).

Digits, thousands, percent, currency, scientific, fractions, dates, times and durations, with
sections for negative numbers and zero. Points and commas are those of the code, which is stored in
English; a program set to another language shows its own. What is not understood gives None.
"""

import calendar
import datetime
import functools
import re
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from fractions import Fraction
from typing import NamedTuple

MOST_CHARACTERS = 255  # of a code, as in Excel
_MOST_DIGITS = 30  # of a number that is written out
_MOST_DAYS = 2_958_465  # 9999-12-31
_CONTEXT = Context(prec=2 * _MOST_DIGITS + 5)
BUILT_IN = {
    1: "0", 2: "0.00", 3: "#,##0", 4: "#,##0.00", 5: '"$"#,##0;\\-"$"#,##0',
    6: '"$"#,##0;\\-"$"#,##0', 7: '"$"#,##0.00;\\-"$"#,##0.00', 8: '"$"#,##0.00;\\-"$"#,##0.00',
    9: "0%", 10: "0.00%", 11: "0.00E+00", 12: "# ?/?", 13: "# ??/??", 14: "yyyy-mm-dd",
    15: "d-mmm-yy", 16: "d-mmm", 17: "mmm-yy", 18: "h:mm AM/PM", 19: "h:mm:ss AM/PM", 20: "h:mm",
    21: "h:mm:ss", 22: "yyyy-mm-dd hh:mm", 37: "#,##0;(#,##0)", 38: "#,##0;(#,##0)",
    39: "#,##0.00;(#,##0.00)", 40: "#,##0.00;(#,##0.00)", 41: "#,##0;-#,##0;-",
    42: '"$"#,##0;-"$"#,##0;"$"-', 43: "#,##0.00;-#,##0.00;-", 44: '"$"#,##0.00;-"$"#,##0.00;"$"-',
    45: "mm:ss", 46: "[h]:mm:ss", 47: "mm:ss.0", 48: "##0.0E+0",
    **dict.fromkeys((*range(27, 32), 36, *range(50, 55), 57, 58), "yyyy-mm-dd"),
    **dict.fromkeys((*range(32, 36), 55, 56), "h:mm:ss"),
}  # fmt: skip
"""By number. 14 and 22 follow the settings of each machine, and are written as ISO 8601 has it."""

_TOKEN = re.compile(
    r'"(?P<quoted>[^"]*)"|\\(?P<escaped>.)|_.|(?P<fill>\*.)|\[(?P<bracket>[^\]]*)\]'
    r"|(?P<half>AM/PM|A/P)|(?P<exponent>E[+-])|(?P<general>General)"
    r"|(?P<date>yyyy|yy|y|m{1,5}|d{1,4}|hh?|ss?|e)|(?P<other>.)",
    re.IGNORECASE | re.DOTALL,
)
_ELAPSED = re.compile(r"(h+|m+|s+)", re.IGNORECASE)
_CONDITION = re.compile(r"(<=|>=|<>|<|>|=)\s*(-?\d+(?:\.\d+)?)")
_ENGLISH = re.compile(r"[$][^-]*(?:-(?:0*[0-9A-F]?)?0?[0-9A-F]?09)?", re.IGNORECASE)
_BY_SYSTEM = re.compile(r"[$]-F[48]00", re.IGNORECASE)


class _Part(NamedTuple):
    """`kind`: literal, digit (0 # ?), date, elapsed, half, fill, or the character itself."""

    kind: str
    text: str


class _Section(NamedTuple):
    parts: tuple[_Part, ...]
    condition: tuple[str, Decimal] | None
    english: bool
    by_system: bool

    def has(self, *kinds: str) -> bool:
        return any(part.kind in kinds for part in self.parts)


def shown_number(number: str, code: str, from_1904: bool = False) -> str | None:
    """A stored number under a code; None for what is not understood.

    `from_1904`: the workbook counts days from 1904, not from 1900.

    >>> shown_number("1067", "00000"), shown_number("0.125", "0.0%")
    ('01067', '12.5%')
    """
    try:
        value = Decimal(format(float(number), ".15g"))  # the digits that a sheet keeps
        sections = _sections(code)
        if not value.is_finite() or sections is None:
            return None
        section, value = _chosen(sections, value)
        if section.has("date", "elapsed"):
            return _date(section, value, from_1904)
        return _number(section, value)
    except (ValueError, InvalidOperation, OverflowError, ZeroDivisionError):
        return None


def is_format(code: str) -> bool:
    """Whether a code asks for more than the number itself."""
    return code.strip().lower() not in ("", "general", "@")


@functools.lru_cache(maxsize=256)
def _sections(code: str) -> tuple[_Section, ...] | None:
    """None for a code that only shows a number as it is, or is no code."""
    if len(code) > MOST_CHARACTERS or not is_format(code):
        return None
    sections = tuple(_section(text) for text in _split(code))
    return None if sections[0].has("general", "unknown") else sections[:3]


def _split(code: str) -> list[str]:
    texts = [""]
    for token in _TOKEN.finditer(code):
        if token["other"] == ";":
            texts.append("")
        else:
            texts[-1] += token[0]
    return texts


def _section(text: str) -> _Section:
    parts: list[_Part] = []
    condition, english, by_system = None, True, False
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup or ""
        if kind in ("quoted", "escaped"):
            parts.append(_Part("literal", token[kind]))
        elif kind == "bracket":
            inside = token["bracket"]
            if match := _CONDITION.fullmatch(inside):
                condition = (match[1], Decimal(match[2]))
            elif _ELAPSED.fullmatch(inside):
                parts.append(_Part("elapsed", inside.lower()))
            elif inside.startswith("$"):
                parts.append(_Part("literal", inside[1:].partition("-")[0]))
                english = english and _ENGLISH.fullmatch(inside) is not None
                by_system = by_system or _BY_SYSTEM.fullmatch(inside) is not None
        elif kind == "other" and token["other"] in "0#?":
            parts.append(_Part("digit", token["other"]))
        elif kind == "other":
            parts.append(_Part(_kind(token["other"]), token["other"]))
        elif kind in ("date", "half", "exponent", "general"):
            parts.append(_Part(kind, token[kind].lower()))
        elif not kind:  # a space as wide as the next character
            parts.append(_Part("literal", " "))
    return _Section(tuple(parts), condition, english, by_system)


def _kind(character: str) -> str:
    """Letters have to be quoted, those that have no meaning in a code as well."""
    if character in ".,%/":
        return character
    return "unknown" if character.isascii() and character.isalpha() else "literal"


def _chosen(sections: Sequence[_Section], value: Decimal) -> tuple[_Section, Decimal]:
    """The section for a value, and the value without a sign that the section writes itself."""
    for place, section in enumerate(sections):
        if section.condition and _holds(value, *section.condition):
            return section, value if place == 0 else abs(value)
    if any(section.condition for section in sections):
        return sections[-1], value
    if len(sections) == 1 or value > 0:
        return sections[0], value
    if value < 0:
        return sections[1], abs(value)
    return sections[2] if len(sections) > 2 else sections[0], value


def _holds(value: Decimal, operator: str, limit: Decimal) -> bool:
    return {
        "<": value < limit, ">": value > limit, "=": value == limit,
        "<=": value <= limit, ">=": value >= limit, "<>": value != limit,
    }[operator]  # fmt: skip


# --- Numbers.


def _number(section: _Section, value: Decimal) -> str:
    if not section.has("digit"):
        return "".join(part.text for part in section.parts if part.kind != "fill").strip()
    value *= Decimal(100) ** sum(part.kind == "%" for part in section.parts)
    first, last = _ends(section.parts)
    before, digits, after = (
        section.parts[:first], section.parts[first : last + 1], section.parts[last + 1 :],
    )  # fmt: skip
    while after and after[0].kind == ",":  # each stands for a thousand left out
        value, after = value / 1000, after[1:]
    if any(part.kind == "/" for part in digits):
        written = _fraction(digits, abs(value))
    elif any(part.kind == "exponent" for part in digits):
        written = _scientific(digits, abs(value))
    else:
        written = _plain(digits, abs(value))
    text = "".join(part.text for part in before) + written + "".join(part.text for part in after)
    return ("-" if value < 0 and re.search("[1-9]", written) else "") + text.strip()


def _ends(parts: Sequence[_Part]) -> tuple[int, int]:
    """Where the digits begin and end; a point may begin or end them."""
    places = [i for i, part in enumerate(parts) if part.kind in ("digit", ".")]
    last = places[-1]
    fixed = [i for i, part in enumerate(parts) if i > last and part.text.isdigit()]
    if fixed and parts[last + 1].kind == "/":  # a fraction with a given bottom, as in # ??/16
        last = fixed[-1]
    return places[0], last


def _plain(parts: Sequence[_Part], value: Decimal) -> str:
    point = next((i for i, part in enumerate(parts) if part.kind == "."), len(parts))
    whole_parts, broken_parts = parts[:point], parts[point + 1 :]
    places = sum(part.kind == "digit" for part in broken_parts)
    whole, _, broken = _rounded(value, places).partition(".")
    written = _whole(whole_parts, whole)
    if point == len(parts):
        return written
    kept, rest = [], iter(broken)
    for part in broken_parts:
        kept.append((next(rest), part.text) if part.kind == "digit" else (part.text, ""))
    while kept and kept[-1][1] in ("#", "?") and kept[-1][0] == "0":
        kept.pop()
    return written + "." + "".join(character for character, _ in kept)


def _rounded(value: Decimal, places: int) -> str:
    if value.adjusted() > _MOST_DIGITS or places > _MOST_DIGITS:
        raise ValueError("too long")
    step = Decimal(1).scaleb(-places)
    return format(value.quantize(step, ROUND_HALF_UP, _CONTEXT), "f")


def _whole(parts: Sequence[_Part], digits: str) -> str:
    """Digits from the right into their places; the first place takes all that are left."""
    digits = digits.lstrip("0")
    places = [i for i, part in enumerate(parts) if part.kind == "digit"]
    if any(part.kind == "," for part in parts):
        digits = digits.rjust(sum(part.text == "0" for part in parts), "0")
        return re.sub(r"(?<=\d)(?=(?:\d{3})+$)", ",", digits)
    written: list[str] = []
    for i in reversed(range(len(parts))):
        if parts[i].kind != "digit":
            written.append(parts[i].text)
        elif places and i == places[0]:
            written.append(digits or ("0" if parts[i].text == "0" else ""))
        else:
            written.append(digits[-1:] or ("0" if parts[i].text == "0" else ""))
            digits = digits[:-1]
    return "".join(reversed(written))


def _scientific(parts: Sequence[_Part], value: Decimal) -> str:
    at = next(i for i, part in enumerate(parts) if part.kind == "exponent")
    before = parts[:at]
    point = next((i for i, part in enumerate(before) if part.kind == "."), len(before))
    step = max(1, sum(part.kind == "digit" for part in before[:point]))
    power = value.adjusted() // step * step if value else 0
    places = sum(part.kind == "digit" for part in before[point:])
    if value and Decimal(_rounded(value.scaleb(-power), places)) >= Decimal(10) ** step:
        power += step
    sign = "-" if power < 0 else "+" if parts[at].text.endswith("+") else ""
    width = sum(part.text == "0" for part in parts[at + 1 :])
    return f"{_plain(before, value.scaleb(-power))}E{sign}{abs(power):0{width}d}"


def _fraction(parts: Sequence[_Part], value: Decimal) -> str:
    at = next(i for i, part in enumerate(parts) if part.kind == "/")
    above = at
    while above and parts[above - 1].kind == "digit":
        above -= 1
    whole_parts = [part for part in parts[:above] if part.kind == "digit"]
    below = "".join(part.text for part in parts[at + 1 :])
    whole = int(value) if whole_parts else 0
    rest = Fraction(value - whole)
    if below.isdigit() and below.strip("0"):
        top, bottom = round(rest * int(below)), int(below)
    else:
        near = rest.limit_denominator(10 ** min(len(below), 5) - 1)
        top, bottom = near.numerator, near.denominator
    if whole_parts and top == bottom:
        whole, top = whole + 1, 0
    if whole_parts and not top:
        return str(whole)
    return f"{whole} {top}/{bottom}" if whole else f"{top}/{bottom}"


# --- Dates, times and durations.

_MONTHS, _DAYS = tuple(calendar.month_name)[1:], tuple(calendar.day_name)


def _date(section: _Section, value: Decimal, from_1904: bool) -> str | None:
    """A moment or, with [h], a duration; None for one before the first day there is."""
    if value < 0 or value > _MOST_DAYS:
        return None
    places = _second_places(section.parts)
    units = int((value * 86_400 * 10**places).quantize(Decimal(1), ROUND_HALF_UP, _CONTEXT))
    seconds, part = divmod(units, 10**places)
    day, clock = _day(seconds // 86_400, from_1904), seconds % 86_400
    if section.by_system:
        return _iso(day, clock, section)
    named = any(p.kind == "date" and len(p.text) > 2 and p.text[0] in "md" for p in section.parts)
    if named and not section.english:
        return _iso(day, clock, section)
    halves = section.has("half")
    written, fractions = [], False
    for i, p in enumerate(section.parts):
        if p.kind == "elapsed":
            unit = {"h": 3600, "m": 60, "s": 1}[p.text[0]]
            written.append(str(seconds // unit).zfill(len(p.text)))
        elif p.kind == "date":
            text = _minutes(section.parts, i, clock) or _written(p.text, day, clock, halves)
            written.append(text)
        elif p.kind == "half":
            half = "PM" if clock >= 43_200 else "AM"
            written.append(half if p.text == "am/pm" else half[0])
        elif p.kind == "digit":
            written.append("" if fractions else str(part).zfill(places))
            fractions = True
        elif p.kind != "fill":
            written.append(p.text)
    return "".join(written).strip()


def _second_places(parts: Sequence[_Part]) -> int:
    return min(6, sum(part.kind == "digit" for part in parts))


def _day(count: int, from_1904: bool) -> datetime.date:
    """Day 60 of 1900, a leap day that never was, is the last of February."""
    if from_1904:
        return datetime.date(1904, 1, 1) + datetime.timedelta(count)
    return datetime.date(1899, 12, 31 if count < 60 else 30) + datetime.timedelta(count)


def _minutes(parts: Sequence[_Part], at: int, clock: int) -> str:
    """`m` after hours or before seconds is minutes, not a month."""
    if parts[at].text not in ("m", "mm"):
        return ""
    timed = [i for i, part in enumerate(parts) if part.kind in ("date", "elapsed")]
    place = timed.index(at)
    before = parts[timed[place - 1]].text[0] if place else ""
    after = parts[timed[place + 1]].text[0] if place + 1 < len(timed) else ""
    if before != "h" and after != "s":
        return ""
    return str(clock // 60 % 60).zfill(len(parts[at].text))


def _written(token: str, day: datetime.date, clock: int, halves: bool) -> str:
    hour = clock // 3600
    if halves:
        hour = (hour - 1) % 12 + 1
    match token:
        case "yyyy" | "e":
            return str(day.year)
        case "yy" | "y":
            return f"{day.year % 100:02}"
        case "mmmmm":
            return _MONTHS[day.month - 1][0]
        case "mmmm" | "mmm":
            return _MONTHS[day.month - 1][: 3 if token == "mmm" else None]
        case "dddd" | "ddd":
            return _DAYS[day.weekday()][: 3 if token == "ddd" else None]
    value = {"m": day.month, "d": day.day, "h": hour, "s": clock % 60}[token[0]]
    return str(value).zfill(len(token))


def _iso(day: datetime.date, clock: int, section: _Section) -> str:
    """Where a name or an order would be another language's or machine's."""
    asked = {part.text[0] for part in section.parts if part.kind in ("date", "elapsed")}
    time = f"{clock // 3600:02}:{clock // 60 % 60:02}:{clock % 60:02}"
    dated = [str(day)] if asked & set("yde") else []
    return " ".join(dated + ([time] if "h" in asked else []))
