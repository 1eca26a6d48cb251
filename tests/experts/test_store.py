"""Expert files: what is saved comes back, and what cannot be used is refused with its reason."""

import errno
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from t2local import paths
from t2local.errors import T2LocalError
from t2local.experts import ExpertStore, read_expert, write_expert
from t2local.experts.store import check_fits
from t2local.svf import attach
from tests.experts.support import MODEL, small_expert


@pytest.fixture(scope="module")
def svf(tiny):
    return attach(tiny("llama"))


@pytest.fixture
def expert(svf):
    return small_expert(svf)


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    """The shipped experts' folder of `MODEL`, empty."""
    monkeypatch.setattr(paths, "SHIPPED_EXPERTS", tmp_path / "shipped")
    return tmp_path / "shipped" / MODEL


def same(left, right) -> bool:
    return replace(left, z={}) == replace(right, z={}) and all(
        torch.equal(left.z[name], right.z[name]) for name in left.z | right.z
    )


def reason(action, *arguments) -> str:
    with pytest.raises(T2LocalError) as error:
        action(*arguments)
    text = str(error.value)
    assert "\n" not in text
    assert "; " in text  # the remedy
    return text


def test_save_then_load_is_the_identity(expert, tmp_path):
    path = tmp_path / "counting.safetensors"
    write_expert(expert, path)
    assert same(read_expert(path), expert)
    classifier = replace(expert, kind="classifier", labels=("math", "other"), z=dict(expert.z))
    write_expert(classifier, path)
    assert same(read_expert(path), classifier)


def test_a_file_holds_float32_rows_under_the_matrix_names_and_strings(expert, tmp_path):
    write_expert(replace(expert, z={n: r.double() for n, r in expert.z.items()}), tmp_path / "e")
    with safe_open(tmp_path / "e", "pt") as file:
        assert set(file.keys()) == set(expert.z)
        assert all(file.get_tensor(name).dtype == torch.float32 for name in expert.z)
        metadata = file.metadata()
    wanted = "schema name description base_model basis_fingerprint reward training license"
    assert {f"t2local.{key}" for key in wanted.split()} < metadata.keys()
    assert metadata["format"] == "pt"
    assert metadata["t2local.base_model"] == MODEL


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(expert, tmp_path, monkeypatch):
    path = tmp_path / "experts" / "counting.safetensors"
    write_expert(expert, path)
    old = path.read_bytes()

    def full(path: Path, content: bytes) -> None:
        path.open("wb").write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        text = reason(write_expert, replace(expert, description="newer"), path)
    assert "disk is full" in text
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_not_there(tmp_path):
    assert "no expert file" in reason(read_expert, tmp_path / "none.safetensors")


def test_a_damaged_file(expert, tmp_path):
    path = tmp_path / "e.safetensors"
    write_expert(expert, path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\x80\x04pickle", whole[:8] + b"}" + whole[9:]):
        path.write_bytes(content)
        assert "'e.safetensors' is damaged" in reason(read_expert, path)


def test_a_safetensors_file_that_is_no_expert(tmp_path):
    save_file({"weight": torch.ones(3)}, tmp_path / "w.safetensors", {"format": "pt"})
    text = reason(read_expert, tmp_path / "w.safetensors")
    assert "not a t2local expert file" in text
    assert "t2local.schema" in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("t2local.schema", "99"),
        ("t2local.training", "{"),
        ("t2local.training", "[]"),
        ("t2local.sigma", "[1]"),
        ("t2local.labels", "3"),
    ],
)
def test_a_card_that_is_garbled(tmp_path, key, value):
    card = {
        "t2local.schema": "1",
        "t2local.name": "e",
        "t2local.base_model": MODEL,
        "t2local.basis_fingerprint": "svf1-0",
    }
    save_file({"m": torch.ones(3)}, tmp_path / "e.safetensors", card)
    assert read_expert(tmp_path / "e.safetensors").name == "e"
    save_file({"m": torch.ones(3)}, tmp_path / "e.safetensors", card | {key: value})
    said = reason(read_expert, tmp_path / "e.safetensors")
    assert "not a t2local expert file (its card cannot be used (" in said


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity(expert, svf, tmp_path, value):
    name = svf.matrix_names[5]
    row = expert.z[name].clone()
    row[3] = value
    write_expert(replace(expert, z=expert.z | {name: row}), tmp_path / "e.safetensors")
    text = reason(read_expert, tmp_path / "e.safetensors")
    assert "NaN or infinity" in text
    assert name in text


