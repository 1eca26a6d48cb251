"""Words and choices in many scripts: what was said, and what it is worth."""

import pytest

from t2local.tasks.rewards import REWARDS

# fmt: off
WORDS = [
    ('contains', '-5', '10-5', -1),
    ('contains', '-5', 'It is -5.', 1),
    ('contains', 'cat', 'concatenate', -1),
    ('contains', 'Paris', "Paris's streets", 1),
    ('contains', 'Paris', 'Parisian', -1),
    ('contains', 'C++', 'C++.', 1),
    ('contains', 'C#', 'I like C#!', 1),
    ('contains', '.NET', 'Use .NET 8', 1),
    ('contains', 'C', 'Use C++', -1),
    ('contains', 'C', 'Use C.', 1),
    ('contains', '서울', '서울은 수도', 1),
    ('contains', '서울', '서울에서', 1),
    ('contains', '서울', '서울대학교', -1),
    ('contains', '서울', '서울특별시입니다', 1),
    ('contains', '사과', '사과나무', -1),
    ('contains', '사과', '사과를 먹었다', 1),
    ('contains', '北京', '北京大学', 1),
    ('contains', '東京', '首都は東京です', 1),
    ('contains', 'ヴィエンチャン', '首都はヴィエンチャンです', 1),
    ('contains', 'ກຸງວຽງຈັນ', 'ນະຄອນຫຼວງແມ່ນກຸງວຽງຈັນ', 1),
    ('contains', 'ភ្នំពេញ', 'រាជធានីគឺភ្នំពេញ។', 1),
    ('contains', 'နေပြည်တော်', 'မြို့တော်မှာနေပြည်တော်ဖြစ်သည်', 1),
    ('contains', 'القاهرة', 'العاصمة هي القاهرة.', 1),
    ('contains', 'القاهرة', 'في القاهرة', 1),
    ('contains', 'كتاب', 'هذا الكتاب', 1),
    ('contains', 'مصر', 'بمصر', 1),
    ('contains', 'كتاب', 'كتابة', -1),
    ('contains', 'كَتَبَ', 'كتب', 1),
    ('contains', 'القاهرة', 'للقاهرة', 1),
    ('contains', 'ירושלים', 'בירושלים', 1),
    ('contains', 'שלום', 'שָׁלוֹם', 1),
    ('contains', 'דגל', 'מדגלים', -1),
    ('contains', 'दिल्ली', 'राजधानी दिल्ली है।', 1),
    ('contains', 'दिल', 'दिल्ली', -1),
    ('contains', 'नई दिल्ली', 'नई दिल्ली।', 1),
    ('contains', 'café', 'café', 1),
    ('contains', 'Ankara', "Ankara'da", 1),
    ('contains', 'İstanbul', 'istanbul', 1),
    ('contains', 'Istanbul', 'İSTANBUL', 1),
    ('contains', '5', '3.5 km', -1),
    ('contains', '5', '5 km', 1),
    ('contains', '5', '-5', -1),
    ('contains', '5', '1,500', -1),
    ('contains', '10', '10 000', -1),
    ('contains', '10 000', '10\u202f000', 1),
    ('contains', '5', '15', -1),
    ('contains', '5', '5.', 1),
    ('contains', '2024', '2024-05-01', 1),
    ('contains', 'Москва', 'Столица — Москва.', 1),
    ('contains', 'Москва', 'Москвабад', -1),
    ('contains', 'Paris', '答案是Paris。', 1),
    ('contains', 'ﬁre', 'fire', 1),
    ('contains', "don't", 'don’t', 1),
    ('contains', 'ｃａｔ', 'a cat', 1),
    ('contains', 'naïve', 'NAÏVE', 1),
    ('contains', 'Athens', 'In Athens', 1),
    ('contains', 'Αθήνα', 'ΑΘΗΝΑ', 1),
    ('exact', 'Paris', '“Paris”', 1),
    ('exact', 'Paris', '「Paris」', 1),
    ('exact', '10 000', '10\xa0000', 1),
    ('exact', 'well-known', 'well‑known', 1),
    ('exact', 'ab', 'a\u200bb', 1),
    ('exact', '½', '½', 1),
    ('exact', 'x²', 'x2', -1),
    ('exact', '①', '1', -1),
    ('exact', 'ﬁ', 'fi', 1),
    ('exact', '１２３', '123', 1),
    ('exact', '٤٢', '42', 1),
    ('exact', '2*3', '23', -1),
    ('exact', 'a_b', 'ab', -1),
    ('exact', 'a_b', '`a_b`', 1),
    ('exact', '.NET', '.net', 1),
    ('exact', 'C#', 'C#', 1),
    ('exact', 'C++', 'C++.', 1),
    ('exact', 'Hello, world', 'Hello，world', -1),
    ('exact', 'yes', 'YES!!!', 1),
    ('exact', '5!', '5', -1),
    ('exact', '你好。', '你好', 1),
    ('exact', 'Fußball', 'FUSSBALL', 1),
    ('exact', '?', '?', 1),
    ('exact', '!', '!', 1),
    ('exact', 'Ρ', 'ρ', 1),
    ('exact', 'a', 'b', -1),
    ('exact', 'Paris', '***Paris***', 1),
    ('exact', 'Paris', '__Paris__', 1),
    ('exact', 'Paris', '# Paris', 1),
    ('exact', 'हाँ', 'हाँ।', 1),
    ('exact', '5', '５。', 1),
    ('exact', '-5', '−5', 1),
    ('exact', '−5', '5', -1),
    ('exact', '["yes","y"]', 'y', 1),
    ('exact', "['yes' 'y']", 'y', 1),
    ('exact', '[\'yes\', "it\'s"]', 'it’s', 1),
    ('exact', ['yes', 'y'], 'y', 1),
    ('exact', '["yes","y"]', 'n', -1),
    ('exact', 'Paris', '<thinking>Rome</thinking>Paris', 1),
    ('exact', 'Paris', 'Rome</think>Paris', 1),
    ('exact', 'Paris', '<think>Paris', -1),
    ('exact', 'Paris', '<answer>Paris</answer>', 1),
    ('regex', '.*', '<think>x', -1),
    ('regex', ['a', 'b'], 'b', 1),
    ('regex', '["\'a]', 'a', 1),
]
CITIES = ["Oslo", "Paris", "Bern", "Riga"]
CHOICES = [
    ('B', 'b.', 1),
    ('B', 'Ｂ', 1),
    ('B', '(b)', 1),
    ('B', 'B: Paris', 1),
    ('B', 'B) Oslo', -1),
    ('B', 'The answer is B', 1),
    ('B', 'the answer is b', 1),
    ('B', 'Answer: (B) Paris', 1),
    ('B', 'Answer: A or B', -1),
    ('B', 'A or B', -1),
    ('B', 'A, B', -1),
    ('B', 'A and B', -1),
    ('B', 'not A, but B', 1),
    ('B', 'The answer is not A. It is B.', 1),
    ('B', 'A is wrong. The answer is B.', 1),
    ('B', 'A is wrong; B.', 1),
    ('B', 'A is incorrect, so B', 1),
    ('B', '答案是B', 1),
    ('B', '答案：B。', 1),
    ('B', '答案为（B）', 1),
    ('B', '选择B', 1),
    ('B', '我选B', 1),
    ('B', '选项B正确', 1),
    ('B', '正解はBです', 1),
    ('B', '答えはB', 1),
    ('B', '정답은 B입니다', 1),
    ('B', '정답: B', 1),
    ('B', 'Ответ: B', 1),
    ('B', 'Die Antwort ist B.', 1),
    ('B', 'Antwort: B', 1),
    ('B', 'La réponse est B.', 1),
    ('B', 'La respuesta es B', 1),
    ('B', 'A resposta é B', 1),
    ('B', 'الإجابة هي B', 1),
    ('B', 'คำตอบคือ B', 1),
    ('B', 'Đáp án là B', 1),
    ('B', 'उत्तर B है', 1),
    ('B', '\\boxed{B}', 1),
    ('B', '\\boxed{\\text{B}}', 1),
    ('B', '\\boxed{Paris}', 1),
    ('B', '$B$', 1),
    ('B', '**B**', 1),
    ('B', 'Option B is correct.', 1),
    ('B', 'I choose B.', 1),
    ('B', 'I would go with B', 1),
    ('B', 'B because it is the capital', 1),
    ('B', 'Paris', 1),
    ('B', 'It is Paris.', 1),
    ('B', 'It is not Oslo, it is Paris.', 1),
    ('B', 'Oslo or Paris', -1),
    ('B', 'Oslo', -1),
    ('B', 'The answer is Paris.', 1),
    ('B', 'The capital of Norway is Oslo. The answer is Paris.', 1),
    ('B', 'A) Oslo\nB) Paris\nC) Bern\nD) Riga\n\nB', 1),
    ('B', 'A) Oslo\nB) Paris\nC) Bern\nD) Riga\n\nThe answer is B.', 1),
    ('B', 'A) Oslo\nB) Paris\nC) Bern\nD) Riga', -1),
    ('B', 'B\n\nA is Oslo, which is in Norway.', 1),
    ('B', 'The answer is A. No, wait, the answer is B.', 1),
    ('B', 'The answer is A. The answer is B.', -1),
    ('B', 'I think so.', -1),
    ('B', 'A dog', -1),
    ('B', '', -1),
    ('B', 'Both A and B', -1),
    ('B', 'C', -1),
    ('B', '<think>A', -1),
    ('B', 'E', -1),
    ('B', "I'd say B", 1),
    ('B', 'B!', 1),
    ('B', 'It must be option (B).', 1),
    ('1', 'B', 1),
    ('1', 'Oslo', -1),
    ('Paris', 'B', 1),
    ('(B)', 'B', 1),
    ('B.', 'Paris', 1),
    ('B) Paris', 'Paris', 1),
    ('b', 'B', 1),
    ('B', 'The correct answer is option B: Paris', 1),
    ('B', 'Final Answer: **B**', 1),
    ('B', 'The answer is (B), not (A).', 1),
    ('B', "It's B", 1),
]
NUMBERED = {"text": CITIES, "label": ["1", "2", "3", "4"]}
FURTHER = [
    (NUMBERED, "2", "2", 1), (NUMBERED, "2", "Paris", 1), (NUMBERED, "2", "The answer is 2.", 1),
    (NUMBERED, "2", "(2)", 1), (NUMBERED, "2", "2) Paris", 1), (NUMBERED, "2", "1", -1),
    (NUMBERED, "2", "12", -1), (NUMBERED, "2", "2.5", -1),
    (["yes", "no"], "yes", "Yes, there is no doubt.", 1),
    (["yes", "no"], "no", "Yes, there is no doubt.", -1),
    (["guilty", "not guilty"], "not guilty", "He is not guilty.", 1),
    (["guilty", "not guilty"], "guilty", "He is not guilty.", -1),
    (["vitamin A", "vitamin C", "vitamin B", "none"], "B", "It is vitamin C.", 1),
    (["猫", "狗"], "狗", "是狗。", 1), (["B", "A"], "B", "A", -1),
    (["positive", "negative"], "positive", "**Positive**", 1),
    (["positive", "negative"], "negative", "The sentiment is negative.", 1),
    (["1", "2", "3", "4"], "3", "The answer is 3.", 1), (["10", "20"], "B", "The result is 20.", 1),
    (["2", "2.5"], "A", "2.5", -1), (CITIES, "1", "1", 1),
    (["a cat", "a dog"], "B", "the answer is a dog", 1),
    ([], "B", "The answer is B.", 1), ([], "B", "A", -1),
]
# fmt: on
LENGTHS = [
    ("3", "今天很好", 1 / 3),
    ("5", "今天，很好。", 1),
    ("4", "สวัสดี", 1),
    ("2", "서울은 수도입니다", 1),
    ("2", "well-known fact", 1),
    ("2", "one — two", 1),
    ("2", "one—two", 1),
    ("1", "👍", 1),
    ("2–4", "one two", 1),
    ("2~4", "one", 0),
    ("2", "<think>a b c d e</think>one two", 1),
    ("2", "<think>a b", -1),
    (["1", "3"], "one two three", 1),
]


