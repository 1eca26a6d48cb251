"""A folder is whole or not there."""

import pytest

from t2local.errors import DiskFull, T2LocalError
from t2local.export.merged import new_folder


def test_a_folder_appears_when_the_block_ends(tmp_path):
    target = tmp_path / "deep" / "out"
    with new_folder(target, 10) as temporary:
        (temporary / "a").write_text("a")
        assert not target.exists()
    assert [file.name for file in target.iterdir()] == ["a"]
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    assert target.stat().st_mode & 0o777 == 0o755


def test_nothing_stays_of_a_block_that_fails(tmp_path):
    def write_half():
        with new_folder(tmp_path / "out", 10) as temporary:
            (temporary / "a").write_text("a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_target_is_refused_and_untouched(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(T2LocalError, match="there already"), new_folder(tmp_path, 10):
        pytest.fail("the block ran")
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_target_that_appears_meanwhile_is_kept(tmp_path):
    target = tmp_path / "out"

    def write_beside_another():
        with new_folder(target, 10):
            target.mkdir()
            (target / "mine").write_text("mine")

    with pytest.raises(T2LocalError, match="there already"):
        write_beside_another()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(DiskFull, match="free some space"), new_folder(tmp_path / "out", 2**60):
        pytest.fail("the block ran")
    assert list(tmp_path.iterdir()) == []
