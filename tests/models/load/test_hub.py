"""Downloads through huggingface_hub itself, from a Hub that runs on this machine."""

import json
import multiprocessing
import os
import random
import shutil
import time
from collections import namedtuple
from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download

from t2local import paths
from t2local.errors import Cancelled, DiskFull, T2LocalError
from t2local.models.load import hub
from t2local.models.load.hub import (
    fetching,
    half_fetched,
    is_complete,
    local_models,
    ordered,
)
from t2local.models.load.loader import load_model
from t2local.progress import CancelToken, FetchProgress, drain
from tests.engine.test_kills import killed
from tests.models.fake_hub import COMMIT, MODEL, FakeHub, serving
from tests.test_locks import another_process, hold


@pytest.fixture
def online(tmp_path, monkeypatch):
    """`online(fake)`: the Hub of this test, and an empty cache. Undone after the test."""
    stack = []

    def begin(fake):
        address = serving(fake)
        stack.append(address)
        monkeypatch.setattr(hub, "ENDPOINT", address.__enter__())
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        return fake

    yield begin
    for address in stack:
        address.__exit__(None, None, None)


@pytest.fixture
def files(tiny_folder):
    """A whole model, and what is left out of a download."""
    kept = {path.name: path.read_bytes() for path in tiny_folder("llama").iterdir()}
    return kept | {
        "pytorch_model.bin": b"pickle",
        "original/consolidated.safetensors": b"again",
        "README.md": b"# small",
    }


def test_a_fetched_model_loads_and_is_listed(online, files, monkeypatch):
    online(FakeHub(files))
    events = []
    folder = drain(fetching(MODEL), events.append)
    wanted = {name for name in files if name.endswith((".json", ".safetensors", ".jinja"))}
    wanted -= {"original/consolidated.safetensors"}
    assert {path.name for path in folder.iterdir()} == wanted
    total = sum(len(files[name]) for name in wanted)
    assert {event.total for event in events} == {total}
    assert events[-1] == FetchProgress(f"fetching {MODEL}", total, total, "bytes")
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert [model.source for model in local_models()] == [MODEL]
    assert drain(load_model(str(folder))).model.config.num_hidden_layers == 2


def test_a_cancelled_download_keeps_the_whole_files_that_arrived(online, files):
    files["z.safetensors"] = os.urandom(24_000_000)  # the library writes 10 MiB at a time
    hub = online(FakeHub(files, held="z.safetensors"))
    cancel = CancelToken()

    def stop_in_the_middle(event):
        if event.done > 8_000_000:
            cancel.cancel()

    with pytest.raises(Cancelled):
        drain(fetching(MODEL, cancel), stop_in_the_middle)
    blobs = Path(constants.HF_HUB_CACHE) / "models--somebody--small" / "blobs"
    assert list(blobs.iterdir())
    assert not list(blobs.glob("*.incomplete"))
    hub.wait.set()
    hub.sent.clear()
    folder = drain(fetching(MODEL))
    assert hub.sent == ["z.safetensors"]
    assert (folder / "z.safetensors").read_bytes() == files["z.safetensors"]


def fetched(tell):
    """What `fetching` lets a process of its own do."""
    wanted = {**hub.ONLY, "revision": COMMIT, "max_workers": 1}
    snapshot_download(MODEL, **wanted, endpoint=hub.ENDPOINT, cache_dir=constants.HF_HUB_CACHE)
    tell("whole")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
def test_a_download_killed_at_twenty_moments_is_never_half_a_model(online, files):
    for number in range(6):
        files[f"part-{number}.safetensors"] = os.urandom(2_000_000)
    online(FakeHub(files))
    moments, stood = random.Random(0), set()
    cache = Path(constants.HF_HUB_CACHE) / "models--somebody--small"
    began = time.monotonic()
    whole = multiprocessing.get_context("fork").Process(target=fetched, args=(print,))
    whole.start()
    whole.join()
    lasts_s = time.monotonic() - began
    for number in range(20):
        if number % 4 == 0:  # go on with what has arrived, or begin anew
            shutil.rmtree(cache, ignore_errors=True)
        told = killed(fetched, lasts_s, moments)
        stood.add(len(list((cache / "blobs").glob("*"))))
        for model in local_models():  # one that is offered has whole files only
            assert all(p.read_bytes() == files[p.name] for p in model.path.iterdir()), told
    folder = drain(fetching(MODEL))
    assert {p.name: p.read_bytes() for p in folder.iterdir()}.items() <= files.items()
    assert is_complete(folder)
    assert len(stood) > 2, stood