def test_a_matrix_of_the_wrong_shape_and_no_matrix_at_all(expert, tmp_path):
    write_expert(replace(expert, z={"m": torch.ones(2, 3)}), tmp_path / "e.safetensors")
    assert "shape [2, 3]" in reason(read_expert, tmp_path / "e.safetensors")
    write_expert(replace(expert, z={}), tmp_path / "e.safetensors")
    assert "no matrices" in reason(read_expert, tmp_path / "e.safetensors")


def test_an_expert_fits_the_model_it_was_made_for(expert, svf):
    assert check_fits(expert, svf, MODEL, "none") == ""
    part = dict(list(expert.z.items())[:4])
    alone = replace(expert, z=part, basis_fingerprint=svf.fingerprint(part))
    assert check_fits(alone, svf, MODEL, "none") == ""


def test_an_expert_of_another_model_is_refused(expert, svf):
    text = reason(check_fits, expert, svf, "SmolLM2-135M-Instruct", "none")
    assert "'counting' was trained on tiny-llama" in text
    assert "the loaded model is SmolLM2-135M-Instruct" in text


def test_an_expert_of_another_basis_is_refused(expert, tiny):
    other = attach(tiny("llama", seed=1))
    assert "belongs to another basis" in reason(check_fits, expert, other, MODEL, "none")


def test_an_expert_without_singular_values_to_compare_is_refused(expert, tiny):
    other = attach(tiny("llama", seed=1))
    for check in ({}, {"model.nothing": (1.0,)}, {other.matrix_names[0]: (1.0,) * 1000}):
        refused = replace(expert, sigma_check=check)
        assert "another basis" in reason(check_fits, refused, other, MODEL, "none")


def test_an_expert_for_other_matrices_is_refused(expert, tiny):
    part = attach(tiny("llama"), "mlp")
    assert "does not adapt" in reason(check_fits, expert, part, MODEL, "none")
    short = replace(expert, z={n: r[:-1] for n, r in expert.z.items()})
    assert "does not adapt" in reason(check_fits, short, attach(tiny("llama")), MODEL, "none")


def test_the_same_model_at_another_quantisation_is_transferred_with_a_warning(expert, tiny):
    rounded = tiny("llama")
    for name, parameter in rounded.named_parameters():
        if name.endswith("proj.weight"):
            parameter.data = (parameter * 50).round() / 50
    warning = check_fits(expert, attach(rounded), MODEL, "nf4")
    assert "transferred" in warning
    assert "none, used with nf4" in warning


def test_weights_that_differ_slightly_are_transferred_with_a_warning(expert, tiny):
    nudged = tiny("llama")
    nudged.model.layers[0].mlp.up_proj.weight.data *= 1.0005
    assert "differ slightly" in check_fits(expert, attach(nudged), MODEL, "none")


@pytest.mark.parametrize(
    ("there", "here", "warned"),
    [
        ("int8", "int8", False),
        ("int8", "int4", True),
        ("int4", "fp32", True),
        ("int4", "int4", False),
        ("fp32", "int8", False),
        (None, "bf16", False),
        (None, "int4", True),
    ],
)
def test_bases_of_4_bits_on_one_side_alone_are_warned_of(expert, tiny, there, here, warned):
    known = replace(expert, training={"basis": there} if there else {})
    warning = check_fits(known, attach(tiny("llama"), basis_dtype=here), MODEL, "none")
    assert ("int4 rounds about a sixth" in warning) == warned
    assert warned or not warning


def test_a_users_expert_shadows_the_shipped_one(expert, shipped):
    write_expert(replace(expert, description="shipped"), shipped / "counting.safetensors")
    write_expert(replace(expert, name="another"), shipped / "another.safetensors")
    store = ExpertStore(MODEL)
    assert store.load("counting").description == "shipped"
    path = store.save(replace(expert, description="mine"))
    assert path == paths.experts_dir() / MODEL / "counting.safetensors"
    assert store.load("counting").description == "mine"
    assert [(f.expert.name, f.shipped) for f in store.files()] == [
        ("another", True),
        ("counting", False),
    ]


def test_a_damaged_file_is_listed_with_its_problem(expert, shipped):
    write_expert(expert, shipped / "counting.safetensors")
    (shipped / "broken.safetensors").write_bytes(b"no")
    broken, counting = ExpertStore(MODEL).files()
    assert broken.expert is None
    assert "damaged" in broken.problem
    assert counting.problem == ""


