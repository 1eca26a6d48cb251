"""Files as text: what is read, what fits, and what is told of files that are none."""

import io
import zlib
from dataclasses import replace

import pytest
from pypdf import PdfReader, PdfWriter

from t2local.engine import attachments, chat_export
from t2local.engine.attachments import Attachment, attached, read_content, with_files
from t2local.engine.chat_content import Chat, Message, chat_bytes
from t2local.engine.chats import ChatStore
from t2local.errors import T2LocalError


def words(text):
    return len(text.split())


def pdf_of(*pages, stream=None) -> bytes:
    """A PDF with one line of text on each page."""
    kids = " ".join(f"{3 + 2 * i} 0 R" for i in range(len(pages)))
    parts = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
    ]
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    for i, text in enumerate(pages):
        own = 4 + 2 * i
        parts.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] /Resources << /Font << /F1 "
            + font + f" >> >> /Contents {own} 0 R >>".encode()
        )  # fmt: skip
        drawn = stream or f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode()
        head = b"/Filter /FlateDecode " if stream else b""
        parts.append(
            b"<< " + head + f"/Length {len(drawn)} >>\nstream\n".encode() + drawn + b"\nendstream"
        )
    out, places = io.BytesIO(b"%PDF-1.4\n"), []
    out.seek(0, io.SEEK_END)
    for number, part in enumerate(parts, 1):
        places.append(out.tell())
        out.write(f"{number} 0 obj\n".encode() + part + b"\nendobj\n")
    start = out.tell()
    out.write(f"xref\n0 {len(parts) + 1}\n0000000000 65535 f \n".encode())
    for place in places:
        out.write(f"{place:010d} 00000 n \n".encode())
    out.write(f"trailer << /Size {len(parts) + 1} /Root 1 0 R >>\n".encode())
    out.write(f"startxref\n{start}\n%%EOF".encode())
    return out.getvalue()


def locked(content: bytes) -> bytes:
    writer, out = PdfWriter(PdfReader(io.BytesIO(content))), io.BytesIO()
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(out)
    return out.getvalue()


