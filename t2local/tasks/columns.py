"""Which column of a table is what: the question, what belongs to it, the answer, the choices.

By the columns' usual names in several languages, else by what they hold, or as a person wants it. A
wrong guess is worse than asking: where it is unclear, `UnusableRows` says what each column looks
like. Knows nothing of files.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

from t2local.errors import T2LocalError
from t2local.tasks.benchmarks import Choices, fitted, sign_of, whole_number
from t2local.tasks.conversations import as_conversation, is_conversation, transcript, turns_of
from t2local.tasks.rewards import MOST_CHOICES
from t2local.tasks.rewards.programs import SETUP_COLUMNS, TEST_COLUMNS
from t2local.tasks.rows import Row, names, plain, shown, text_of, unpacked

# Names of columns, the surest first; case, spaces, `_` and `-` do not count.
PROMPT_NAMES = names("""prompt question instruction problem query input text user_prompt user_input
    user_message user_query question_text question_stem problem_statement goal ctx frage aufgabe
    pregunta domanda pergunta вопрос 问题 問題 質問 질문 السؤال soru vraag pytanie inputs q""")
ANSWER_NAMES = names("""
    answer ground_truth response output completion target solution answers answer_text
    correct_answer best_answer final_answer gold_answer expected_answer expected_output chosen
    possible_answers accepted_answers short_answers reference_answer correct_answers reply antwort
    lösung respuesta réponse risposta resposta ответ 答案 回答 答え 답변 답 الجواب cevap antwoord
    odpowiedź outputs targets gold ideal expected assistant canonical_solution reward_model a""")
LABEL_NAMES = names("""
    label labels class label_id class_index sentiment intent emotion kind category kategorie
    klasse stimmung étiquette etiqueta clase 标签 类别 метка класс""")
NAMES_OF_LABELS = names("label_text label_name text_label label_str class_name category_name")
# Names that are taken only beside their like, or where texts stand under them.
PAIRS = tuple(
    zip(
        names("premise sentence1 question1 text1 text_a sentence_a"),
        names("hypothesis sentence2 question2 text2 text_b sentence_b"),
        strict=True,
    )
)
TRANSFERS = tuple(
    zip(
        names("""source src src source_text user human article article article document dialogue
        text content message"""),
        names("""target tgt dst target_text assistant assistant highlights summary headline summary
        summary summary summary reply"""),
        strict=True,
    )
)
TEXT_NAMES = names("""
    message review comment sentence tweet email mail utterance body content post claim
    statement description document article dialogue passage premise headline title nachricht
    mensaje messaggio mensagem сообщение отзыв 内容 评论 文本 テキスト""")
CHAT_NAMES = names("messages conversations conversation dialog dialogue chat turns")
SYSTEM_NAMES = names("system system_prompt system_message system_instruction developer")
HISTORY_NAMES = names("history chat_history conversation_history dialog_history messages")
BEFORE_NAMES = names("""
    context passage article document paragraph background story support sentence sentence1
    premise contexts knowledge evidence facts excerpt reference_text kontext contexto contesto
    контекст 背景 上下文 文章""")
CHOICES = names("""choices options endings candidates alternatives answer_choices choice_list
    option_list mc1_targets target_scores choice multiple_choices possible_choices opciones
    optionen opzioni antwortmöglichkeiten 选项 варианты 選択肢""")
RIGHT = names("""label answer answer_key answer_idx answer_index answer_id correct_answer
    correct_option correct_choice correct_index correct_idx correct_answer_index correct_label
    correct cop gold gold_index gold_label right_answer right_option ans target solution key
    antwort respuesta réponse risposta resposta ответ 答案 正解 정답""")
WRONG = names("""incorrect_answers wrong_answers distractors distractor incorrect_answer
    wrong_answer falsche_antworten""")
_STEMS = (
    "",
    *names("""option opt op choice ch sol ending answer ans candidate alternative alt
    possibility mc_answer opción opcion opzione opção antwort choix réponse вариант 选项 選択肢
    보기"""),
)
_NUMBERED = re.compile(r"(.*?)([a-j]|\d{1,2})")
AFTER_NAMES = ("input",)  # alpaca's: the instruction comes first
HEADINGS = ("title", "subject", "betreff", "headline")  # of a text in a column of its own
BODIES = ("body", "text", "content", "selftext", "review", "message", "description")
MORE_ANSWERS = names("""answers aliases answer_aliases alternative_answers accepted_answers
    possible_answers correct_answers all_answers""")
# Say where a row is from or how it was made; never guessed to be an answer.
ABOUT_NAMES = names("""split subset source dataset domain task type id lang language locale level
    difficulty author user date year url license model version round rationale explanation hint
    ability data_source extra_info timestamp""")
USUAL_NAMES = frozenset(
    (*PROMPT_NAMES, *ANSWER_NAMES, *LABEL_NAMES, *TEXT_NAMES, *CHAT_NAMES, *SYSTEM_NAMES,
     *BEFORE_NAMES, *CHOICES, *RIGHT, *ABOUT_NAMES, *NAMES_OF_LABELS, "index", "name")
)  # fmt: skip
# A row with one of these can be scored without an answer.
ANSWERING_COLUMNS = ("label", "schema", *TEST_COLUMNS)
REWARD_COLUMNS = ("schema", *TEST_COLUMNS, *SETUP_COLUMNS, "entry_point")
ENOUGH, SAMPLE = 5, 1_000  # rows that are needed, and looked at, to guess what a column holds
SHOWN_KINDS = 6


class BadRow(NamedTuple):
    number: int
    reason: str


@dataclass(frozen=True)
class Wanted:
    """How a person wants a file read. "", None and () leave it to what the file holds.

    `context`: further columns that belong to the question, in order. `label_names`: what the labels
    0, 1, … mean. `without_header`: the first row is a row like the others; its columns are called
    "column 1", "column 2", …
    """

    encoding: str = ""
    prompt: str = ""
    answer: str = ""
    context: tuple[str, ...] | None = None
    label_names: tuple[str, ...] = ()
    without_header: bool = False


DETECTED = Wanted()


@dataclass(frozen=True)
class Table:
    """A file's rows before anybody knows what they ask: what a person chooses columns from.

    `rows`: all that could be read. `encoding`: of a text, "" for a spreadsheet or Parquet.
    `mapping`: the columns taken as `prompt` and `answer` as far as they are known, "" for none.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    encoding: str = ""
    mapping: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


