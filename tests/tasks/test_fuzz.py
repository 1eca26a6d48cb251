"""Three thousand files: none crashes, none loses, changes or misreads a good row without a word.

A thousand are malformed at random. Two thousand more are tables of every shape, in the encodings,
delimiters, quotes and line ends that people have; in each second one a row is damaged.
"""

import csv
import io
import json
import random
import zipfile

import pyarrow
import pyarrow.parquet
import pytest

from t2local.errors import T2LocalError
from t2local.tasks.files import read_examples
from tests.tasks.test_encodings import TEXTS
from tests.tasks.workbook_files import xlsx, zipped

PAIRS = [
    (f'Question {i}, "quoted"; what is 2 + {i}?\nGrüße 日本', f"answer {i}") for i in range(12)
]


def delimited(delimiter, rows):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()


def as_objects():
    return [{"prompt": prompt, "answer": answer} for prompt, answer in PAIRS]


def parquet(rows):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


TABLE = [("prompt", "answer"), *PAIRS]
WELL_FORMED = {
    "csv": delimited(",", TABLE).encode(),
    "tsv": delimited("\t", TABLE).encode(),
    "jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in as_objects()).encode(),
    "json": json.dumps({"data": as_objects()}, indent=1).encode(),
    "xlsx": xlsx({"S": TABLE}),
    "parquet": parquet(as_objects()),
}
UPLOADS = {"csv": 300, "tsv": 180, "jsonl": 200, "json": 160, "xlsx": 40, "parquet": 120}


def truncated(rng, content):
    return content[: rng.randrange(len(content))]


