"""`experts print`: the prompts that an expert is for, through the command line."""

import json

import pytest

from t2local.cli.main import main
from t2local.experts.store import OTHERS, read_expert


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "legs.csv"
    lines = [f"How many legs do {n} spiders have?,{8 * n}" for n in range(2, 30)]
    path.write_text("\n".join(["prompt,answer", *lines]), encoding="utf-8")
    return path


def take(capsys, source, *argv):
    status = main(["experts", "print", *argv, "--model", source, "--json"])
    out = capsys.readouterr()
    return status, json.loads(out.out) if out.out else out.err


def test_an_expert_gets_the_print_of_a_files_prompts(capsys, library, source, rows):
    status, said = take(capsys, source, "counting", "--data", str(rows))
    assert (status, said["expert"], said["prompts"]) == (0, "counting", 28)
    assert said["overlaps"] == []
    assert len(library.load("counting").prompt_print) == 28
    assert (library.own_folder / OTHERS).is_file()
    main(["experts", "show", "counting", "--model", source, "--json"])
    assert json.loads(capsys.readouterr().out)["printed_prompts"] == 28


def test_several_files_give_equal_shares(capsys, source, rows, tmp_path, library):
    more = tmp_path / "more.csv"
    sums = (f"Sum {n} and {n}.,{2 * n}" for n in range(200))
    more.write_text("\n".join(["prompt,answer", *sums]), encoding="utf-8")
    status, said = take(capsys, source, "counting", "--data", str(rows), "--data", str(more))
    assert (status, said["prompts"]) == (0, 28 + 32)


def test_it_can_be_written_to_a_file_instead(capsys, library, source, rows, tmp_path):
    out = tmp_path / "printed.safetensors"
    assert take(capsys, source, "counting", "--data", str(rows), "--out", str(out))[0] == 0
    assert len(read_expert(out).prompt_print) == 28
    assert library.load("counting").prompt_print is None


def test_without_a_run_the_rows_have_to_be_named(capsys, library, source):
    status, said = take(capsys, source, "counting")
    assert status == 1
    assert "No training run of 'counting' is on this machine; name a file" in said


def test_too_few_prompts_are_refused(capsys, library, source, tmp_path):
    path = tmp_path / "few.csv"
    path.write_text("prompt,answer\na,1\nb,2\na,1\n")
    status, said = take(capsys, source, "counting", "--data", str(path))
    assert status == 1
    assert "2 different prompts; 4 are needed" in said


def test_an_unknown_expert_is_one_sentence(capsys, library, source, rows):
    status, said = take(capsys, source, "maths", "--data", str(rows))
    assert status == 1
    assert "There is no expert 'maths'" in said


@pytest.mark.parametrize("header", ["prompt", "note"])
def test_prompts_alone_are_enough(capsys, library, source, tmp_path, header):
    path = tmp_path / "prompts.csv"
    lines = [f"How many legs, please, do {n} spiders have?" for n in range(2, 12)]
    path.write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    status, said = take(capsys, source, "counting", "--data", str(path))
    assert (status, said["prompts"]) == (0, 10)
