"""A kept result names the commit it came from, and never somebody else's."""

import shutil
import subprocess

import pytest

from t2local import provenance

needs_git = pytest.mark.skipif(not shutil.which("git"), reason="needs git: apt-get install git")


@pytest.fixture
def checkout(tmp_path):
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        command = ["git", *who, *words]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    git("init", "-q")
    (tmp_path / "code.py").write_text("1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    git("tag", "-am", "a tag is no commit", "v1")
    return tmp_path, git("rev-parse", "HEAD")


@needs_git
def test_the_commit_of_a_checkout_is_named(checkout):
    folder, head = checkout
    assert provenance.commit(folder) == head[:12]


@needs_git
def test_changed_files_are_said(checkout):
    folder, head = checkout
    (folder / "code.py").write_text("2\n")
    assert provenance.commit(folder) == f"{head[:12]}-dirty"


@needs_git
def test_a_copy_inside_another_repository_does_not_take_its_commit(checkout):
    folder, _ = checkout
    copy = folder / "copy"
    copy.mkdir()
    assert provenance.commit(copy) == provenance.UNKNOWN


def test_without_git_the_commit_is_unknown(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit(tmp_path) == provenance.UNKNOWN


def test_a_result_says_command_commit_and_machine(monkeypatch):
    monkeypatch.setattr("sys.argv", ["t2local", "prove", "--out", "a file.json"])
    said = provenance.origin("cpu")
    assert said["command"] == "python -m t2local prove --out 'a file.json'"
    assert said["commit"] == provenance.commit()
    assert said["machine"].endswith("cpu")
