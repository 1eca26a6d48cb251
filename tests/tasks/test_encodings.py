"""Files of a few short rows are read in the encoding in which they were written."""

import pytest

from t2local.errors import T2LocalError
from t2local.tasks.encodings import _JUDGES, ENCODINGS, decoded
from t2local.tasks.files import Wanted, read_examples

WESTERN = "cp1252 mac-roman"
CENTRAL = "cp1250 iso8859-2"
CYRILLIC = "cp1251 koi8-r cp866 iso8859-5"
TEXTS = {  # language: encodings, the first row, more of them
    "German": ("cp1252 mac-roman cp850", "Wie heißt die größte Stadt?,Köln", "Grüße,schön"),
    "French": (WESTERN, "Où est né le père de Molière ?,à Paris", "Ça va ?,très bien"),
    "Spanish": (WESTERN, "¿Cuál es la capital de España?,Madrid", "mañana,sí"),
    "Portuguese": ("cp1252", "Qual é a informação?,não sei", "coração,pão"),
    "Italian": ("cp1252", "Qual è la città più grande?,Roma", "perché,così"),
    "Swedish": ("cp1252", "Vad heter huvudstaden på engelska?,här", "å ä ö,öl"),
    "Danish": ("cp1252", "Hvad er Danmarks største ø?,Sjælland", "rødgrød,fløde"),
    "Polish": (CENTRAL, "Ile kosztuje książka?,pięć złotych", "dziękuję,proszę"),
    "Czech": (CENTRAL, "Jaké je hlavní město Řecka?,Athény", "kůň,říše"),
    "Hungarian": (CENTRAL, "Mi Magyarország fővárosa?,ötszáz", "hűtő,időjárás"),
    "Croatian": ("cp1250", "Gdje živiš sada?,u Šibeniku", "đak uči,čaša"),
    "Turkish": ("cp1254", "Türkiye'nin başkenti neresidir?,Ankara", "ığdır,ağaç"),
    "Russian": (CYRILLIC, "Сколько стоит эта книга?,сто рублей", "спасибо,пожалуйста"),
    "Russian without capitals": (CYRILLIC, "какого цвета небо,синее", "трава,зелёная"),
    "Russian in capitals": (CYRILLIC, "СКОЛЬКО СТОИТ ЭТА КНИГА?,СТО РУБЛЕЙ", "СПАСИБО,НЕТ"),
    "pounds": ("cp1252", "What is it?,£5 or so", "and that?,£7"),
    "euros": ("cp1252", "Was kostet es?,5 €", "und das?,7 €"),
    "Japanese of mails": ("iso2022_jp", "この本はいくらですか,五百円", "東京,日本"),
    "Ukrainian": ("cp1251 koi8-u", "Столиця України?,Київ", "дякую,будь ласка"),
    "Greek": ("cp1253", "Ποια είναι η πρωτεύουσα;,Παρίσι", "πόσο κοστίζει,πέντε ευρώ"),
    "Hebrew": ("cp1255", "כמה זה עולה?,חמישה שקלים", "מהי הבירה,פריז"),
    "Arabic": ("cp1256 iso8859-6", "ما هي عاصمة فرنسا؟,باريس", "كم ثمن الكتاب؟,خمسة"),
    "Thai": ("cp874", "เมืองหลวงของฝรั่งเศสคืออะไร,ปารีส", "ราคาเท่าไร,ห้าบาท"),
    "Chinese": ("gbk gb18030", "这个产品质量很好,正面", "快递太慢了,负面"),
    "Chinese of Taiwan": ("big5", "請問這本書多少錢,五十元", "品質很好,正面"),
    "Japanese": ("shift_jis cp932 euc-jp", "この本はいくらですか,五百円", "東京,日本"),
    "Japanese without kana at first": ("cp932 euc-jp", "電池が二日で切れた,否定", "最高,肯定"),
    "Korean": ("euc-kr cp949", "배송이 너무 느려요,부정", "품질이 좋아요,긍정"),
}
CASES = [(language, codec) for language, (codecs, *_) in TEXTS.items() for codec in codecs.split()]


@pytest.mark.parametrize("rows", [1, 2], ids=["one row", "two rows"])
@pytest.mark.parametrize(("language", "codec"), CASES)
def test_one_short_row_is_enough(language, codec, rows):
    text = "\r\n".join(["question,answer", *TEXTS[language][1 : rows + 1]]) + "\r\n"
    found = decoded("a.csv", text.encode(codec))
    assert found.text == text
    assert found.guessed
    assert found.note.startswith("Read as ")


@pytest.mark.parametrize("codec", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-8-sig"])
def test_what_tells_itself_needs_no_guess(codec):
    text = "prompt,answer\nGrüße 日本,né\n" * 30
    found = decoded("a.csv", text.encode(codec))
    assert (found.text.lstrip("\ufeff"), found.note) == (text, "")


def test_a_few_damaged_bytes_leave_the_rest_of_a_text_alone():
    content = bytearray("Größe, Maß und Übergröße,schön\n".encode() * 9)
    content[1:2] = b"\xff"
    found = decoded("a.csv", bytes(content))
    assert found.encoding == "utf-8"
    assert found.text.count("ö") > 20
    assert found.text.count("\ufffd") == 1


def test_a_person_knows_better_than_the_guess(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes("prompt,answer\nKâ sauc,Rîga\n".encode("cp1252"))
    assert read_examples(path).examples[0].answer == "Rîga"
    baltic = read_examples(path, Wanted(encoding="cp1257"))
    assert (baltic.examples[0].answer, baltic.encoding) == ("Rīga", "cp1257")
    assert "Read as" not in baltic.note


REFUSED = {
    "no encoding": ("utf-88", "There is no encoding 'utf-88' of text"),
    "an escape": ("unicode_escape", "There is no encoding 'unicode_escape' of text"),
    "no text": ("rot13", "There is no encoding 'rot13' of text"),
    "no text either": ("base64", "There is no encoding 'base64' of text"),
    "other bytes": ("ascii", "'a.csv' is not all ascii: line 2 has a byte"),
    "half of a pair": ("gb18030", "'a.csv' is not all gb18030: line 2"),
}


@pytest.mark.parametrize(("codec", "words"), REFUSED.values(), ids=REFUSED)
def test_what_the_chosen_encoding_does_not_have_is_refused_with_its_line(codec, words):
    with pytest.raises(T2LocalError, match=words) as caught:
        decoded("a.csv", "prompt,answer\ncafé".encode("cp1252"), codec)
    assert "choose" in str(caught.value)


def test_what_is_offered_decodes_and_is_told_by_its_words():
    codecs = [codec for codec, _ in ENCODINGS]
    assert {*_JUDGES, "utf-8", "utf-16"} == set(codecs)
    assert len({words for _, words in ENCODINGS}) == len(codecs)
    for codec in codecs:
        assert decoded("a.csv", "plain".encode(codec), codec).text == "plain"
