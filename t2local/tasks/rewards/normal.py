"""One spelling for what a reader takes as the same text, in every script.

`plain` folds what differs only in how it was typed: full-width forms, ligatures and presentation
forms, composed and decomposed letters, typographic quotes, dashes and minus signs, all kinds of
spaces, zero-width characters, digits and full stops of other scripts, Arabic and Hebrew vowel
points. It keeps what a reader sees as different: ½ and 1/2, x² and x2, ① and 1. `tidy` also drops
case, emphasis and closing punctuation.

`stands_in` finds whole words. Chinese, Japanese, Thai, Lao, Khmer, Burmese and Tibetan put no space
between words, so that in them any part counts (北京 in 北京大学). Korean particles, and what Arabic
and Hebrew write at the front of a word, are no part of it.
"""

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

_UNSPACED_RANGES = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff"  # Tibetan
    "\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff\uff66-\uff9f"  # Japanese, Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese
)
UNSPACED = re.compile(f"[{_UNSPACED_RANGES}]")

# Decompositions that only undo a way of typing; not <super>, <sub>, <circle>, <fraction>.
_TYPING = (
    "<wide>", "<narrow>", "<compat>", "<noBreak>", "<font>",
    "<initial>", "<medial>", "<final>", "<isolated>",
)  # fmt: skip
_SAME = {
    "'": "‘’‚‛′ʼʹʻ´׳ˈ‹›",
    '"': "“”„‟″״«»「」『』〝〞〟❝❞",
    "-": "‐‑‒–—―−﹘﹣⁃־",
    ".": "。।۔።។။։",
    ",": "、،၊",
    "/": "⁄∕",
    "*": "∗",
    "~": "〜～∼",
    ";": "؛",
    "?": "؟",
    "%": "٪",
    "[": "【〔",
    "]": "】〕",
    "ي": "ی",
    "ك": "ک",
    "": "ـ",  # tatweel
}
_VOWEL_POINTS = (
    range(0x064B, 0x0653), range(0x0670, 0x0671),  # Arabic
    range(0x0591, 0x05BE), range(0x05BF, 0x05C0), range(0x05C1, 0x05C3), range(0x05C4, 0x05C6),
    range(0x05C7, 0x05C8),  # Hebrew
    range(0xFE00, 0xFE10),  # how an emoji is drawn
)  # fmt: skip
# What capitals lose in Greek and Turkish, and what Russians leave out.
_CASE = str.maketrans("άέήίόύώΐΰıё", "αεηιουωϊϋiе")

_CLOSED_EMPHASIS = re.compile(
    r"(?=[*_`~])(?:(?<![A-Za-z0-9\\*])(\*{1,3})(?=[^\s*])(.+?)(?<=[^\s*\\])\1(?![A-Za-z0-9*])"
    r"|(?<![\w\\])(_{1,3})(?=[^\s_])(.+?)(?<=[^\s_\\])\3(?!\w)"
    r"|(?<!`)(`+)([^`]+)\5(?!`)"
    r"|(~~)(?=\S)(.+?)(?<=\S)\7)",
    re.DOTALL,
)
_HALF_EMPHASIS = re.compile(r"(?:^|(?<=\s))\*{2,3}(?=[^\s*])|(?<=[^\s*])\*{2,3}(?=\s|$)")
_ESCAPED = re.compile(r"\\([*_`#~])")
_HEADING = re.compile(r"^#{1,6}\s+(?=\S)", re.MULTILINE)


class _Folded(dict):
    """For `str.translate`: each character's plain form, found when it is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = folded = _folded(chr(code))
        return folded


def _folded(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.digit(character))
    if category == "Cf" or any(ord(character) in points for points in _VOWEL_POINTS):
        return ""
    if category == "Zs":
        return " "
    kind, *codes = unicodedata.decomposition(character).split() or [""]
    letters = "".join(chr(int(code, 16)) for code in codes)
    if kind in _TYPING and not letters.startswith(" "):
        return "".join(_PLAIN[ord(letter)] for letter in letters)
    return character


_PLAIN = _Folded()
_PLAIN.update((ord(one), plain) for plain, many in _SAME.items() for one in many)
_PLAIN.update(
    {ord(c): c for c in "\t\n\r\v\f"} | {ord("٫"): ".", ord("٬"): ",", ord("\u2028"): "\n"}
)


def plain(text: str) -> str:
    """The text in its plain spelling; case and line breaks stay.

    >>> plain("“Ｃａｆｅ\\u0301” −\\u00a0٤٢。")
    '"Café" - 42.'
    """
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).translate(_PLAIN))


def without_emphasis(text: str) -> str:
    """Markdown's bold, italics, code marks and headings taken off; `2*3*4` and `a_b` stay."""
    if not any(mark in text for mark in "*_`#~"):
        return text
    for _ in range(3):  # bold may hold italics
        text, found = _CLOSED_EMPHASIS.subn(
            lambda match: next(filter(None, match.groups()[1::2]), ""), text
        )
        if not found:
            break
    return _ESCAPED.sub(r"\1", _HEADING.sub("", _HALF_EMPHASIS.sub("", text)))


