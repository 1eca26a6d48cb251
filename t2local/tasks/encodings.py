"""The encoding of a text's bytes: by its mark, else UTF-8, UTF-16, or the likeliest of older ones.

A file of a few rows is too short for `charset-normalizer` alone, which weighs whole languages. So
each encoding that people have is tried first by what its text would be made of: letters that its
script uses often, accents that one language has together, no letters of two scripts in a word.
`charset-normalizer` decides where that leaves several, or none.
"""

import codecs
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from charset_normalizer import from_bytes

from t2local.errors import T2LocalError
from t2local.tasks.rows import shown

ENCODINGS: tuple[tuple[str, str], ...] = (  # codec, words for a person
    ("utf-8", "UTF-8"),
    ("utf-16", "UTF-16"),
    ("cp1252", "Western European (Windows-1252)"),
    ("cp1250", "Central European (Windows-1250)"),
    ("iso8859-2", "Central European (ISO 8859-2)"),
    ("cp1251", "Cyrillic (Windows-1251)"),
    ("koi8-u", "Cyrillic (KOI8)"),
    ("cp866", "Cyrillic (DOS 866)"),
    ("iso8859-5", "Cyrillic (ISO 8859-5)"),
    ("gb18030", "Chinese, simplified (GBK, GB 18030)"),
    ("cp950", "Chinese, traditional (Big5)"),
    ("cp932", "Japanese (Shift-JIS)"),
    ("euc-jp", "Japanese (EUC-JP)"),
    ("cp949", "Korean (EUC-KR, Windows-949)"),
    ("cp1253", "Greek (Windows-1253)"),
    ("cp1254", "Turkish (Windows-1254)"),
    ("cp1255", "Hebrew (Windows-1255)"),
    ("cp1256", "Arabic (Windows-1256)"),
    ("iso8859-6", "Arabic (ISO 8859-6)"),
    ("cp1257", "Baltic (Windows-1257)"),
    ("cp874", "Thai (Windows-874)"),
    ("mac-roman", "Western European (old Macintosh)"),
    ("cp850", "Western European (DOS 850)"),
)
WORDS = dict(ENCODINGS)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SHIFTS = b"\x1b$"
_NO_TEXTS = ("unicode_escape", "raw_unicode_escape", "idna", "punycode", "undefined")
_FIRST = 4096  # bytes in which zeros tell UTF-16
_SAMPLE = 4_000  # characters that are looked at
_CLOSE = 0.06  # between two scores, where neither wins
_ENOUGH = 256  # bytes for which `charset-normalizer` is asked about all that it knows
_LEAST = 0.5  # of a score that is believed
_DAMAGE = 0.67  # broken sequences a good one in damaged UTF-8; other encodings have more


@dataclass(frozen=True)
class Decoded:
    """`encoding`: what the bytes were read as. `guessed`: not by a mark, UTF-8 or a person."""

    text: str
    encoding: str
    guessed: bool = False

    @property
    def note(self) -> str:
        """How it was read, where another way was possible, as a sentence."""
        if not self.guessed:
            return ""
        words = WORDS.get(self.encoding, self.encoding)
        return f"Read as {words}; choose another encoding if the first rows look wrong."


def decoded(name: str, content: bytes, encoding: str = "") -> Decoded:
    """The text of a file. `encoding`: as a person chose it, "" to find it.

    Raises `T2LocalError` for what is no text, for an encoding that there is not, and for bytes that
    the chosen one does not have.
    """
    if encoding:
        return _as_chosen(name, content, encoding)
    for mark, marked in _MARKS:
        if content.startswith(mark):
            return Decoded(content.decode(marked, "replace"), marked.removesuffix("-sig"))
    if wide := _wide(name, content):
        return Decoded(content.decode(wide, "replace"), wide)
    if _SHIFTS in content and content.isascii():  # Japanese mail: ASCII to look at
        return Decoded(content.decode("iso2022_jp_ext", "replace"), "iso2022_jp_ext", guessed=True)
    try:
        return Decoded(content.decode("utf-8"), "utf-8")
    except UnicodeDecodeError:
        text = content.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    good = len(text) - len(text.encode("ascii", "ignore")) - broken
    if broken <= _DAMAGE * good:
        return Decoded(text, "utf-8")
    found = _likeliest(content)
    return Decoded(content.decode(found, "replace"), found, guessed=True)


