"""The reward `language`: an answer is written in the language that its row names.

py3langid tells languages, by how often short runs of bytes come in each; of a word or two it knows
little, so those count as right where the language is among the likeliest. What stands in fences is
a program and no text.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import py3langid

from t2local.errors import T2LocalError
from t2local.tasks.rewards.words import blocks, where_right, words_in
from t2local.tasks.rows import Example, shown

FEW_WORDS, AMONG = 4, 5  # of fewer words the language is to be among so many
LONGEST = 4_000  # characters that are looked at

# code -> English name, own name, a sentence
LANGUAGES = {
    "ar": ("Arabic", "العربية", "هذه جملة قصيرة باللغة العربية."),
    "cs": ("Czech", "čeština", "Toto je krátká věta v češtině."),
    "da": ("Danish", "dansk", "Dette er en kort sætning på dansk, og den er ikke svær."),
    "de": ("German", "Deutsch", "Das ist ein kurzer Satz auf Deutsch."),
    "el": ("Greek", "ελληνικά", "Αυτή είναι μια σύντομη πρόταση στα ελληνικά."),
    "en": ("English", "English", "This is a short sentence in English."),
    "es": ("Spanish", "español", "Esta es una frase corta en español."),
    "fi": ("Finnish", "suomi", "Tämä on lyhyt lause suomeksi."),
    "fr": ("French", "français", "Ceci est une phrase courte en français."),
    "he": ("Hebrew", "עברית", "זהו משפט קצר בעברית."),
    "hi": ("Hindi", "हिन्दी", "यह हिन्दी में एक छोटा वाक्य है।"),
    "hu": ("Hungarian", "magyar", "Ez egy rövid mondat magyarul."),
    "id": ("Indonesian", "bahasa Indonesia", "Ini adalah kalimat pendek dalam bahasa Indonesia."),
    "it": ("Italian", "italiano", "Questa è una breve frase in italiano."),
    "ja": ("Japanese", "日本語", "これは日本語の短い文です。"),
    "ko": ("Korean", "한국어", "이것은 한국어로 된 짧은 문장입니다."),
    "nl": ("Dutch", "Nederlands", "Dit is een korte zin in het Nederlands."),
    "pl": ("Polish", "polski", "To jest krótkie zdanie po polsku."),
    "pt": ("Portuguese", "português", "Esta é uma frase curta em português, não é longa."),
    "ro": ("Romanian", "română", "Aceasta este o propoziție scurtă în limba română."),
    "ru": ("Russian", "русский", "Это короткое предложение на русском языке."),
    "sv": ("Swedish", "svenska", "Det här är en kort mening på svenska."),
    "th": ("Thai", "ไทย", "นี่คือประโยคสั้น ๆ ในภาษาไทย"),
    "tr": ("Turkish", "Türkçe", "Bu Türkçe kısa bir cümledir."),
    "uk": ("Ukrainian", "українська", "Це коротке речення українською мовою."),
    "vi": ("Vietnamese", "Tiếng Việt", "Đây là một câu ngắn bằng tiếng Việt."),
    "zh": ("Chinese", "中文", "这是一个简短的中文句子。"),
}
_CODES = {name.casefold(): code for code, names in LANGUAGES.items() for name in (code, *names[:2])}


def language(
    prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
) -> list[float | None]:
    """+1 where the completion is written in the language `answer` names (or one of several).

    `answer`: an English name, the own name or a code (German, Deutsch, de). Nothing said is −1.
    Raises `T2LocalError` for a language that is not known.

    >>> language(["Hi"], ["Guten Tag, wie kann ich helfen?"], answer=["German"])
    [1.0]
    """
    return where_right(completions, columns, lambda text, answer: is_in(text, code_of(answer)))


def code_of(name: str) -> str:
    """Raises `T2LocalError` for what is no language here."""
    found = _CODES.get(name.strip().casefold())
    if found is None:
        known = ", ".join(names[0] for names in LANGUAGES.values())
        raise T2LocalError(f"'{shown(name)}' is no language that is known; name one of {known}.")
    return found


def is_in(text: str, code: str) -> bool:
    """Whether a text is written in a language."""
    prose = _prose(text)
    among = 1 if words_in(prose) >= FEW_WORDS else AMONG
    return code in _likeliest(prose)[:among]


def language_of(text: str) -> str:
    """The code of the language of a text, "" for too few words to tell."""
    prose = _prose(text)
    ranked = _likeliest(prose) if words_in(prose) >= FEW_WORDS else ()
    return ranked[0] if ranked else ""


def one_language(rows: Sequence[Example]) -> str:
    """Why `language` fits: all answers name the same one. Where they name several they are asked
    for, as in "which language is this?"."""
    codes = {_CODES.get(row.answer.strip().casefold(), "") for row in rows}
    if len(codes) != 1 or "" in codes:
        return ""
    (code,) = codes
    return f"All answers are '{LANGUAGES[code][0]}': the language in which it has to be written."


def in_language(example: Example) -> str:
    """A right answer, for a trial of the reward on rows."""
    return LANGUAGES[code_of(example.answer)][2]


def in_others(example: Example) -> list[str]:
    """Wrong ones."""
    own = code_of(example.answer)
    return [names[2] for code, names in LANGUAGES.items() if code != own][:3]


def _prose(text: str) -> str:
    for _, content in blocks(text):
        text = text.replace(content, " ")
    return text[:LONGEST].strip(" `~\n")


@lru_cache(maxsize=4096)
def _likeliest(text: str) -> tuple[str, ...]:
    """The known languages, the likeliest first; () for nothing said."""
    if not any(letter.isalpha() for letter in text):
        return ()
    return tuple(code for code, _ in py3langid.rank(text) if code in LANGUAGES)