def reward(name, completion, **row):
    columns = {key: [value] for key, value in row.items()}
    return REWARDS[name](["?"], [completion], **columns)[0]


@pytest.mark.parametrize(("name", "answer", "completion", "worth"), WORDS)
def test_words_of_any_script(name, answer, completion, worth):
    assert reward(name, completion, answer=answer) == worth


@pytest.mark.parametrize(("answer", "completion", "worth"), CHOICES)
def test_a_choice_named_in_any_language(answer, completion, worth):
    assert reward("choice", completion, answer=answer, choices=CITIES) == worth
    lettered = {"text": CITIES, "label": list("ABCD")}
    assert reward("choice", completion, answer=answer, choices=lettered) == worth


@pytest.mark.parametrize(("choices", "answer", "completion", "worth"), FURTHER)
def test_choices_of_other_kinds(choices, answer, completion, worth):
    assert reward("choice", completion, answer=answer, choices=choices) == worth


@pytest.mark.parametrize(("label", "worth"), [(1, 1), ("1", 1), ("B", 1), (1.0, 1), (0, -1)])
def test_a_label_is_an_index_or_a_letter(label, worth):
    assert reward("choice", "Paris", choices=CITIES, label=label) == worth


@pytest.mark.parametrize(("answer", "completion", "worth"), LENGTHS)
def test_lengths_of_any_script(answer, completion, worth):
    assert reward("length", completion, answer=answer) == pytest.approx(worth)