def _as_chosen(name: str, content: bytes, encoding: str) -> Decoded:
    if content.startswith(codecs.BOM_UTF8) and encoding.lower() in ("utf-8", "utf8"):
        encoding = "utf-8-sig"
    try:
        if codecs.lookup(encoding).name.replace("-", "_") in _NO_TEXTS:
            raise LookupError(encoding)
        return Decoded(content.decode(encoding), encoding)
    except (LookupError, ValueError) as error:
        refused = error
    if not isinstance(refused, UnicodeError):  # "rot13" and the like are there, but of no text
        raise T2LocalError(
            f"There is no encoding '{shown(encoding, 30)}' of text; choose one such as utf-8, "
            "cp1252, gb18030, cp932 or cp1251."
        ) from refused
    place = ""
    if isinstance(refused, UnicodeDecodeError):
        line = content.count(b"\n", 0, refused.start) + 1
        place = f": line {line} has a byte that it does not have (0x{content[refused.start]:02x})"
    raise T2LocalError(
        f"'{name}' is not all {shown(encoding, 30)}{place}; choose another encoding."
    ) from refused


def _wide(name: str, content: bytes) -> str:
    """UTF-16 or UTF-32 without a mark, by where its zeros are, else "".

    Raises `T2LocalError` for other zeros.
    """
    first = content[:_FIRST]
    zeros = first.count(0)
    if not zeros:
        return ""
    quarters = [first[at::4].count(0) for at in range(4)]
    whole = len(first) / 4
    for encoding, empty in (("utf-32-be", (0, 1)), ("utf-32-le", (2, 3))):
        if all(quarters[at] > 0.9 * whole for at in empty):
            return encoding
    even = first[::2].count(0)
    for encoding, share in (("utf-16-be", even), ("utf-16-le", zeros - even)):
        if share > 0.3 * len(first[::2]) and share > 0.9 * zeros:
            return encoding
    raise T2LocalError(
        f"'{name}' is no text; use a spreadsheet's file, CSV, TSV, JSONL, JSON or Parquet."
    )


# --- The likeliest of the older encodings.


def _likeliest(content: bytes) -> str:
    sample = _telling(content)
    scores = {codec: _score(sample, codec) for codec in _JUDGES}
    best = max(scores.values())
    close = [codec for codec, score in scores.items() if score >= best - _CLOSE]
    if best < _LEAST:
        found = from_bytes(sample).best() if len(sample) >= _ENOUGH else None
        if found is not None and found.encoding.replace("_", "-") not in _JUDGES:
            return found.encoding
        return close[0] if best > 0 else "cp1252"
    if len(close) > 1 and scores[close[0]] < best:  # the table's first wins a draw
        found = from_bytes(sample, cp_isolation=close, threshold=1.0).best()
        asked = found.encoding.replace("_", "-") if found is not None else ""
        if asked in close:
            return asked
    return max(close, key=scores.get)


def _telling(content: bytes) -> bytes:
    """The first lines that are not plain ASCII, in which an encoding shows."""
    lines, size = [], 0
    for line in re.split(rb"(?<=[\r\n])", content):
        if not line.isascii():
            lines.append(line)
            size += len(line)
            if size > 2 * _SAMPLE:
                break
    return b"".join(lines)


def _score(sample: bytes, codec: str) -> float:
    """How much like a text of people it is when read so: at most 1, for common letters alone."""
    text = unicodedata.normalize("NFC", sample.decode(codec, "replace"))[:_SAMPLE]
    values = [_JUDGES[codec](text, at) for at, char in enumerate(text) if not char.isascii()]
    return sum(values) / len(values) if values else -1.0


Judge = Callable[[str, int], float]  # of one character in its text
_PUNCTUATION = frozenset("«»„“”‘’–—…·•°§№€£©®´\xa0")
_WIDE_PUNCTUATION = frozenset(
    "、。「」『』（）！？，：；～・…—“”‘’《》〈〉【】％０１２３４５６７８９　"
)


def _broken(char: str) -> bool:
    return char == "\ufffd" or unicodedata.category(char) in ("Cc", "Co", "Cn", "Cs")


def _beside_latin(text: str, at: int) -> bool:
    near = text[max(0, at - 1) : at] + text[at + 1 : at + 2]
    return any(c.isalpha() and c.isascii() for c in near)


def _alphabet(script: str, common: str, rare: str = "") -> Judge:
    """Letters of one script, of which `common` make up most of a text; no Latin beside them."""
    often, seldom = frozenset(common + common.upper()), frozenset(rare + rare.upper())

    def judge(text: str, at: int) -> float:
        char = text[at]
        if char in _PUNCTUATION:
            return 0.4
        if _broken(char) or not unicodedata.name(char, "").startswith(script):
            return -1.0
        if _beside_latin(text, at):
            return -1.0
        if char.isupper() and text[at - 1 : at].islower():
            return -0.5  # a capital inside a word: the cases are swapped
        ends = not text[at + 1 : at + 2].isalpha()
        if (char == "ς" and not ends) or (char == "σ" and ends):
            return -1.0
        if char.isupper() and ends and not text[at - 1 : at].isalpha():
            return 0.2  # a sign of a currency, more likely
        value = 1.0 if char in often else 0.1 if char in seldom else 0.5
        return 0.9 * value if char.isupper() and text[at - 1 : at].isupper() else value

    return judge