def test_an_unknown_name_lists_those_there_are(expert, shipped):
    assert "there are: none yet" in reason(ExpertStore(MODEL).load, "maths")
    write_expert(expert, shipped / "counting.safetensors")
    assert "no expert 'maths'" in reason(ExpertStore(MODEL).load, "maths")
    assert "there are: counting" in reason(ExpertStore(MODEL).load, "maths")


def test_a_saved_expert_gives_the_same_logits(expert, svf, shipped):
    ids = torch.tensor([[3, 50, 51]])
    ExpertStore(MODEL).save(expert)
    outputs = []
    for z in (expert.z, ExpertStore(MODEL).load("counting").z):
        with svf.using(z), torch.no_grad():
            outputs.append(svf.model(ids).logits)
    assert torch.equal(*outputs)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc")
def test_a_read_expert_leaves_its_file_alone(expert, tmp_path):
    """Windows replaces or deletes no file that is mapped into memory."""
    path = tmp_path / "counting.safetensors"
    write_expert(expert, path)
    read = read_expert(path)
    assert same(read, expert)
    assert str(path) not in Path("/proc/self/maps").read_text(encoding="utf-8")


# --- Cards and numbers that somebody made up.


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "x" * 20_000_000}, "name takes 20,000,000 characters"),
        ({"base_model": "x" * 1000}, "base_model"),
        ({"labels": ("x" * 1000,)}, "labels"),
    ],
)
def test_a_text_that_every_page_would_be_sent_is_refused_when_it_is_written(
    expert, tmp_path, changes, told
):
    assert told in reason(write_expert, replace(expert, **changes), tmp_path / "e.safetensors")


def made(path, z, **card):
    """A file as somebody might make it by hand."""
    needed = {"schema": "1", "name": "e", "base_model": MODEL, "basis_fingerprint": "x"}
    metadata = {f"t2local.{key}": value for key, value in (needed | card).items()}
    save_file(z, path, metadata)
    return path


@pytest.mark.parametrize(
    ("card", "told"),
    [
        ({"description": "x" * 20_000_000}, "20,000,000|bytes"),
        ({"training": "[" * 100_000}, "inside one another"),
        ({"training": '{"steps": 1, "steps": 2}'}, "comes twice"),
        ({"labels": '[["a"]]'}, "labels"),
        ({"sigma": '{"m": [1, "2"]}'}, "sigma.m"),
        ({"kind": "admin"}, "the kind 'admin'"),
    ],
)
def test_a_card_is_read_by_its_types(tmp_path, card, told):
    path = made(tmp_path / "e.safetensors", {"m": torch.ones(3)}, **card)
    with pytest.raises(T2LocalError, match=told):
        read_expert(path)