def bits_flipped(rng, content):
    changed = bytearray(content)
    for _ in range(rng.choice((1, 8, 64))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def spliced(rng, content):
    """Something that does not belong there, at one place or several."""
    odd = rng.choice(
        (b"\0", b"\0" * 5000, b'"', b"'", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud83d", b"\r", b",,,",
        b"\t", b"{", b"[[" * 3000, b'{"a":' * 2000, b"x" * 300_000, b"\x1a", b"\n\n", b"1e999",
        b"\xef\xbb\xbf", b"\x0b\x0c", b"NaN", b'"\n"', b"PAR1", b"PK\x03\x04")
    )  # fmt: skip
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.choice((0, rng.randrange(len(content))))
        content = content[:at] + odd + content[at:]
    return content


def replaced(rng, content):
    """One sign for another throughout: a wrong delimiter, line end, quote or bracket."""
    signs = [
        b",",
        b"\t",
        b";",
        b"|",
        b'"',
        b"\n",
        b"\r",
        b":",
        b"{",
        b"}",
        b"[",
        b"answer",
        b"prompt",
    ]
    return content.replace(
        rng.choice(signs), rng.choice([*signs, b"", b" "]), rng.choice((-1, 1, 5))
    )


def encoded_otherwise(rng, content):
    codec = rng.choice(["utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "utf-7", "cp037"])
    changed = content.decode("utf-8", "replace").encode(codec, "replace")
    return changed[rng.choice((0, 0, 1)) :]


def lines_mixed(rng, content):
    """Lines doubled, dropped and swapped; other types among them."""
    lines = content.split(b"\n")
    lines += rng.sample([b"42", b"null", b'["a"]', b'"text"', b'{"prompt": {}}', b"a,b,c,d,e"], 3)
    lines += rng.choices(lines, k=rng.randrange(4))
    rng.shuffle(lines)
    return b"\n".join(lines[rng.randrange(3) :])


def binary(rng, content):
    start = rng.choice(
        (b"", b"PK\x03\x04", b"PAR1", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"\x89PNG")
    )
    return start + rng.randbytes(rng.choice((1, 40, 5000)))


def inside_a_workbook(rng, content):
    """A part of the archive damaged, its checksums in order."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([*parts, "xl/worksheets/sheet1.xml", "xl/worksheets/sheet1.xml"])
    change = rng.choice((truncated, bits_flipped, spliced, replaced, far_cell))
    parts[name] = change(rng, parts[name])
    return zipped(parts)


def far_cell(rng, content):
    return content.replace(b'r="A3"', b'r="XFD1048576"')


MUTATIONS = (
    truncated, bits_flipped, spliced, replaced, encoded_otherwise, lines_mixed, binary
)  # fmt: skip


def malformed(kind, number):
    """Upload `number` of a kind: one to three faults in what was a good file."""
    rng = random.Random(f"{kind} {number}")
    content = WELL_FORMED[kind]
    if kind == "xlsx" and number % 2:
        return inside_a_workbook(rng, content)
    for mutate in rng.choices(MUTATIONS, k=rng.choice((1, 1, 2, 3))):
        content = mutate(rng, content or b"x")
    return content


def assert_one_sentence(text, name):
    assert name in text
    assert text.isprintable(), text
    assert text.endswith("."), text
    assert len(text) < 400, text


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", UPLOADS)
def test_a_malformed_upload_gives_rows_with_reasons_or_one_sentence(kind, tmp_path):
    for number in range(UPLOADS[kind]):
        path = tmp_path / f"{kind}-{number}.{kind}"
        path.write_bytes(malformed(kind, number))
        try:
            file = read_examples(path)
        except T2LocalError as error:
            assert_one_sentence(str(error), path.name)
            continue
        assert file.examples
        for row in file.bad_rows:
            assert row.number > 0
            assert row.reason.isprintable(), row
            assert 0 < len(row.reason) < 250, row
        json.dumps([[e.prompt, e.answer, e.columns] for e in file.examples]).encode()
        file.note.encode()
        "".join(e.prompt + e.answer for e in file.examples).encode()  # else it cannot be kept


def test_a_thousand_are_tried():
    assert sum(UPLOADS.values()) == 1000


def good_pair(rng, number):
    ends = ("", ", and more", ' with "quotes"', "\nand a second line", "; Grüße", "\tand a tab")
    return f"Question {number}{rng.choice(ends)}", rng.choice((f"a{number}", f'"{number}",', "né"))


def table_rows(rng, kind):
    delimiter = {"csv": ",", "tsv": "\t"}[kind]
    bad = ['"never closed{d}1', '"closed"late{d}1', "{d}1", "no answer", "a{d}1{d}too many{d}"]
    bad += ['"closed"late{d}"', '"never closed{d}{d}2']

    def malformed_row(number):
        return rng.choice(bad).format(d=delimiter) + "\n"

    return (
        delimited(delimiter, [TABLE[0]]),
        malformed_row,
        lambda pair: delimited(delimiter, [pair]),
    )


BAD_JSON = (
    "7", "null", "[1]", '"text"', "{}", '{"prompt": "no answer"}', '{"prompt": "", "answer": 1}',
    '{"prompt": "\\ud800", "answer": "half"}', f'{{"prompt": {"[" * 80}{"]" * 80}}}',
)  # fmt: skip


def written(rng, kind):
    """A file's bytes, the good pairs in it, and how many rows there are in all."""
    order = [rng.random() < 0.6 for _ in range(30)]
    order[rng.randrange(30)] = True
    pairs = [good_pair(rng, number) for number in range(30)]
    good = [pair for pair, is_good in zip(pairs, order, strict=True) if is_good]
    if kind in ("csv", "tsv"):
        header, malformed_row, good_row = table_rows(rng, kind)
        rows = [
            good_row(pair) if is_good else malformed_row(number)
            for number, (pair, is_good) in enumerate(zip(pairs, order, strict=True))
        ]
        return (header + "".join(rows)).encode(), good, 30
    if kind in ("jsonl", "json"):
        rows = [
            json.dumps({"prompt": p, "answer": a}) if is_good else rng.choice(BAD_JSON)
            for (p, a), is_good in zip(pairs, order, strict=True)
        ]
        if kind == "json":
            return f"[{', '.join(rows)}]".encode(), good, 30
        cut = [
            r[: rng.choice((-1, 99))] if "{" in r and not g else r
            for r, g in zip(rows, order, strict=True)
        ]
        return "\n".join(cut).encode(), good, 30
    faults = [(None, "no prompt"), ("no answer", None), (" ", "blank")]
    cells = [
        pair if is_good else rng.choice(faults) for pair, is_good in zip(pairs, order, strict=True)
    ]
    if kind == "parquet":
        return parquet([{"prompt": p, "answer": a} for p, a in cells]), good, 30
    cells = [(*row, None, "beyond") if row == faults[2] else row for row in cells]
    return xlsx({"S": [TABLE[0], *cells]}), good, 30


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", UPLOADS)
def test_no_good_row_is_lost_and_every_bad_one_is_listed(kind, tmp_path):
    for seed in range(8 if kind == "xlsx" else 40):
        content, good, n_rows = written(random.Random(f"{kind} {seed}"), kind)
        path = tmp_path / f"{seed}.{kind}"
        path.write_bytes(content)
        file = read_examples(path)
        found = [(e.prompt, e.answer) for e in file.examples]
        assert found == good, seed
        assert len(found) + len(file.bad_rows) == n_rows, seed
        assert len({row.number for row in file.bad_rows}) == len(file.bad_rows)


# --- Tables of every shape, whole or with one damaged row.

SHAPED = 2_000
ROWS = 8
DAMAGES = ("none", "a stray quote", "a cell less", "cells too many", "a line of noise", "cut short")


def texts(rng):
    """Rows in one language with an encoding that has it."""
    codecs, *lines = TEXTS[rng.choice(sorted(TEXTS))]
    codec = rng.choice([*codecs.split(), "utf-8", "utf-8-sig", "utf-16"])
    cells = [line.split(",", 1) for line in lines]
    extra = rng.choice(("", ", too", "; too", ' "so"', " | x", "\nso", "\tso"))
    rows = [(f"{n}. {cells[n % 2][0]}{extra}", f"{cells[n % 2][1]} {n}") for n in range(ROWS)]
    return rows, codec


def as_table(rng, rows, damage):
    """A table of text; one row of it, the last where it is cut short, is damaged."""
    delimiter, end = rng.choice(",;\t|"), rng.choice(("\n", "\r\n", "\r"))
    quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    if any("\n" in question for question, _ in rows):
        quoting = csv.QUOTE_ALL  # the other forgets line feeds where lines end otherwise
    index = rng.random() < 0.2
    above = rng.choice(("", "", f"sep={delimiter}{end}", f"FAQ export{end}", f"{end}"))

    def line(cells, number):
        text = io.StringIO()
        marks = {"delimiter": delimiter, "lineterminator": end, "quoting": quoting}
        csv.writer(text, **marks).writerow([number, *cells] if index else cells)
        return text.getvalue()

    lines = [line(("question", "answer"), ""), *(line(row, n) for n, row in enumerate(rows))]
    at = rng.randrange(1, ROWS)
    marked = lines[at].rstrip(end)
    match damage:
        case "a stray quote":
            lines[at] = f'"{marked.replace(chr(34), "")}{end}'
        case "a cell less":
            lines[at] = marked.replace(delimiter, " ") + end
        case "cells too many":
            lines[at] = f"{marked}{delimiter}1{delimiter}2{delimiter}3{end}"
        case "a line of noise":
            lines.insert(at, f"{delimiter * 5}#{end}")
        case "cut short":
            at = ROWS
            lines[at] = lines[at][: rng.randrange(2, 6)]
    return above + "".join(lines), at - 1


def as_json(rng, rows, damage):
    """One of the shapes of JSON; only what stands in lines of its own can be damaged alone."""
    objects = [{"question": q, "answer": a} for q, a in rows]
    whole = {
        "list": lambda: json.dumps(objects, ensure_ascii=False, indent=rng.choice((None, 2))),
        "held": lambda: json.dumps({"n": 1, "data": objects}, ensure_ascii=False),
        "columns": lambda: json.dumps(
            {"question": [q for q, _ in rows], "answer": [a for _, a in rows]}, ensure_ascii=False
        ),
        "pandas": lambda: json.dumps(
            {k: {str(i): o[k] for i, o in enumerate(objects)} for k in objects[0]},
            ensure_ascii=False,
        ),
        "by id": lambda: json.dumps({str(i): o for i, o in enumerate(objects)}, ensure_ascii=False),
        "held columns": lambda: json.dumps(
            {"train": {"question": [q for q, _ in rows], "answer": [a for _, a in rows]}}
        ),
        "fenced": lambda: f"```json\n{json.dumps(objects, indent=1)}\n```",
        "a script": lambda: f"const rows = {json.dumps(objects, ensure_ascii=False)};",
        "two lists": lambda: json.dumps(objects[:3]) + "\n" + json.dumps(objects[3:]),
        "texts over lines": lambda: json.dumps(objects, indent=1, ensure_ascii=False).replace(
            "\\n", "\n"
        ),
        "python": lambda: repr(objects),
        "lists": lambda: json.dumps([["question", "answer"], *map(list, rows)], ensure_ascii=False),
    }
    if damage == "none" and rng.random() < 0.6:
        return whole[rng.choice(sorted(whole))](), ROWS
    indent = rng.choice((None, None, 1))
    lines = [json.dumps(o, ensure_ascii=False, indent=indent) for o in objects]
    at = rng.randrange(ROWS - 1)
    match damage:
        case "a stray quote":
            lines[at] = lines[at].replace('"answer"', '""answer"')
        case "a cell less":
            lines[at] = '{"question": "and?"}'
        case "cells too many":
            lines[at] = lines[at].replace("{", "{{", 1)
        case "a line of noise":
            lines[at] = "[1, 2"
        case "cut short":
            at = ROWS - 1
            lines[at] = lines[at][: len(lines[at]) // 2]
    return rng.choice(("\n", "\n", "\r\n")).join(lines), at


@pytest.mark.timeout(120)
@pytest.mark.parametrize("part", range(10))
def test_no_row_of_any_shape_is_lost_changed_or_misread_without_a_word(part, tmp_path):
    for number in range(part * SHAPED // 10, (part + 1) * SHAPED // 10):
        rng = random.Random(f"shaped {number}")
        damage = "none" if number % 2 else rng.choice(DAMAGES[1:])
        rows, codec = texts(rng)
        text, damaged = rng.choice((as_table, as_json))(rng, rows, damage)
        path = tmp_path / f"{number}.txt"
        path.write_bytes(text.encode(codec))
        try:
            file = read_examples(path)
        except T2LocalError as error:
            assert_one_sentence(str(error), path.name)
            assert damage == "a line of noise", (number, damage, codec, text)
            assert text.startswith("[1, 2"), (number, codec, text)  # a list, for all one can tell
            continue
        found = [(e.prompt, e.answer) for e in file.examples]
        good = [row for n, row in enumerate(rows) if damage == "none" or n != damaged]
        assert [row for row in found if row in good] == good, (number, damage, codec, text)
        others = [row for row in found if row not in good]
        assert len(others) + len(file.bad_rows) <= 2, (number, damage, codec, text)
        assert bool(file.bad_rows) == (damage != "none"), (number, damage, codec, text)
        assert damage != "none" or not others, (number, codec, text)
