# SPDX-License-Identifier: BSD-3-Clause
import json
import os
import pathlib
import pickle
import stat

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from unlearnkit import _tensor_file
from unlearnkit._tensor_file import read_manifest, read_tensors, write_tensors
from unlearnkit.exceptions import DataError

MANIFEST = {"rows": {"b": [1, 2], "a": None}, "note": 'Ærø "quoted" \n \ud800'}
TENSORS = {"b": torch.arange(3), "a": torch.randn(2, 2), "none": torch.zeros(0)}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "it.safetensors"
    write_tensors(path, "kind", 3, MANIFEST, TENSORS)
    return path


def with_entry(path, entry):
    save_file(TENSORS, path, metadata={"unlearnkit": entry})
    return path


def test_what_is_written_is_read(path):
    for given_as in (path, str(path)):
        manifest, tensors = read_tensors(given_as, "kind", 3)
        assert manifest == MANIFEST
        assert list(manifest["rows"]) == ["b", "a"]
        assert tensors.keys() == TENSORS.keys()
        assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_an_older_version_is_read(path):
    assert read_tensors(path, "kind", 4)[0] == MANIFEST


def test_equal_content_makes_equal_bytes(path, tmp_path):
    for i in range(10):
        write_tensors(tmp_path / f"{i}", "kind", 3, MANIFEST, dict(reversed(TENSORS.items())))
        assert (tmp_path / f"{i}").read_bytes() == path.read_bytes()


def test_tensors_do_not_hang_on_the_file(path):
    _, tensors = read_tensors(path, "kind", 3)
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(tensors["a"], TENSORS["a"])


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_permissions_follow_the_umask(path):
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_link_is_written_through(path, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(path)
    write_tensors(link, "kind", 3, {}, {})
    assert link.is_symlink()
    assert read_tensors(path, "kind", 3) == ({}, {})


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(path, monkeypatch, step):
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_tensor_file.os, step, full)
    with pytest.raises(OSError, match="No space left"):
        write_tensors(path, "kind", 3, {}, {})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_places_that_cannot_be_written_say_why(tmp_path):
    with pytest.raises(DataError, match="it is a folder; give a file's name"):
        write_tensors(tmp_path, "kind", 3, {}, {})
    with pytest.raises(DataError, match=r"its folder .*nowhere' does not exist; make it first"):
        write_tensors(tmp_path / "nowhere" / "file", "kind", 3, {}, {})
    assert os.listdir(tmp_path) == []


def foreign_files(folder):
    """Yield a path that is no such file, and what the error says of it."""
    yield folder / "missing", "there is no such file"
    yield folder, "it is a folder"
    for name, content in {
        "empty": b"",
        "pickle": pickle.dumps({"a": 1}),
        "text": b"hello" * 100,
        "zeros": bytes(1000),
    }.items():
        (folder / name).write_bytes(content)
        yield folder / name, "no safetensors file, or it is cut short or damaged"
    torch.save({"a": torch.zeros(3)}, folder / "checkpoint.pt")
    yield folder / "checkpoint.pt", "no safetensors file"
    save_file({"fc.weight": torch.zeros(3)}, folder / "state")
    yield folder / "state", "not one of unlearnkit .*state dict"
    yield with_entry(folder / "entry", "no json"), "its unlearnkit entry is damaged"
    yield with_entry(folder / "list", "[1]"), "its unlearnkit entry is damaged"
    part = '{"kind": "kind", "version": 3}'
    yield with_entry(folder / "part", part), r"its unlearnkit entry is damaged .*manifest"
    write_tensors(folder / "other", "another kind", 3, {}, {})
    yield folder / "other", "holds a another kind, expected a kind"
    write_tensors(folder / "newer", "kind", 4, {}, {})
    yield folder / "newer", r"newer unlearnkit .*layout 4, .* up to 3\); upgrade unlearnkit"


def test_files_that_are_something_else_say_what(tmp_path):
    count = 0
    for path, message in foreign_files(tmp_path):
        with pytest.raises(DataError, match=message) as caught:
            read_tensors(path, "kind", 3)
        assert repr(str(path)) in str(caught.value)
        count += 1
    assert count == 13


def test_manifest_is_read_without_the_tensors(tmp_path, monkeypatch):
    write_tensors(tmp_path / "file", "kind", 3, {"a": [1, 2]}, {"x": torch.zeros(3)})
    monkeypatch.setattr("unlearnkit._tensor_file._checksum", None)
    assert read_manifest(tmp_path / "file", "kind", 3) == {"a": [1, 2]}
    for path, message in foreign_files(tmp_path):
        monkeypatch.undo()  # the foreign files are written with a checksum
        with pytest.raises(DataError, match=message):
            read_manifest(path, "kind", 3)


def test_every_cut_is_noticed(path):
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match="cannot load"):
            read_tensors(path, "kind", 3)


@given(data=st.data())
def test_every_flipped_bit_is_noticed(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "flipped"
    write_tensors(path, "kind", 3, MANIFEST, TENSORS)
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        manifest, tensors = read_tensors(path, "kind", 3)
    except DataError:
        return
    # What still loads holds the same: JSON can write one thing in several ways.
    assert manifest == MANIFEST
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_the_checksum_covers_names_versions_and_tensors(path):
    head = {"kind": "kind", "version": 3, "manifest": MANIFEST}
    good = _tensor_file._checksum(head, TENSORS)
    with_entry(path, json.dumps({**head, "checksum": good}))
    assert read_tensors(path, "kind", 3)[0] == MANIFEST
    for change in ({"version": 2}, {"manifest": {**MANIFEST, "note": ""}}, {"more": 1}):
        with_entry(path, json.dumps({**head, **change, "checksum": good}))
        with pytest.raises(DataError, match="does not match its checksum"):
            read_tensors(path, "kind", 3)
    with_entry(path, json.dumps(head))
    with pytest.raises(DataError, match="does not match its checksum"):
        read_tensors(path, "kind", 3)
    renamed = {"c" if name == "b" else name: tensor for name, tensor in TENSORS.items()}
    save_file(renamed, path, metadata={"unlearnkit": json.dumps({**head, "checksum": good})})
    with pytest.raises(DataError, match="does not match its checksum"):
        read_tensors(path, "kind", 3)


def test_paths_of_the_standard_library_are_taken(tmp_path):
    class Somewhere:
        def __fspath__(self):
            return str(tmp_path / "file")

    write_tensors(Somewhere(), "kind", 3, MANIFEST, TENSORS)
    assert isinstance(pathlib.Path(Somewhere()), os.PathLike)
    assert read_tensors(Somewhere(), "kind", 3)[0] == MANIFEST
