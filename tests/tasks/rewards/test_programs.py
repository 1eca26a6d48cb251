"""Programs as models write them: what surrounds a program decides nothing, its tests decide."""

import pytest

from t2local.errors import T2LocalError
from t2local.tasks.rewards import REWARDS, check_reward, programs
from t2local.tasks.rewards.programs import extract_program, fenced_blocks
from t2local.tasks.rows import Example
from t2local.tasks.uploads import suggest_reward

GOOD = "def f(x):\n    return x + 1"
BAD = "def f(x):\n    return x - 1"
ADD = {"tests": ["assert f(1) == 2", "assert f(2) == 3"], "entry_point": "f"}
BY_NAME = {"tests": ADD["tests"]}


def reward(completion, prompt="?", **row):
    columns = {key: [value] for key, value in row.items()}
    return REWARDS["code"]([prompt], [completion], **columns)[0]


def outcome(completion, **row):
    return programs.outcomes(["?"], [completion], **{k: [v] for k, v in row.items()})[0]


def fenced(source, language="python", mark="```"):
    return f"{mark}{language}\n{source}\n{mark}"


def indented(source, by):
    return "\n".join(by + line for line in source.splitlines())


USE = "print(f(1))"
FENCES = {
    "the last that defines it": f"{fenced(BAD)}\nBetter:\n{fenced(GOOD)}\nUse it:\n{fenced(USE)}",
    "output below": f"{fenced(GOOD)}\n{fenced('def f(x): return 0', 'text')}",
    "output of many names": f"{fenced(GOOD)}\n{fenced('f(1)', 'console')}\n{fenced('2', 'output')}",
    "output without a name": f"{fenced(GOOD)}\n{fenced('[2, 3]', '')}",
    "another language": f"{fenced('def f(x) { return x }', 'javascript')}\n{fenced(GOOD)}",
    "never closed": f"Here:\n```python\n{GOOD}\n",
    "never closed, prose below": f"Here:\n```python\n{GOOD}\n\nIt adds one, doesn't it?",
    "only closed": f"{GOOD}\n```",
    "only closed, prose around": f"Here you are:\n\n{GOOD}\n```\nIt adds one.",
    "closed at the end of a line": f"```python\n{GOOD}```\nIt adds one.",
    "closed by a longer one": f"```python\n{GOOD}\n````\nIt adds one.",
    "tildes": fenced(GOOD, "python", "~~~"),
    "four": f"````python\n{GOOD}\n````",
    "in a list": f"1. Write it:\n\n   ```python\n{indented(GOOD, '   ')}\n   ```\n2. Done",
    "beside a list's mark": f"- ```python\n{indented(GOOD, '  ')}\n  ```",
    "in a quote": f"> Here:\n> ```python\n{indented(GOOD, '> ')}\n> ```\n> Done.",
    "in a quote in a list": f"* > ```py\n{indented(GOOD, '  > ')}\n  > ```",
    "in one line": "Use ```python f = lambda x: x + 1```.",
    "in single marks": "It is `f = lambda x: x + 1`, that is all.",
    "carriage returns": f"Here:\n{fenced(GOOD)}\nDone.".replace("\n", "\r\n"),
    "bare carriage returns": f"Here:\n{fenced(GOOD)}\nDone.".replace("\n", "\r"),
    "half a program below": f"{fenced(GOOD)}\n{fenced('def f(x):', '')}",
    "a second fence that is broken": f"{fenced(GOOD)}\n```python\nprint(f(",
    **{
        f"called {name}": fenced(GOOD, name)
        for name in ("Python", "PY", "py3", "python3.12", "{python}", "{.python .numberLines}",
                     "python title=f.py", "python:f.py", "ipython3", " python")
    },
}  # fmt: skip
SESSION = ">>> def f(x):\n...     return x + 1\n...\n>>> f(1)\n2\n>>> f('a')\nTraceback: no\n"
PROSE = {
    "prose around": f"Sure, here is the code:\n\n{GOOD}\n\nThis function adds one. It's simple.",
    "words that parse around": f"Sure\n\n{GOOD}\n\nDone",
    "indented": f"Sure:\n\n{indented(GOOD, '    ')}\n\nThat is all.",
    "long prose": f"{GOOD}\n\n" + "It adds one, no more.\n" * 90,
    "two runs": f"First a helper:\n\ndef g(x):\n    return 1\n\nNow:\n\n{GOOD[:-1]}g(x)\n\nOk?",
    "an assignment": "So:\n\nf = lambda x: x + 1\n\nDone.",
    "typed at a prompt": SESSION,
    "typed, with prose": f"Try this:\n\n{SESSION}\nYou see?",
    "typed, in a fence": fenced(SESSION, "pycon"),
    "typed, in a console": fenced(SESSION, "console"),
    "typed into IPython": fenced("In [1]: def f(x):\n   ...:     return x + 1\nOut[1]: 3\n"),
}
CHARACTERS = {
    "no-break spaces": GOOD.replace(" ", "\u00a0"),
    "zero-width spaces": GOOD.replace("def", "\u200bdef"),
    "a byte order mark": f"\ufeff{GOOD}",
    "line separators": GOOD.replace("\n", "\u2028"),
    "wide spaces": GOOD.replace("    ", "\u3000\u3000"),
    "tabs and spaces": "def f(x):\n    y = x\n\treturn y + 1",
    "wide tabs and spaces": "def f(x):\n        y = x\n\treturn y + 1",
    "typed quotes": "def f(x):\n    s = “one”\n    t = ‘two’\n    return x + len(s) - 2",
    "entities": "def f(x):\n    return x + 1 if x &gt; 0 else x",
    "full-width marks": "def f（x）：\n    return x ＋ 1",
    "a minus sign": "def f(x):\n    return x − −1",
}
SAID = {**FENCES, **PROSE, **{n: fenced(text) for n, text in CHARACTERS.items()}}
SAID |= {f"{name}, bare": text for name, text in CHARACTERS.items()}


