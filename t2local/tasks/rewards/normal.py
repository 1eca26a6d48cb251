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
    r"(?<![A-Za-z0-9\\*])(\*{1,3})(?=[^\s*])(.+?)(?<=[^\s*\\])\1(?![A-Za-z0-9*])"
    r"|(?<![\w\\])(_{1,3})(?=[^\s_])(.+?)(?<=[^\s_\\])\3(?!\w)"
    r"|(?<!`)(`+)([^`]+)\5(?!`)"
    r"|(~~)(?=\S)(.+?)(?<=\S)\7",
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
_SPELLINGS = tuple(  # where a text has the sign, the pattern is spelled so
    (sign, re.compile(pattern, re.IGNORECASE), spelling)
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
        ("", r"\b(?:minus|negative)\s+(?=[\d$€£.]|(?:" + "|".join((*UNITS, *TENS)) + r")\b)", "-"),
        (" and ", r"(?<=\d) and (?=\d+/\d+)", " "),
        (" and ", r"(?<=\d) and (?:a|one)[ -]half\b", " 1/2"),
        ("百分之", r"百分之\s*(\d+(?:\.\d+)?)", r"\1%"),
        ("√", r"√\s*\(?\d+(?:\.\d+)?\)?", "§"),
    )
)
_RAISED_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")


def readable(text: str) -> str:
    """A text with its LaTeX, markup and signs spelled in one way; § is what is no number."""
    text = plain(text)
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