@pytest.mark.parametrize("name", ["exact", "contains", "choice", "regex"])
def test_any_accepted_answer_is_right(name):
    row = {"choices": CITIES} if name == "choice" else {}
    for several in (["Paris", "Oslo"], ("Paris", "Oslo")):
        worth = [reward(name, said, answer=several, **row) for said in ("Oslo", "Bern")]
        assert worth == [1, -1]
    assert reward(name, "Oslo", answer="Paris", answers=["Paris", "Oslo"], **row) == 1
    assert reward(name, "Oslo", answer=None, answers={"text": ["Oslo"]}, **row) == 1
    assert reward(name, "Oslo", answer=["", None], **row) is None


@pytest.mark.parametrize(
    ("choices", "right", "completion", "worth"),
    [
        (["yes", "no"], "yes", "yes or no", -1),
        (["yes", "no"], "yes", "yes/no", -1),
        (["yes", "no"], "yes", "Yes, there is no doubt.", 1),
        (["positive", "negative"], "positive", "never positive", -1),
        (["猫", "鸟"], "B", "不选B", -1),
        (["猫", "鸟"], "B", "我选B", 1),
    ],
)
def test_what_is_denied_or_left_open_is_no_choice(choices, right, completion, worth):
    assert REWARDS["choice"](["?"], [completion], choices=[choices], answer=[right]) == [worth]