@lru_cache(maxsize=4096)
def tidy(text: str) -> str:
    """For comparing words: case, spaces, emphasis and closing punctuation do not count either.

    >>> tidy("**STRASSE**, ") == tidy("„Straße“.")
    True
    """
    spaced = " ".join(plain(text).split())
    bare = re.sub(r"\s+([.,!;:?])", r"\1", without_emphasis(spaced))
    bare = re.sub(r"(?:[\s.,;:\"']|(?<!\d)!)+$", "", bare.lstrip(" \"'"))
    return folded_case(bare or spaced)


def folded_case(text: str) -> str:
    """Without capitals, in every script (ß is ss, İ is i)."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", text.casefold().replace("i\u0307", "i").translate(_CASE))


# --- Whole words.

_KOREAN_ENDING = re.compile(
    r"(?:특별시|광역시|특별자치도|특별자치시|시|도|군|구|국|님|씨|들)?"
    r"(?:입니다|이에요|예요|이예요|에요|이다|이야|야|이죠|죠|이지요|이라는|라는|이라고|라고|이라|라|이며|며|이고|고|인|"
    r"이었습니다|였습니다|이었다|였다|일|이니까|니까|뿐|은|는|이|가|을|를|의|에서|에게|에|께|한테|도|만|과|와|이랑|랑|"
    r"으로|로|부터|까지|보다|처럼|마다|조차|밖에|하고|이나|나|다|요)*(?![가-힣])"
)
_ARABIC_FRONT = re.compile(r"(?<![\u0620-\u06d3])[وف]?(?:[بكل]?ال|لل|[بكلس])?\Z")
_HEBREW_FRONT = re.compile(r"(?<![\u05d0-\u05ea])[ושהבכלמ]{0,3}\Z")
_FRONT_CHARACTERS = 6  # as far as these look back
_LETTERS_OF_A_STEM = 3  # the article ال goes where at least so many are left
_NUMBER_BEFORE = re.compile(r"(?:\d[.,/:']|(?:\A|[^\w)])-|(?:\A|[^\w])\.)\Z")
_GROUP_BEFORE = re.compile(r"(?:\A|\D)\d{1,3} \Z")
_NUMBER_AFTER = re.compile(r"[.,/:']\d")
_GROUP_AFTER = re.compile(r" \d{3}(?!\d)")


def stands_in(words: str, text: str) -> bool:
    """Whether `words` stand in `text` as whole words, both of them tidied.

    >>> stands_in("cat", "concatenate"), stands_in("paris", "in paris's streets")
    (False, True)
    >>> stands_in("서울", "수도는 서울입니다"), stands_in("巴黎", "首都是巴黎")
    (True, True)
    >>> stands_in("5", "3.5 km"), stands_in("c++", "use c++ here")
    (False, True)
    """
    if not words:
        return False
    bare = words[2:] if words.startswith("ال") else ""
    if len(bare) >= _LETTERS_OF_A_STEM and stands_in(bare, text):
        return True
    start = text.find(words)
    while start >= 0:
        end = start + len(words)
        if _begins(words, text[:start][-_FRONT_CHARACTERS:]) and _ends(words, text[end : end + 16]):
            return True
        start = text.find(words, start + 1)
    return False


def _begins(words: str, before: str) -> bool:
    first, last = words[0], before[-1:]
    if first.isdigit() or (first in "-." and words[1:2].isdigit()):
        if first == "-" and _of_a_word(last):
            return False  # 10-5 is a difference, or a range
        grouped = _GROUP_BEFORE.search(before) and re.match(r"\d{3}(?!\d)", words)
        return not (_joined(last, first) or _NUMBER_BEFORE.search(before) or grouped)
    if "\u0620" <= first <= "\u06d3":
        return _ARABIC_FRONT.search(before) is not None
    if "\u05d0" <= first <= "\u05ea":
        return _HEBREW_FRONT.search(before) is not None
    return not _joined(last, first)


def _ends(words: str, after: str) -> bool:
    last, following = words[-1], after[:1]
    if following and unicodedata.category(following).startswith("M"):
        return False
    if "가" <= last <= "힣":
        return _KOREAN_ENDING.match(after) is not None
    if last.isdigit():
        grouped = re.search(r"(?<!\d)\d{1,3}\Z", words) and _GROUP_AFTER.match(after)
        return not (_joined(last, following) or _NUMBER_AFTER.match(after) or grouped)
    if last.isascii() and last.isalpha() and after.startswith(("++", "#")):
        return False  # C is no part of C++
    return not _joined(last, following)


def _joined(one: str, other: str) -> bool:
    """Whether two neighbours are of one word: letters, digits or marks of scripts with spaces."""
    return _of_a_word(one) and _of_a_word(other)


@lru_cache(maxsize=4096)
def _of_a_word(character: str) -> bool:
    if not character or UNSPACED.match(character):
        return False
    return character == "_" or unicodedata.category(character)[0] in "LMN"


# --- Words and signs that several rewards look for.

# Before what is stated as the answer, and between the two.
ANSWER = (
    r"(?:\b(?:answers?|antwort|lösung|ergebnis|réponse|résultat|respuesta|resultado|resposta|risposta"
    r"|risultato|odpowiedź|cevap|jawaban)\b|答案|答え|解答|正解|정답|답|ответ|الجواب|الإجابة|उत्तर|คำตอบ"
    r"|đáp án)"
)
IS = (
    r"(?:\b(?:is|are|was|be|equals?|comes to|becomes|would be|should be|ist|sind|lautet|beträgt|est"
    r"|es|son|são|sono|jest|adalah)\b|[éè](?!\w)|[:=]|应为|应该是|是|为|為|は|은|는|هو|هي|है|คือ|là)"
)
UNITS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


# --- Formulas as readable text.

_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_FRAC = re.compile(r"\\[dtc]?frac\s*(?:\{\s*(-?[\d.,]+)\s*\}|(\d))\s*(?:\{\s*([\d.,]+)\s*\}|(\d))")
_COMMAND = re.compile(r"\\(?!boxed)[A-Za-z]+(?:\[[^\]]*\])?(?:\{[^{}]*\})+")
_VULGAR = re.compile(r"(\d?)\s?([¼-¾⅐-⅞↉])")
_RAISED = re.compile(r"(?<=[\d)])([⁺⁻]?)([⁰¹²³⁴-⁹]+)")
_NUMBER_NEXT = r"[\d$€£.]|(?:" + "|".join((*UNITS, *TENS)) + r")\b"
_SPELLINGS = tuple(  # where a text has the sign, the pattern is spelled so
    (sign, re.compile(pattern), spelling)
    for sign, pattern, spelling in (
        ("<<", r"<<[^<>]*>>", ""),  # GSM8K's sums
        ("{,}", r"\{,\}", ","),
        ("\\", r"\\(?:left|right|displaystyle|!)(?![A-Za-z])", ""),
        ("\\", r"\\(?:[,;: ()\[\]]|quad\b)|\\\\", " "),
        ("\\", r"\\([$%#&_])", r"\1"),
        ("\\", r"\\(?:times|ast|cdot)(?![A-Za-z])", "×"),
        ("\\", r"\\div(?![A-Za-z])", "÷"),
        ("\\", r"\\pm(?![A-Za-z])", "±"),
        ("+/-", r"\+/-", "±"),
        ("\\", r"\\approx(?![A-Za-z])", "≈"),
        ("\\", r"\\pi(?![A-Za-z])", "π"),
        ("^", r"\^\s*\{?\s*\\?circ\s*\}?", "°"),
        ("\\", r"\\fbox\b", r"\\boxed"),
        ("**", r"(?<=\d)\s?\*\*\s?(?=-?\d)", "^"),
        ("^", r"(?<=\d)\^\{\s*([+-]?\d+)\s*\}", r"^\1"),
        ("_", r"(?<=\d)_(?=\d{3})", ""),
        ("^", r"(?<=[A-Za-z§])\^\{?-?\d+\}?", ""),  # exponents and indices of letters
        ("_", r"(?<=[A-Za-z§])_\{?\w+\}?", ""),
        ("minus", rf"\bminus\s+(?={_NUMBER_NEXT})", "-"),
        ("negative", rf"\bnegative\s+(?={_NUMBER_NEXT})", "-"),
        (" and ", r" and (?<=\d and )(?=\d+/\d+)", " "),
        (" and ", r" and (?<=\d and )(?:a|one)[ -]half\b", " 1/2"),
        ("百分之", r"百分之\s*(\d+(?:\.\d+)?)", r"\1%"),
        ("√", r"√\s*\(?\d+(?:\.\d+)?\)?", "§"),
    )
)
_MILLIONS = re.compile(r"(?<=\d)M(?!\w)")
_RAISED_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")


def readable(text: str) -> str:
    """A text in small letters, its LaTeX, markup and signs spelled in one way.

    § is what is no number.
    """
    text = _MILLIONS.sub(" million", plain(text)).lower()
    if not text.isascii():
        text = _VULGAR.sub(_spelled_fraction, text)
        text = _RAISED.sub(
            lambda m: "^" + ("-" if m[1] == "⁻" else "") + m[2].translate(_RAISED_DIGITS), text
        )
    for _ in range(2 if "\\" in text else 0):
        text = _TEXT.sub(r"\1", text)
    for sign, pattern, spelling in _SPELLINGS:
        if sign in text:
            text = pattern.sub(spelling, text)
    if "\\" in text:
        text = _FRAC.sub(
            lambda m: (
                (" " if text[m.start() - 1 : m.start()].isdecimal() else "")
                + f"{m[1] or m[2]}/{m[3] or m[4]}"
            ),
            text,
        )
        for _ in range(2):
            text = _COMMAND.sub("§", text)
    return without_emphasis(text).replace("**", "")


def _spelled_fraction(match: re.Match[str]) -> str:
    value = Fraction(unicodedata.numeric(match[2])).limit_denominator(10)
    return f"{match[1]}{' ' if match[1] else ''}{value.numerator}/{value.denominator}"


def last_boxed(text: str) -> str:
    """What stands in the last `\\boxed{}`, "" where there is none."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return ""
    depth, begin = 0, start + len(r"\boxed")
    for at in range(begin, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[begin + 1 : at]
    return text[begin + 1 :]


# --- Reasons given for an answer.

_NO_CONCLUSION = r"(?:(?!\b(?:so|therefore|thus|then|hence|leaving|which)\b)(?:[^.!?\n]|\.\d))*"
_REASON = re.compile(
    r",? (?:because|since|as (?:she|he|they|it|we|you|there|the)|denn|weil|porque)\b"
    rf"{_NO_CONCLUSION}"
    r"(?=[.!?\n]|\Z)"
    r"|,? (?:by|from|after) [a-z]+ing\b"
    r"(?:(?![=,]|\b(?:we|you|it|she|he|they|is|are|has|have|gets?|gives?|makes?)\b)(?:[^.!?\n]|\.\d))*"
    r"(?=[.!?\n]|\Z)"
)


def without_reasons(text: str) -> str:
    """Without clauses that say why, where a figure of their sentence stands before them.

    >>> without_reasons("7 are left, since she ate 3.").split()
    ['7', 'are', 'left', '.']
    """

    def left_out(clause: re.Match[str]) -> str:
        begin = max(text.rfind(mark, 0, clause.start()) for mark in ("\n", ". ", "! ", "? "))
        told = text[max(0, begin) : clause.start()]
        return " " * len(clause[0]) if any(map(str.isdecimal, told)) else clause[0]

    return _REASON.sub(left_out, text)


# --- Numbers in words.

Spelled = tuple[int, int, tuple[Fraction, ...]]  # where it starts and ends, and what it may mean

_WORD_VALUES = {word: value for value, word in enumerate(UNITS)} | {
    word: 10 * value for value, word in enumerate(TENS, 2)
}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_PARTS = {"hal": 2, "thi": 3, "qua": 4, "fou": 4, "fif": 5, "six": 6, "eig": 8, "ten": 10}
_SMALL = "|".join((*UNITS[::-1], *TENS))
_LARGE = "dozen|hundred|thousand|million|billion"
_NUMBER_WORDS = re.compile(
    rf"(?<![\w-])(?P<sign>-\s?)?(?:(?P<words>(?:{_SMALL}|an?(?= (?:{_LARGE})\b))\b"
    rf"(?:,?[ -](?:and (?!one[- ]half))?(?:{_SMALL}|{_LARGE})\b)*)"
    r"|an?(?= (?:half|third|quarter)\b)|(?=half\b))"
    rf"(?: point(?P<digits>(?: (?:{'|'.join(UNITS[:10])})\b)+))?"
    r"(?:[- ]?(?P<part>half|halves|thirds?|quarters?|fourths?|fifths?|sixths?|eighths?|tenths?)\b)?"
    rf"(?P<half> and (?:a|one)[- ]half\b)?(?:(?: an?)? (?P<scale>{_LARGE})\b)?"
    r"(?P<percent>\s?(?:%|(?:percent|per cent|pct)\b))?(?!-\w)"
)
_WORDS_JOINED = re.compile(r"[ -](?:(?:to|or|and|point|times|plus|minus|over)[ -])?|\s?[-+*/×]\s?")
_ONE_STANDS_ALONE = 5  # "one" is a number only in a text of so few words


def number_words(text: str) -> list[Spelled]:
    """Numbers in English words of a readable text; those joined to another by words are none.

    >>> [list(map(str, values)) for _, _, values in number_words("one hundred and five, then half")]
    [['105'], ['1/2']]
    """
    matches = list(_NUMBER_WORDS.finditer(text))
    short = len(text.split()) <= _ONE_STANDS_ALONE
    found = []
    for at, match in enumerate(matches):
        before = text[matches[at - 1].end() : match.start()] if at else ","
        after = text[match.end() : matches[at + 1].start()] if at + 1 < len(matches) else ","
        joined = _WORDS_JOINED.fullmatch(before) or _WORDS_JOINED.fullmatch(after)
        if not joined and (short or match[0] != "one") and (values := _spelled(match)):
            found.append((match.start(), match.end(), values))
    return found


def spelled_number(answer: str) -> bool:
    """Whether it is a number in words and nothing else."""
    return any(end - start == len(answer) for start, end, _ in number_words(readable(answer)))


def _spelled(match: re.Match[str]) -> tuple[Fraction, ...]:
    value = _whole(re.findall(r"[a-z]+", match["words"])) if match["words"] else Fraction(1)
    if value is None:
        return ()
    if match["digits"]:
        value += Fraction("0." + "".join(str(UNITS.index(d)) for d in match["digits"].split()))
    if match["part"]:
        value /= _PARTS[match["part"][:3]]
    value += Fraction(1, 2) if match["half"] else 0
    if match["scale"]:
        value *= {"dozen": 12, "hundred": 100, **_SCALES}[match["scale"]]
    value = -value if match["sign"] else value
    return (value, value / 100) if match["percent"] else (value,)


def _whole(words: Sequence[str]) -> Fraction | None:
    """One number in words; `None` for several side by side, such as "five and six"."""
    total, part, last_scale, free = 0, 0, 10**12, 10**12  # `free`: what comes next is below it
    for word in words:
        if word in _SCALES:
            if not part or _SCALES[word] >= last_scale:
                return None
            total, part, last_scale, free = total + part * _SCALES[word], 0, _SCALES[word], 10**3
        elif word in ("hundred", "dozen"):
            part, free = part * (100 if word == "hundred" else 12), 100
        elif word != "and":
            value = 1 if word in ("a", "an") else _WORD_VALUES[word]
            if value >= free:
                return None
            part, free = part + value, 10 if word in TENS else 0
    return Fraction(total + part)


def chinese_number(text: str) -> list[Spelled]:
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
    return [(0, len(text), (value, value / 100) if text.startswith("百分之") else (value,))]


_CHINESE_DIGITS = dict(
    zip("零〇一二两兩三四五六七八九", (0, 0, 1, 2, 2, 2, *range(3, 10)), strict=True)
)
_CHINESE_UNITS = {"十": 10, "百": 100, "千": 1000}
_CHINESE_SCALES = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_CHINESE = re.compile(
    "(?:百分之)?([负負])?([零〇一二两兩三四五六七八九十百千万萬亿億]+)[个個只元人天年岁歲块塊本条條张張次円です]{0,3}"
)