class UnusableRows(T2LocalError):
    """The file is a table, but no examples came of it: another choice of columns may help.

    `bad_rows`: why each row could not be used; () where the columns are not known.
    """

    def __init__(self, message: str, table: Table, bad_rows: Sequence[BadRow] = ()) -> None:
        super().__init__(message)
        self.table, self.bad_rows = table, tuple(bad_rows)


@dataclass(frozen=True)
class Plan:
    """What each column is taken as.

    `chats`: columns of conversations. `before`: of turns before the question. `others`: of more
    right answers. `several`: whether a cell may hold more than one. `kinds`: what labels mean, from
    the number `first` where they are numbers. `own`: the rows are as this program wrote them.
    """

    prompt: str
    answer: str = ""
    chats: frozenset[str] = frozenset()
    before: tuple[str, ...] = ()
    system: str = ""
    context: tuple[str, ...] = ()
    titled: bool = False
    others: tuple[str, ...] = ()
    several: bool = True
    choices: Choices | None = None
    kinds: tuple[str, ...] = ()
    first: int | None = None
    own: bool = False

    @cached_property
    def used(self) -> frozenset[str]:
        """Columns that an example does not bring along as they are."""
        asked = (*self.chosen, self.prompt, self.answer, self.system)
        return frozenset((*asked, *self.before, *self.context, *self.others))

    @cached_property
    def asks_plainly(self) -> bool:
        """Whether a text in the prompt's column is all that is asked."""
        more = self.system or self.before or self.context
        return not more and not {self.prompt, self.answer} & self.chats

    @cached_property
    def answers_plainly(self) -> bool:
        """Whether a text in the answer's column is the answer."""
        return not (self.choices or self.kinds or self.others or self.answer in self.chats)

    @cached_property
    def chosen(self) -> tuple[str, ...]:
        return (*self.choices.columns, self.choices.right) if self.choices else ()


def own_plan(table: Table) -> Plan:
    """Rows that this program wrote: nothing is left to guess."""
    before = ("messages",) if "messages" in table.columns else ()
    others = ("answers",) if "answers" in table.columns else ()
    return Plan("prompt", "answer", before=before, others=others, several=False, own=True)