def _ideographs(codec: str, common: range, kana: bool = False) -> Judge:
    """Characters whose first byte in `codec` is that of common ones; `kana`: where they belong."""

    def judge(text: str, at: int) -> float:
        char = text[at]
        if char in _WIDE_PUNCTUATION:
            return 0.6
        if _broken(char) or "\uff61" <= char <= "\uff9f":  # half-width kana
            return -1.0
        if "\u3040" <= char <= "\u30ff":
            return 1.0 if kana else -0.5
        return 1.0 if _first_byte(char, codec) in common else -0.3

    return judge


@cache
def _first_byte(char: str, codec: str) -> int:
    try:
        written = char.encode(codec)
    except UnicodeEncodeError:
        return 0
    return written[0] if len(written) == 2 else 0


# Accents that one language has; a text's are those of one of them.
_LATIN = {
    "cp1252": (
        "äöüß", "éèêëàâîïôùûçœ", "áéíóúñü¿¡", "ãõáéíóúâêôçà", "àèéìòù", "åäöé", "æøåé",
        "ëéïöüè", "àçèéíïòóúü·", "áéíóúýðþæö", "äöõüšž",
    ),
    "cp1250": ("ąćęłńóśźż", "áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "áéíóöőúüű", "čćđšž",
               "ăâîșțşţ"),
    "cp1254": ("çğıöşüâîİ",),
    "cp1257": ("āčēģīķļņšūž", "ąčęėįšųūž"),
}  # fmt: skip
_LATIN |= {
    "iso8859-2": _LATIN["cp1250"], "mac-roman": _LATIN["cp1252"], "cp850": _LATIN["cp1252"],
}  # fmt: skip


def _accents(languages: Sequence[str], among: float) -> Judge:
    """Accents as the language has them that fits best, mostly one by one among plain letters."""
    sets = [frozenset(one + one.upper()) for one in languages]

    @lru_cache(maxsize=2)
    def fitting(text: str) -> frozenset[str]:
        found = [char for char in text if not char.isascii()]
        return max(sets, key=lambda one: sum(char in one for char in found))

    def judge(text: str, at: int) -> float:
        char = text[at]
        if _broken(char):
            return -1.0
        if not char.isalpha():
            inside = text[at - 1 : at].isalpha() and text[at + 1 : at + 2].isalpha()
            return -1.0 if inside and char not in "’·" else among if char in _PUNCTUATION else -0.5
        if char.isupper() and text[at - 1 : at].islower():
            return -1.0
        if char not in fitting(text):
            return -0.5
        near = text[max(0, at - 1) : at] + text[at + 1 : at + 2]
        if any(map(str.isdigit, near)) or (char.isupper() and not any(map(str.isalpha, near))):
            return -0.5  # a sign of a currency, more likely
        if char in "õÕ" and "ã" in fitting(text) and text[at + 1 : at + 2] not in ("e", "E"):
            return -0.5  # Hungarian, read as if it were Portuguese
        return 1.0 if _beside_latin(text, at) or not text[at - 1 : at].isalpha() else -0.5

    return judge


_JUDGES: dict[str, Judge] = {
    "cp1252": _accents(_LATIN["cp1252"], 0.8),
    "cp1250": _accents(_LATIN["cp1250"], 0.75),
    "cp1254": _accents(_LATIN["cp1254"], 0.75),
    "cp1257": _accents(_LATIN["cp1257"], 0.75),
    "iso8859-2": _accents(_LATIN["iso8859-2"], 0.7),
    "mac-roman": _accents(_LATIN["mac-roman"], 0.7),
    "cp850": _accents(_LATIN["cp850"], 0.7),
    **dict.fromkeys(("cp1251", "koi8-u", "cp866", "iso8859-5"),
                    _alphabet("CYRILLIC", "оеаинтсрвлкмдпуі", "хжшюцщэфъё")),
    "cp1253": _alphabet("GREEK", "αοιετσνηυρπκλςάέίό", "ξψζφχβ"),
    "cp1255": _alphabet("HEBREW", "יוהלאתרבמשנם"),
    **dict.fromkeys(("cp1256", "iso8859-6"), _alphabet("ARABIC", "اليمنرتوبدةعسهف")),
    "cp874": _alphabet("THAI", "านรอกเงมยลวดทสะ่้ีิั"),
    "cp949": _ideographs("euc-kr", range(0xB0, 0xC9)),
    "gb18030": _ideographs("gb2312", range(0xB0, 0xD8)),
    "cp950": _ideographs("big5", range(0xA4, 0xC7)),
    **dict.fromkeys(("cp932", "euc-jp"), _ideographs("euc-jp", range(0xB0, 0xD0), kana=True)),
}  # fmt: skip