@pytest.mark.parametrize("columns", [ADD, BY_NAME], ids=["entry point", "what tests call"])
@pytest.mark.parametrize("name", SAID)
def test_a_good_program_passes_whatever_surrounds_it(name, columns):
    result = outcome(SAID[name], **columns)
    assert result.ok, (result.error, extract_program(SAID[name], "f"))


@pytest.mark.parametrize("name", sorted(FENCES))
def test_a_wrong_program_fails_in_the_same_surroundings(name):
    said = FENCES[name].replace("x + 1", "x + 3").replace(BAD, BAD.replace("- 1", "+ 4"))
    assert reward(said, **ADD) == -1.0


def test_output_that_looks_like_a_program_is_none():
    assert reward(fenced(GOOD, "text"), **ADD) == -1.0
    assert reward(fenced("2", "output"), **ADD) == -1.0


def test_characters_in_a_program_that_parses_stay_as_they_are():
    source = "def f():\n    return '\u00a0“\u200b”\u3000&lt;\u2028−'"
    assert extract_program(fenced(source), "f") == source
    assert extract_program(source, "f") == source


@pytest.mark.parametrize(
    "helper",
    ["def g(x):\n    return 1", "from math import ceil as g", "import math\n\n\ng = math.ceil",
     "try:\n    from numpy import g\nexcept ImportError:\n    def g(x):\n        return 1"],
)  # fmt: skip
def test_an_earlier_block_that_the_last_needs_goes_before_it(helper):
    last = "def f(x):\n    return x + g(0.5)"
    assert reward(f"{fenced(helper)}\nand\n{fenced(last)}", **ADD) == 1.0
    assert reward(f"{fenced(last)}\nwith\n{fenced(helper)}", **ADD) == 1.0
    deep = "\n".join(map(fenced, ("ONE = 1", "def g(x):\n    return ONE", last)))
    assert reward(deep, **ADD) == 1.0


def test_a_block_that_the_last_does_not_need_is_left_out():
    unneeded = "def g(x):\n    return 1\n\n\nraise SystemExit"
    assert reward(f"{fenced(unneeded)}\n{fenced(GOOD)}", **ADD) == 1.0


def test_classes_and_several_functions_are_found_by_what_the_tests_call():
    box = "class Box:\n    def __init__(self):\n        self.x = 1"
    tests = ["assert Box().x == 1", "assert area(2) == 4"]
    parts = (box, "def area(x):\n    return x * x", "print(area(3))")
    assert reward("\n".join(map(fenced, parts)), tests=tests) == 1.0


def test_what_stands_below_the_main_guard_is_not_run():
    guarded = f'{GOOD}\n\n\nif __name__ == "__main__":\n    print(f(int(input("x? "))))'
    assert reward(guarded, **ADD) == 1.0
    assert reward(fenced(guarded), **ADD) == 1.0
    record = "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n"
    record += f"@dataclass\nclass P:\n    x: int\n\n\n{GOOD[:-5]}P(x).x + 1"
    assert reward(record, **ADD) == 1.0


def test_a_program_that_asks_for_input_is_told_that_there_is_none():
    result = outcome(f"n = int(input())\n{GOOD}", **ADD)
    assert not result.ok
    assert "EOF when reading a line" in result.error
    assert "asks for input, and there is none" in result.error
    assert "asks for input" not in outcome(BAD, **ADD).error