@pytest.mark.parametrize(
    ("z", "told"),
    [
        (torch.tensor([3e38, 1.0]), "beyond 1000"),
        (torch.tensor([1.0, -1001.0]), "beyond 1000"),
        (torch.tensor([1e300], dtype=torch.float64), "infinity"),
        (torch.ones(2, 2), "shape"),
        (torch.ones(()), "shape"),
        (torch.ones(0), "shape"),
        (torch.ones(2, dtype=torch.int8), "I8"),
        (torch.ones(2, dtype=torch.bool), "BOOL"),
    ],
)
def test_what_is_no_z_is_refused(tmp_path, z, told):
    assert told in reason(read_expert, made(tmp_path / "e.safetensors", {"m": z}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_can_be_a_z(tmp_path, dtype):
    path = made(tmp_path / "e.safetensors", {"m": torch.tensor([1.0, 0.5], dtype=dtype)})
    assert read_expert(path).z["m"].tolist() == [1.0, 0.5]


@pytest.mark.parametrize("matrix", ["a b", "<b>", "model.\u00b2.up", "m" * 400])
def test_a_matrix_has_a_name_that_a_model_can_have(tmp_path, matrix):
    path = made(tmp_path / "e.safetensors", {matrix: torch.ones(2)})
    assert "name no model has" in reason(read_expert, path)


@pytest.mark.parametrize("name", ["another", "other", "two words", "../up"])
def test_a_name_that_is_not_the_files_is_not_used(expert, shipped, name):
    write_expert(expert, shipped / "counting.safetensors")
    write_expert(replace(expert, name=name), shipped / "odd.safetensors")
    files = ExpertStore(MODEL).files()
    assert [file.expert.name for file in files] == ["counting", "odd"]
    assert ExpertStore(MODEL).load("odd").name == "odd"


# --- What other hands did to a file: its weights are still used.


@pytest.mark.parametrize(
    "entry",
    [
        '"held_out": {}', '"held_out": {"n": 5}', '"held_out": [1]', '"curve": [0.1, NaN]',
        '"curve": [0.1, "x"]', '"forgetting": [{"n": 1}]', '"forgetting": 3', '"steps": "<b>"',
        '"transferred": {"resampled": "<b>"}', '"curve": [1, null]', '"run": {"train": "x"}',
        '"steps": 2.5', '"seconds": Infinity', '"quantization": 8',
    ],
)  # fmt: skip
def test_an_entry_that_cannot_be_shown_is_left_out_and_the_weights_are_used(tmp_path, entry):
    path = tmp_path / "e.safetensors"
    card = {
        "t2local.schema": "1", "t2local.name": "e", "t2local.base_model": MODEL,
        "t2local.basis_fingerprint": "svf1-0", "t2local.training": f'{{"rows": 7, {entry}}}',
    }  # fmt: skip
    save_file({"m": torch.ones(3)}, path, card)
    found = read_expert(path)
    assert found.training == {"rows": 7}
    assert torch.equal(found.z["m"], torch.ones(3))
    write_expert(found, path)
    assert same(read_expert(path), found)


def test_steps_may_be_written_with_a_point(expert, tmp_path):
    write_expert(replace(expert, training={"steps": 3.0}), tmp_path / "e.safetensors")
    assert repr(read_expert(tmp_path / "e.safetensors").training["steps"]) == "3"


@pytest.mark.parametrize("name", ["description", "reward", "license"])
def test_a_long_text_is_cut_when_it_is_written_and_when_it_is_read(expert, tmp_path, name):
    path = tmp_path / "counting.safetensors"
    write_expert(replace(expert, **{name: "word " * 1000}), path)
    written = getattr(read_expert(path), name)
    assert written.startswith("word word")
    assert written.endswith("…")
    assert len(written) <= 4_000
    with safe_open(path, "pt") as file:
        card = file.metadata()
    assert card[f"t2local.{name}"] == written
    save_file(dict(expert.z), path, card | {f"t2local.{name}": "word " * 1000})
    assert getattr(read_expert(path), name) == written


@pytest.mark.parametrize("name", ["name", "description"])
def test_half_of_a_character_is_refused_before_anything_is_written(expert, tmp_path, name):
    path = tmp_path / "counting.safetensors"
    with pytest.raises(T2LocalError, match=f"The expert's {name} is not UTF-8 text") as refused:
        write_expert(replace(expert, **{name: "half\ud83d"}), path)
    assert str(refused.value).encode()
    assert not path.exists()


def test_a_file_renamed_by_hand_is_the_expert_of_its_new_name(expert, shipped):
    store = ExpertStore(MODEL)
    path = store.save(expert)
    path.rename(path.with_name("sums-2.safetensors"))
    assert store.load("sums-2").name == "sums-2"
    assert same(replace(store.load("sums-2"), name=expert.name), expert)
    assert [(f.expert.name, f.problem) for f in store.files()] == [("sums-2", "")]


def test_a_name_that_no_expert_can_have_is_set_aside(expert, shipped):
    store = ExpertStore(MODEL)
    path = store.save(expert)
    path.rename(path.with_name("base.safetensors"))
    store.save(expert)
    problems = {f.path.stem: f.problem for f in store.files()}
    assert problems.pop(expert.name) == ""
    assert "already means something" in problems["base"]


SHIPPED = sorted(paths.SHIPPED_EXPERTS.glob("*/*.safetensors"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_shipped_expert_says_where_it_is_from_and_what_was_measured(path):
    expert = read_expert(path)
    card, held_out = expert.training, expert.held_out
    assert expert.name == path.stem
    assert paths.slug(expert.base_model) == path.parent.name
    assert card["command"].startswith("python -m t2local train")
    assert "/" not in card["command"].replace("t2local/", "")  # no folder of one machine
    assert {"seed", "steps", "data", "data_sha256", "train_s"} <= set(card)
    assert held_out.n >= 200
    low, high = held_out.ci95_difference
    assert low <= held_out.trained - held_out.base <= high
    assert expert.license