def test_of_two_programs_one_fetches_a_model_and_the_other_is_told(online, files):
    online(FakeHub(files))
    with another_process(hold, hub._lock(MODEL)), pytest.raises(T2LocalError, match="another t2lo"):
        drain(fetching(MODEL))
    assert is_complete(drain(fetching(MODEL))), "that one was killed"


def test_a_model_without_all_its_weights_is_half_fetched(online, files):
    online(FakeHub({"config.json": files["config.json"]} | {"model.safetensors": b""}))
    drain(fetching(MODEL))
    (blob,) = local_models()[0].path.glob("*.safetensors")
    blob.unlink()
    assert half_fetched() == (MODEL,)
    assert local_models() == ()


def test_what_has_arrived_is_counted_once_with_and_without_links(tmp_path):
    """Windows allows links in developer mode alone; without them files end in `snapshots`."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    (blobs / "1").write_bytes(b"x" * 7)
    (snapshot / "linked.json").symlink_to(blobs / "1")
    (blobs / "2.incomplete").write_bytes(b"x" * 10)
    (snapshot / "moved.json").write_bytes(b"x" * 500)
    assert hub._bytes_in(tmp_path) == 517


def test_a_second_fetch_downloads_nothing(online, files):
    online(FakeHub(files))
    drain(fetching(MODEL))
    assert ordered(MODEL).missing_bytes == 0


def test_a_gated_model_is_explained(online, files):
    online(FakeHub(files, gated=True))
    with pytest.raises(T2LocalError, match=r"gated.*huggingface.co/somebody/small.*hf auth login"):
        drain(fetching(MODEL))


def test_a_gated_model_of_the_catalogue_names_its_licence():
    advice = hub.gated_advice("meta-llama/Meta-Llama-3-8B-Instruct")
    assert "https://www.llama.com/llama3/license/" in advice
    assert "HF_TOKEN" in advice


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("config.json", "pytorch_model.bin"), "no safetensors weights"),
        (("model.safetensors",), "no config.json"),
        (("model.gguf",), "no config.json"),
    ],
)
def test_what_cannot_be_used_is_not_fetched(online, names, words):
    online(FakeHub(dict.fromkeys(names, b"{}")))
    with pytest.raises(T2LocalError, match=words):
        drain(fetching(MODEL))


def test_an_unknown_model_is_said(online, files):
    online(FakeHub(files))
    with pytest.raises(T2LocalError, match="no public model 'nobody/nothing'"):
        drain(fetching("nobody/nothing"))


def test_a_disk_too_small_is_said_before_anything_is_fetched(online, files, monkeypatch):
    online(FakeHub(files))
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 10_000)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFull, match="HF_HOME"):
        drain(fetching(MODEL))
    assert local_models() == ()


def test_offline_is_one_clear_sentence():
    with pytest.raises(T2LocalError, match="HF_HUB_OFFLINE is set; unset it"):
        drain(fetching(MODEL))


def test_a_hub_that_does_not_answer_is_said(online, files, monkeypatch):
    online(FakeHub(files))
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(T2LocalError, match="cannot be reached"):
        drain(fetching(MODEL))


def test_a_download_that_breaks_off_says_why(online, files, monkeypatch):
    online(FakeHub(files))
    monkeypatch.setattr(hub, "CHILD", "raise SystemExit('the line went dead')")
    with pytest.raises(T2LocalError, match=r"broke off \(the line went dead\).*goes on"):
        drain(fetching(MODEL))


def test_the_time_left_follows_from_the_speed():
    assert FetchProgress("fetching", 20, 100, "bytes", 40.0).seconds_left == 2.0
    assert FetchProgress("fetching", 20, 100, "bytes").seconds_left is None


# --- What is listed as being here loads without a network.


def test_an_empty_home_has_no_models(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    assert local_models() == ()
    assert half_fetched() == ()


def test_folders_and_gguf_files_in_the_home_are_listed_and_load(
    home, tiny_folder, monkeypatch, tmp_path
):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    paths.models_dir().mkdir(parents=True)
    tiny_folder("llama").rename(paths.models_dir() / "mine")
    (paths.models_dir() / "other.gguf").write_bytes(b"GGUF")
    (paths.models_dir() / "half").mkdir()  # not fetched to its end
    folder, gguf = local_models()
    assert (folder.name, folder.kind, gguf.kind, gguf.size_bytes) == ("mine", "folder", "gguf", 4)
    assert drain(load_model(folder.source)).name == "mine"


def test_every_shard_must_be_there(tmp_path):
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}), encoding="utf-8")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model-1.safetensors").touch()
    assert not is_complete(tmp_path)
    (tmp_path / "model-2.safetensors").touch()
    assert is_complete(tmp_path)
    index.write_text("no json", encoding="utf-8")
    assert not is_complete(tmp_path)