@pytest.fixture
def file(tmp_path):
    def make(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


@pytest.mark.parametrize(
    ("name", "content", "text", "read"),
    [
        ("notes.txt", "one\r\ntwo\n", "one\ntwo", "2 lines"),
        ("NOTES.MD", "# One", "# One", "1 line"),
        ("latin.txt", "Füße für später\n".encode("latin-1"), "Füße für später", "1 line"),
        ("wide.txt", "Füße\n".encode("utf-16"), "Füße", "1 line"),
        ("marked.txt", b"\xef\xbb\xbfone", "one", "1 line"),
        ("shop.csv", "a;b\n1;2\n3;4\n", "a;b\n1;2\n3;4", "3 lines"),
        ("main.py", "def f():\n\treturn 1\n", "def f():\n\treturn 1", "2 lines"),
        ("two.pdf", pdf_of("first page", "second page"), "first page\nsecond page", "2 pages"),
    ],
)
def test_a_file_is_read_whole_where_it_fits(file, name, content, text, read):
    (found,) = attached([str(file(name, content))], words, 1_000)
    assert (found.text, found.read) == (text, read)
    assert found.tokens == found.of_tokens == words(text)
    assert not found.is_cut


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("empty.txt", b"", "is empty"),
        ("spaces.txt", b" \n\t ", "is empty"),
        ("program.txt", bytes(range(256)) * 40, "is no text"),
        ("zip.csv", b"PK\x03\x04" + zlib.compress(bytes(9_000)) * 50, "is no text"),
        ("text.pdf", b"no pdf at all", "cannot be read"),
        ("cut.pdf", pdf_of("a page")[:120], "cannot be read"),
        ("locked.pdf", locked(pdf_of("a page")), "it is locked"),
        ("scan.pdf", pdf_of("", ""), "has no text in it"),
        ("long.txt", b"x" * (attachments.MOST_CHARACTERS + 1), "the most is"),
        ("bomb.pdf", pdf_of("", stream=zlib.compress(bytes(300_000_000))), "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_with_a_way_out(file, name, content, told):
    with pytest.raises(T2LocalError) as told_of:
        read_content(file(name, content))
    assert told in str(told_of.value)
    assert f"'{name}'" in str(told_of.value)
    assert "; " in str(told_of.value)


def test_a_long_name_keeps_its_ending(file):
    (found,) = attached([str(file("x" * 200 + ".txt", "text"))], words, 1_000)
    assert len(found.name) == 100
    assert found.name.endswith("x.txt")


def test_a_pdf_that_takes_too_long_is_given_up(file, monkeypatch):
    monkeypatch.setattr(attachments, "PDF_S", 0.01)
    with pytest.raises(T2LocalError, match="takes longer"):
        read_content(file("slow.pdf", pdf_of("a page")))


def test_a_long_file_is_cut_where_a_part_ends_and_says_so(file):
    path = file("long.txt", "\n".join(f"line number {i}" for i in range(1, 401)))
    (found,) = attached([str(path)], words, 600)
    assert found.text.splitlines()[-1] == "line number 100"
    assert found.read == "lines 1 to 100 of 400"
    assert (found.tokens, found.of_tokens, found.is_cut) == (300, 1_200, True)


def test_one_endless_line_is_cut_within(file):
    (found,) = attached([str(file("one.txt", "word " * 9_000))], words, 200)
    assert found.tokens == 100
    assert found.read.startswith("the first ")


def test_what_one_file_leaves_the_others_may_use(file):
    short, long = file("a.txt", "three words here"), file("b.txt", "word\n" * 500)
    found = attached([str(short), str(long)], words, 400)
    assert [one.tokens for one in found] == [3, 197]


def test_too_many_files_are_refused(file):
    with pytest.raises(T2LocalError, match="at most 8"):
        attached([str(file("a.txt", "x"))] * 9, words, 1_000)


FILE = Attachment("notes.txt", "eight legs\n```\nof spiders", "3 lines", 5, 9)


def test_a_chat_keeps_what_was_attached_through_disk_edit_and_versions():
    store = ChatStore()
    chat = store.save(store.new().ask("how many?").attaching([FILE]))
    assert store.load(chat.id).messages[0].files == (FILE,)
    answered = replace(chat, messages=(*chat.messages, Message("assistant", "8")))
    edited = answered.edit(0, "how many in all?")
    assert edited.messages[0].files == (FILE,)
    assert edited.versions[0].message.files == (FILE,)
    assert edited.turned(0, -1).messages[0].files == (FILE,)
    assert [found.id for found in store.search("spiders notes.txt")] == [chat.id]


def test_a_model_reads_each_file_before_the_message():
    (turn,) = Chat("ab" * 8).ask("how many?").attaching([FILE, FILE]).turns()
    assert turn["content"] == with_files([FILE, FILE], "how many?")
    assert turn["content"].count("notes.txt (3 lines):") == 2
    assert turn["content"].endswith("how many?")
    assert chat_export.openai_messages(Chat("ab" * 8).ask("x").attaching([FILE]))["messages"][0][
        "content"
    ].startswith("notes.txt")
    assert "````\neight legs" in chat_export.markdown(Chat("ab" * 8).ask("x").attaching([FILE]))


@pytest.mark.parametrize("files", [3, [3], [{}], [{"name": "x"}], "x", [{**vars(FILE), "text": 1}]])
def test_damaged_files_of_a_message_cost_only_themselves(files):
    store = ChatStore()
    chat = store.save(store.new().ask("how many?"))
    path = store.folder / f"{chat.id}.json"
    content = (
        chat_bytes(chat).decode().replace('"files": []', f'"files": {files!r}'.replace("'", '"'))
    )
    path.write_text(content, encoding="utf-8")
    (message,) = store.load(chat.id).messages
    assert (message.content, message.files) == ("how many?", ())