def plan_of(file: str, table: Table, wanted: Wanted) -> Plan:
    """Raises `UnusableRows` where a column is not there, or what is asked or right is unclear."""
    columns, rows = table.columns, [row.cells for row in table.rows]
    for name in (wanted.prompt, wanted.answer, *(wanted.context or ())):
        if name and name not in columns:
            raise UnusableRows(
                f"'{file}' has no column '{shown(name)}'; it has {_listed(columns)}: "
                "choose one of these.",
                table,
            )
    looks = _Looks(columns, rows[:: max(1, len(rows) // SAMPLE)])
    prompt, heading = (wanted.prompt, "") if wanted.prompt else _prompt(looks, wanted.answer)
    if not prompt:
        known = replace(table, mapping={"prompt": "", "answer": wanted.answer})
        raise _unclear(file, "prompt", known, looks)
    choices = find_choices(columns, looks.rows, prompt, wanted.answer)
    answer = wanted.answer or _answer(looks, prompt, choices)
    chats = frozenset(looks.chats)
    held = choices or prompt in chats or {*map(plain, ANSWERING_COLUMNS)} & set(looks.named)
    if not answer and not held:
        known = replace(table, mapping={"prompt": prompt, "answer": ""})
        raise _unclear(file, "answer", known, looks)
    plan = Plan(prompt, answer, chats, choices=choices)
    free = [c for c in columns if c not in plan.used]
    before = tuple(c for c in free if plain(c) in HISTORY_NAMES)
    system = _first([c for c in free if c not in chats], SYSTEM_NAMES)
    context = _context(free, prompt, heading, chats)
    if wanted.context is not None:
        context = tuple(c for c in wanted.context if c not in (prompt, answer))
    several = not {"schema", *map(plain, TEST_COLUMNS)} & set(looks.named)
    others = tuple(c for c in free if plain(c) in MORE_ANSWERS) if several and not choices else ()
    plan = replace(
        plan, before=before, system=system, context=context, others=others, several=several,
        titled=len(context) > 1 or any((plain(c), plain(prompt)) in PAIRS for c in context),
    )  # fmt: skip
    return plan if choices else _with_kinds(file, table, plan, wanted)


def _prompt(looks: "_Looks", answer: str) -> tuple[str, str]:
    """The column that asks, and the one with what stands above it; "" where it is unclear."""
    columns = [c for c in looks.columns if c != answer]
    named = looks.named
    chats = [c for c in looks.chats if plain(c) not in ("rejected", *HISTORY_NAMES[:-1])]
    chat = _first(chats, (*CHAT_NAMES, "chosen")) or next(iter(chats), "")
    by_name = _first(columns, PROMPT_NAMES)
    if chat and not (by_name and by_name != chat and (answer or _first(columns, ANSWER_NAMES))):
        return chat, ""
    if by_name:
        return by_name, ""
    for first, second in (*PAIRS, *TRANSFERS):
        if first in named and second in named:
            pair = (first, second) in PAIRS
            return (named[second], named[first]) if pair else (named[first], "")
    texts = [c for c in columns if looks.at(c).kind in ("texts", "few", "ids")]
    found = _first(texts, TEXT_NAMES)
    if found and (plain(found) not in HEADINGS or len(texts) <= 2):
        return found, ""
    longest = sorted((c for c in columns if looks.at(c).kind == "texts"), key=looks.length)
    if len(looks.rows) < ENOUGH or not longest:
        return "", ""
    clear = len(longest) == 1 or looks.length(longest[-1]) > 2 * looks.length(longest[-2])
    return (longest[-1] if clear else ""), ""


def _answer(looks: "_Looks", prompt: str, choices: Choices | None) -> str:
    """The column that is right, "" where it is unclear or a conversation holds it."""
    offered = choices.columns if choices else ()
    columns = [c for c in looks.columns if c != prompt and c not in offered]
    by_name = _first(columns, ANSWER_NAMES)
    if choices and not (plain(choices.right) == "label" and by_name):
        return choices.right
    if by_name or choices or looks.answered(prompt):
        return by_name
    for first, second in TRANSFERS:
        if first == plain(prompt) and second in looks.named:
            return looks.named[second]
    labels = [c for c in columns if plain(c) in (*LABEL_NAMES, *NAMES_OF_LABELS)]
    if "label" in map(plain, labels) or len(labels) == 1:
        return _first(labels, LABEL_NAMES) or labels[0]
    if (tested := {*map(plain, REWARD_COLUMNS)} & set(looks.named)) or len(looks.rows) < ENOUGH:
        return looks.named.get("code", "") if tested else ""
    known = {*ABOUT_NAMES, *SYSTEM_NAMES, *HISTORY_NAMES, *BEFORE_NAMES, *AFTER_NAMES}
    columns = [c for c in columns if plain(c) not in known]
    # Without a header there are no names to go by: a number beside the question is its answer.
    kinds = ("few", "texts", "numbers") if "column 1" in looks.columns else ("few", "texts")
    found = ([c for c in columns if looks.at(c).kind == kind] for kind in kinds)
    clear: Sequence[str] = next(filter(None, found), ())
    return clear[0] if len(clear) == 1 else ""


def _context(
    free: Sequence[str], prompt: str, heading: str, chats: Iterable[str]
) -> tuple[str, ...]:
    """Further columns of the question by their names, in order; those after it come last."""
    if prompt in chats:
        return ()
    above = (*BEFORE_NAMES, *(HEADINGS if plain(prompt) in BODIES else ()))
    before = [c for c in free if plain(c) in above or c == heading]
    after = [c for c in free if plain(c) in AFTER_NAMES]
    return tuple(c for c in (*before, *after) if c not in chats)


def find_choices(
    columns: Sequence[str], rows: Sequence[Mapping[str, Any]], prompt: str, right: str = ""
) -> Choices | None:
    """How a table writes its choices; None where it has none. `right`: chosen by a person."""
    named = {plain(c): c for c in reversed(columns) if c != prompt}
    golds = [right] if right else [named[name] for name in RIGHT if name in named]
    wrong = tuple(c for n, c in named.items() if n.rstrip("0123456789") in WRONG)[::-1]
    if wrong and "correctanswers" not in named:
        said = [c for c in golds if right or plain(c) in ("correctanswer", "answer", "rightanswer")]
        return Choices(wrong, said[0], wrong=True) if said else None
    listed = next((named[name] for name in CHOICES if name in named), "")
    if not listed and "label" in named:
        listed = named.get("answers", "")  # ReClor
    sign = sign_of([row.get(listed) for row in rows]) if listed else ""
    found = [
        fitted(Choices(chosen, gold, sign=sign), rows)
        for chosen in ([(listed,)] if listed else _numbered(columns, prompt))
        for gold in [g for g in golds if g not in chosen] or [""]
    ]
    fits, best = max(found, key=lambda one: one[0], default=(0.0, None))  # the first of equals
    return best if fits > 0.5 or (listed and best and best.right) else None


def _numbered(columns: Sequence[str], prompt: str) -> list[tuple[str, ...]]:
    """Sets of columns that hold a choice each: A to D, option1 and option2, ending0 to ending3."""
    stems: dict[tuple[str, bool], dict[str, str]] = {}
    for column in columns:
        match = _NUMBERED.fullmatch(plain(column))
        if match and match[1] in _STEMS and column != prompt:
            stems.setdefault((match[1], match[2].isdigit()), {})[match[2]] = column
    sets = []
    for (stem, digits), found in stems.items():
        order = sorted(found, key=lambda name: int(name) if digits else ord(name))
        first = order[0] in ("a", "0", "1") and len(order) >= (3 if digits and not stem else 2)
        last = (int(order[-1]) - int(order[0]) if digits else ord(order[-1]) - ord("a")) + 1
        if first and last == len(order):
            sets.append(tuple(found[name] for name in order))
    return sets


def _with_kinds(file: str, table: Table, plan: Plan, wanted: Wanted) -> Plan:
    """Labels as kinds, of which one is right. Raises `UnusableRows` for numbers without names."""
    labelled = plain(plan.answer) in (*LABEL_NAMES, *NAMES_OF_LABELS)
    if not labelled and not wanted.label_names:
        return plan
    cells = [row.cells.get(plan.answer) for row in table.rows]
    values = [cell for cell in cells if text_of(cell) and whole_number(cell) != -1]
    by_name = plain(plan.answer) in NAMES_OF_LABELS and not wanted.label_names
    if by_name or not values or any(whole_number(value) is None for value in values):
        kinds = sorted({text_of(value) for value in values})
        listed = wanted.label_names if set(kinds) <= set(wanted.label_names) else kinds
        return replace(plan, kinds=tuple(listed) if 2 <= len(kinds) <= MOST_CHOICES else ())
    numbers = sorted({whole_number(value) for value in values})
    named = _first([c for c in table.columns if c not in (plan.prompt, *plan.context)],
                   NAMES_OF_LABELS)  # fmt: skip
    if named and not wanted.label_names and named not in (wanted.answer, plan.answer):
        return _with_kinds(file, table, replace(plan, answer=named), replace(wanted, answer=named))
    if not wanted.label_names:
        listed = [str(number) for number in numbers]
        said = ", ".join(listed[:5]) + ", …" if len(listed) > 6 else _spoken(listed)
        raise UnusableRows(
            f"In '{file}' the labels are the numbers {said}; name them, as in: negative, positive.",
            replace(table, mapping={"prompt": plan.prompt, "answer": plan.answer}),
        )
    first = 1 if numbers[0] > 0 and numbers[-1] == len(wanted.label_names) else 0
    return replace(plan, kinds=wanted.label_names, first=first)


def _unclear(file: str, what: str, table: Table, looks: "_Looks") -> UnusableRows:
    seen = ", ".join(f"'{shown(c, 10)}' holds {looks.at(c).words}" for c in table.columns[:4])
    return UnusableRows(
        f"'{file}' has no column for the {what}; it has {_listed(table.columns)}: "
        f"name one '{what}', or choose which column it is ({seen}).",
        table,
    )


def _first(columns: Iterable[str], wanted: Sequence[str]) -> str:
    """The column whose name stands first among those `wanted`; "" where there is none."""
    spelled = {plain(column): column for column in reversed(list(columns))}
    return next((spelled[name] for name in wanted if name in spelled), "")


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(f"'{shown(name, 20)}'" for name in columns[:8]) or "no columns"


def _spoken(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


# --- What a column looks like.


class _Look(NamedTuple):
    """`kind`: texts, few, numbers, counting, ids, links, dates, chats, lists or nothing."""

    kind: str
    words: str


_FORMS = {
    "links": re.compile(r"(https?://|www\.)\S+"),
    "dates": re.compile(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}([T ][\d:.]+\S*)?"),
    "ids": re.compile(r"(?=\S*\d)[\w./#:-]+"),
}


class _Looks:
    """What some rows of a table hold, column by column, as far as it is asked for."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        self.columns, self.rows = columns, rows
        self.named = {plain(column): column for column in reversed(columns)}
        self._seen: dict[str, _Look] = {}

    @cached_property
    def chats(self) -> list[str]:
        """Columns whose cells are conversations, by what they hold."""
        return [c for c in self.columns if self._talks(c)]

    def _talks(self, column: str) -> bool:
        """Not every row: one that is damaged is refused for its own reason."""
        cells = [v for row in self.rows if (v := row.get(column)) not in (None, "", [])][:100]
        named = plain(column) in (*CHAT_NAMES, "history")
        told = ({*ANSWER_NAMES, *LABEL_NAMES} - {"chosen"}) & self.named.keys()
        if not told and (named or plain(column) in ("chosen", "text")):
            cells = [turns if (turns := transcript(cell)) else cell for cell in cells]
        packed = [
            c for c in cells if isinstance(c, list | dict) or str(c).lstrip().startswith(("[", "{"))
        ]
        talking = sum(map(is_conversation, packed))
        lists = named and any(isinstance(cell, list) for cell in packed)
        return (
            bool(packed) and len(packed) * 2 >= len(cells) and (talking * 2 > len(packed) or lists)
        )

    def answered(self, column: str) -> bool:
        """Whether it holds conversations of which some end with an answer."""
        if column not in self.chats:
            return False
        for row in self.rows[:20]:
            try:
                if as_conversation(turns_of(row.get(column))).answer:
                    return True
            except ValueError:
                continue
        return False

    def length(self, column: str) -> float:
        """The mean number of characters."""
        texts = [text_of(row.get(column)) for row in self.rows]
        return sum(map(len, texts)) / max(1, len(texts))

    def at(self, column: str) -> _Look:
        if column not in self._seen:
            self._seen[column] = self._look(column)
        return self._seen[column]

    def _look(self, column: str) -> _Look:
        if column in self.chats:
            return _Look("chats", "conversations")
        cells = [v for row in self.rows if text_of(v := row.get(column))]
        if not cells:
            return _Look("nothing", "nothing")
        if all(isinstance(unpacked(cell), list | dict) for cell in cells):
            return _Look("lists", "lists or objects")
        texts = [text_of(cell) for cell in cells]
        kinds = Counter(texts)
        numbers = [number for text in texts if (number := _number(text)) is not None]
        if len(numbers) == len(texts):
            steps = {after - before for before, after in pairwise(numbers)}
            counting = steps == {1.0}
            return _Look("counting", "a count") if counting else _Look("numbers", "numbers")
        for kind, form in _FORMS.items():
            if all(form.fullmatch(text) for text in texts):
                return _Look(kind, kind)
        if 2 <= len(kinds) <= min(MOST_CHOICES, len(texts) // 2):
            return _Look("few", f"{len(kinds)} kinds ({listed_kinds(sorted(kinds))})")
        mean = round(sum(map(len, texts)) / len(texts))
        return _Look("texts", f"texts of about {mean} characters")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def listed_kinds(kinds: Iterable[str]) -> str:
    """The first of them, for a sentence."""
    listed = list(kinds)
    more = ", …" if len(listed) > SHOWN_KINDS else ""
    return ", ".join(shown(kind, 20) for kind in listed[:SHOWN_KINDS]) + more
