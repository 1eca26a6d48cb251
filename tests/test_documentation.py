"""What the README files say: links lead somewhere, commands parse, tables name their command,
the map's files are there and its examples run.
"""

import functools
import re
import shlex

import pytest
import torch

from t2local.adapt import dispatch
from t2local.cli.main import build_parser
from t2local.experts import read_expert
from t2local.models import storage
from t2local.models.decode import generate
from t2local.models.fit import catalogue
from t2local.paths import PROJECT_ROOT, SHIPPED_EXPERTS
from t2local.tasks.rewards import REWARDS, Reward, named, words
from t2local.ui import page
from t2local.ui.launch import parser as app_parser
from tests.test_layers import ROWS
from tests.ui.fake_engine import FakeEngine

MOST_LINES = 200  # of the page for users
FIGURES = "assets/results/README.md"
MAP = "t2local/README.md"
PAGES = (
    "README.md",
    FIGURES,
    "experts/README.md",
    "assets/sharing.md",
    "assets/data.md",
    "assets/chats.md",
    "assets/recipes.md",
    MAP,
)
CODE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAMED = re.compile(r"`(python -m t2local [^`]+)`")
SHIPPED = sorted(SHIPPED_EXPERTS.rglob("*.safetensors"))
COMMAND = "-m t2local "
GONE_OPTION = " --validation-rows 48"  # on the card of `code`; its page says what became of it
INSTALL = (
    "pip install -r requirements.txt && python app.py",
    "pip install -r requirements-dev.txt && pytest",
)


def text_of(page: str) -> str:
    return (PROJECT_ROOT / page).read_text(encoding="utf-8")


def commands_in(text: str) -> list[str]:
    """The arguments of every `python -m t2local`, in fenced blocks and in the text."""
    blocks = [body.replace("\\\n", " ") for _, body in CODE.findall(text)]
    lines = [line for body in blocks for line in body.splitlines()]
    lines += NAMED.findall(CODE.sub("", text))
    return [line.partition(COMMAND)[2] for line in lines if COMMAND in line]


def anchor_of(heading: str) -> str:
    """As GitHub makes it: lower case, hyphens for spaces, no punctuation."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors_in(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", text), re.MULTILINE)
    return {anchor_of(heading) for heading in headings}


def tables_in(text: str) -> list[tuple[str, str]]:
    """The first row of each table, and all that stands between it and the table before."""
    found, before, inside = [], [], False
    for line in text.splitlines():
        if line.startswith("|"):
            if not inside:
                found.append((line, "\n".join(before)))
            before, inside = [], True
        else:
            before.append(line)
            inside = False
    return found


def parses(arguments: str) -> bool:
    try:
        build_parser().parse_args(shlex.split(arguments, comments=True))
    except SystemExit:
        return False
    return True


def test_the_page_for_users_is_short():
    assert len(text_of("README.md").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("command", INSTALL)
def test_the_page_for_users_says_how_to_run_and_test(command):
    assert command in text_of("README.md")


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_picture_leads_somewhere(page):
    folder = (PROJECT_ROOT / page).parent
    links = LINK.findall(CODE.sub("", text_of(page)))
    assert links
    for link in links:
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (folder / path).resolve() if path else PROJECT_ROOT / page
        assert target.is_relative_to(PROJECT_ROOT), f"{page}: {link}"
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors_in(target.read_text(encoding="utf-8")), f"{page}: {link}"


@pytest.mark.parametrize(
    ("page", "arguments"), [(page, c) for page in PAGES for c in commands_in(text_of(page))]
)
def test_every_command_can_be_parsed(page, arguments):
    assert parses(arguments), f"{page}: python -m t2local {arguments}"


def test_a_command_that_is_wrong_is_seen():
    fenced = "```bash\npython -m t2local ask \\\n  hi  # x\n```\n"
    assert [c.split() for c in commands_in(f"{fenced}or `python -m t2local no`")] == [
        ["ask", "hi", "#", "x"],
        ["no"],
    ]
    assert parses("ask hi  # x")
    assert not parses("ask hi --no-such-flag")
    assert not parses("no")


def test_the_options_of_the_app_are_there():
    known = app_parser().format_help()
    for flag in ("--model", "--quantize", "--listen"):
        assert flag in text_of("README.md")
        assert flag in known


def test_every_table_of_figures_stands_below_its_command():
    tables = tables_in(text_of(FIGURES))
    assert len(tables) >= 12
    for head, before in tables:
        own = [body for _, body in CODE.findall(f"{before}\n")]
        assert any(COMMAND in body for body in own), f"no command above the table {head}"


def test_a_table_without_a_command_is_seen():
    first, second = tables_in("```bash\npython -m t2local bench\n```\n| a |\n|---|\n\nwords\n| b |")
    assert COMMAND in first[1]
    assert COMMAND not in second[1]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_page_of_the_experts_says_what_their_cards_say(path):
    expert, page = read_expert(path), text_of("experts/README.md")
    rows = [line for line in page.splitlines() if line.startswith(f"| **{expert.name}** |")]
    held = expert.held_out  # each model has a table of its own
    figures = [f"{100 * held.base:.1f} %", f"{100 * held.trained:.1f} %", f"| {held.n} |"]
    figures.append(f"| {expert.training['steps']} (")
    assert any(all(f in row.replace("**", "") for f in figures) for row in rows), (figures, rows)
    assert expert.training["command"].replace(GONE_OPTION, "") in page


# --- The map of the code.

STEP = re.compile(r"^\d+\. `([^`]+)`: ", re.MULTILINE)
PATH = re.compile(r"`((?:[\w<>]+/)+(?:[\w]+\.py)?|\w+\.py)`")


def section_of(heading: str) -> str:
    """The map's text from a heading to the next one."""
    return text_of(MAP).partition(f"## {heading}\n")[2].partition("\n## ")[0]