CHECK = "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(2) == 3\n"
CASE = (
    "import unittest\n\nclass TestF(unittest.TestCase):\n    def test_one(self):\n"
    "        self.assertEqual(f(1), 2)\n\nif __name__ == '__main__':\n    unittest.main()\n"
)
UNCALLED = {
    "check": {"tests": [CHECK], "entry_point": "f"},
    "a text, not a list": {"tests": CHECK, "entry_point": "f"},
    "HumanEval's own column": {"test": f"\n\nMETADATA = {{'author': 'x'}}\n\n\n{CHECK}",
                               "entry_point": "f"},
    "no entry point but a reference": {"tests": [CHECK], "answer": GOOD},
    "pytest's functions": {"tests": ["def test_one():\n    assert f(1) == 2\n"]},
    "functions with an import": {"test": "from solution import f\n\ndef test_one():\n"
                                         "    assert f(1) == 2\n"},
    "unittest's classes": {"tests": [CASE]},
    "MBPP's own columns": {"test_list": ["assert f(1) == 2"], "test_setup_code": ""},
    "MBPP's imports": {"test_list": ["assert f(1) == math.ceil(1.5)"],
                       "test_imports": ["import math"]},
    "a helper in its own text": {"tests": ["def two():\n    return 2", "assert f(1) == two()"]},
}  # fmt: skip


@pytest.mark.parametrize("name", UNCALLED)
def test_what_tests_define_is_called(name):
    assert reward(GOOD, **UNCALLED[name]) == 1.0
    assert reward(BAD, **UNCALLED[name]) == -1.0
    assert reward("", **UNCALLED[name]) == -1.0


NOTHING = {
    "an empty text": [""],
    "nothing": [],
    "a comment": ["# it should add one"],
    "a definition": ["def helper(x):\n    return f(x)"],
    "a check for nobody": [CHECK],
    "a sentence in quotes": ['"""f(1) is 2"""'],
    "an import": ["import math"],
    "what is always true": ["assert True", "assert 1 + 1 == 2"],
    "no word of the program": ["print('ok')"],
    "no texts": [{"input": "1", "output": "2"}],
}


@pytest.mark.parametrize("name", NOTHING)
def test_tests_that_test_nothing_are_never_passed(name):
    assert reward(GOOD, tests=NOTHING[name]) is None
    rows = [Example("Add one.", "", {"tests": NOTHING[name]})]
    with pytest.raises(T2LocalError, match=r"needs a column 'tests'|test nothing"):
        check_reward("code", rows)


def test_a_program_may_bear_a_builtins_name():
    said, tests = "def sum(a, b):\n    return a * b", ["assert sum(2, 3) == 6"]
    assert reward(said, tests=tests, entry_point="sum") == 1.0
    assert reward("def sum(a, b):\n    return a", tests=tests, entry_point="sum") == -1.0


def test_idle_texts_are_no_tests_that_pass():
    tests = ["# first", "assert f(1) == 2", "", "def helper():\n    pass"]
    result = outcome(BAD, tests=tests)
    assert result.passed == (False,)
    assert outcome(GOOD, tests=tests).passed == (True,)


def test_rows_with_humanevals_own_columns_are_read_and_suggested():
    prompt = 'def f(x):\n    """Add one."""\n'
    row = {"test": CHECK, "entry_point": "f"}
    assert reward("    return x + 1\n", prompt, **row) == 1.0
    assert reward(fenced(GOOD), prompt, **row) == 1.0
    assert reward("    return x\n", prompt, **row) == -1.0
    rows = [Example(prompt, "    return x + 1\n", row)] * 2
    assert suggest_reward(rows).reward == "code"
    check_reward("code", rows)


def test_a_text_of_many_broken_lines_is_given_up_soon():
    for line in ("x = (", "def f(:", "'''", "- ```python", "> " * 40, "import ", "f(" * 300):
        text = f"{line}\n" * 3_000
        assert isinstance(extract_program(text, "f"), str)
        assert isinstance(fenced_blocks(text), list)


TWO = {"tests": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]}
METHOD = """```python
class Solution:
    def helper(self, a):
        return a

    {kind}def add(self, a, b):
        return self.helper(a) {sign} b
```"""


@pytest.mark.parametrize("asked", [TWO, {**TWO, "entry_point": "add"}])
@pytest.mark.parametrize("kind", ["", "async "])
def test_a_method_of_a_class_counts_as_the_function_that_tests_call(kind, asked):
    assert reward(METHOD.format(kind=kind, sign="+"), **asked) == 1
    assert reward(METHOD.format(kind=kind, sign="-"), **asked) == -1
    own = {"tests": ["assert Solution().helper(1) == 1"]}
    assert reward(METHOD.format(kind="", sign="+"), **own) == 1


def test_a_coroutine_function_is_run_to_its_end():
    awaits = "async def one(x):\n    return x\n\nasync def add(a, b):\n    return await one(a) {} b"
    assert reward(awaits.format("+"), **TWO) == 1
    assert reward(awaits.format("-"), **TWO) == -1


@pytest.mark.parametrize("around", ["```\npython\n{}\n```", "[BEGIN]\n{}\n[DONE]", "{}\nDone"])
def test_words_that_happen_to_parse_are_no_part_of_a_program(around):
    assert reward(around.format("def add(a, b):\n    return a + b"), **TWO) == 1
    assert reward(around.format("def add(a, b):\n    return a - b"), **TWO) == -1