def example_in(heading: str) -> str:
    ((_, body),) = CODE.findall(section_of(heading))
    return body


def below_the_package(path: str) -> bool:
    return any((folder / path).exists() for folder in (PROJECT_ROOT / "t2local", PROJECT_ROOT))


@pytest.mark.parametrize(
    ("heading", "most"), [("The way of a message", 12), ("The way of a training run", 15)]
)
def test_a_newcomer_follows_it_through_few_files(heading, most):
    steps = STEP.findall(section_of(heading))
    assert 5 <= len(steps) <= most
    assert len(set(steps)) == len(steps)


def test_every_file_that_the_map_names_exists():
    text = CODE.sub("", text_of(MAP))
    paths = [path for path in PATH.findall(text) if "/" in path] + STEP.findall(text)
    assert len(set(paths)) > 30
    assert not sorted({path for path in paths if not below_the_package(path)})


def test_the_map_has_the_rooms_where_the_layers_have_them():
    shown = re.findall(r"^\| (\d) \| ([^|]+) \|", section_of("The rooms"), re.MULTILINE)
    here = {name for row in ROWS for name in row if any(map(below_the_package, _modules(name)))}
    found = [set(re.findall(r"`(\w+)`", names)) for _, names in shown]
    assert found == [set(row) & here for row in ROWS]
    assert [int(number) for number, _ in shown] == list(range(len(ROWS)))


def _modules(name: str) -> tuple[str, str]:
    return f"{name}/__init__.py", f"{name}.py"


def as_in(module, heading: str) -> dict:
    """The names after the map's example has run where it belongs; the module stays as it is."""
    names = dict(vars(module))
    exec(compile(example_in(heading), MAP, "exec"), names)
    return names


def test_the_strategy_of_the_map_decides(monkeypatch):
    word = as_in(dispatch, "Add a strategy")["WORD"]
    monkeypatch.setitem(dispatch.STRATEGIES, word.name, word)
    available = dispatch.Available(skills=("code",))
    assert word.name in dispatch.offered(available)
    reading, controls = dispatch.Reading(None, available, None), dispatch.Controls(word.name)
    code, other = dispatch.first_pass(reading, ["write a function", "hello"], controls)
    assert (code.chosen, code.mixture.alpha) == ("code", {"code": 1.0})
    assert other.mixture.is_base


def test_the_reward_of_the_map_scores(monkeypatch):
    names = {**vars(words), "Reward": Reward}
    exec(compile(example_in("Add a reward"), MAP, "exec"), names)
    monkeypatch.setitem(REWARDS, "question", names["QUESTION"])
    assert named("question")(["Well?"] * 2, ["Why?", "Because."]) == [1.0, -1.0]


def test_the_quantisation_of_the_map_is_estimated():
    half = as_in(storage, "Add a quantisation")["HALF"]
    assert half.matrix_bytes(3, 5) == 30
    assert half.words("float32") == "16-bit weights"


def test_the_family_of_the_map_is_a_model(monkeypatch):
    names = as_in(catalogue, "Add a model family")
    for model_id, sizes in names["CONFIG"].items():
        monkeypatch.setitem(catalogue.ARCHITECTURES, model_id, sizes)
        assert catalogue.architecture(model_id).num_hidden_layers == 16
        assert names["ENTRY"].id == model_id


def test_the_tab_of_the_map_is_one(monkeypatch):
    names = {**vars(page), "functools": functools}
    exec(compile(example_in("Add a tab"), MAP, "exec"), names)
    monkeypatch.setattr(page, "TABS", [*page.TABS, names["NOTES"]])
    blocks = page.build_app(FakeEngine())
    assert names["count"](FakeEngine()) == f"{len(FakeEngine().experts())} experts."
    assert "Notes" in str(blocks.get_config_file()["components"])


def test_the_decoder_of_the_map_gives_the_logits_of_the_model(tiny_loaded):
    loaded, prompt = tiny_loaded(), list(range(10, 20))
    quick = as_in(generate, "Add a decoder")["OneByOne"](loaded)
    found = []
    for way in (quick, None):
        decoder = generate.Decoder(loaded, prompt, generate.Sampling(max_new_tokens=6))
        for _ in range(4):
            found.append(decoder.logits(way))
            decoder.push(found[-1].argmax(-1))
        assert decoder.n_quick == (3 if way else 0)
    torch.testing.assert_close(found[:4], found[4:])
