"""The manifest of a folder: what it names, and files that are added to it."""

import itertools
import json
import os

import pytest
from child_process import in_child
from outputs import contents, exported, put

from hf_compress.ground.errors import UsageError
from hf_compress.ground.manifest import MANIFEST, Manifest, adding, claim


def test_files_are_added_beside_others_and_replaced_only_where_they_are_ours(tmp_path):
    folder = tmp_path / "model"
    put("config.json", "model.onnx.json")(folder)
    exported(folder)
    exported(folder)
    assert Manifest.of(folder).files.keys() == {"model.onnx"}
    for name in ("model.onnx", "model.onnx.json", "config.json"):
        put(name)(folder)
        with pytest.raises(UsageError, match=f"'{folder / name}' would be replaced"), adding(folder) as new:
            put(name, text="new")(new)
    (folder / "linked").symlink_to(tmp_path)
    for name in ("linked/new", "linked"):
        with pytest.raises(UsageError, match="would be replaced"):
            claim(folder, [name])
    with pytest.raises(UsageError, match="is no folder"):
        claim(folder / "config.json", ["a"])
    assert contents(folder).keys() == {"config.json", "model.onnx", "model.onnx.json", "linked", MANIFEST}


def test_a_kill_while_files_are_added_leaves_files_that_are_ours(tmp_path):
    """The process dies at its first renaming, at its second, and so on; then the same files are added again."""
    for fatal in itertools.count():
        folder = tmp_path / str(fatal)
        for text in ("old", None, "new"):
            if text:
                with adding(folder) as new:
                    put("a", "b/c", text=text)(new)
            elif in_child(lambda folder=folder, fatal=fatal: add_and_die(folder, fatal)) == 0:
                assert fatal > 3
                return
        assert Manifest.of(folder).owns(folder, "a")
        assert (folder / "b" / "c").read_text() == "new"


def add_and_die(folder, fatal):
    calls, replace = itertools.count(), os.replace

    def mortal(*arguments):
        if next(calls) == fatal:
            os._exit(9)
        return replace(*arguments)

    os.replace = mortal
    with adding(folder) as new:
        put("a", "b/c", text="between")(new)


HOSTILE = ["../x", "/etc/passwd", "a/../../x", "", ".", "a//b", "./a", 7, None]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_manifest_that_names_something_outside_is_none(name, tmp_path):
    text = Manifest(kind="run", files={"a": ["0"]}).text()
    assert Manifest.parsed(text.encode()).files == {"a": ["0"]}
    values = json.loads(text)
    assert Manifest.parsed(json.dumps(values | {"runs": [name]}).encode()) is None
    if isinstance(name, str):
        assert Manifest.parsed(json.dumps(values | {"files": {name: ["0"]}}).encode()) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"files": {}}', '{"format": "hf_compress manifest"}'])
def test_what_is_no_manifest(text):
    assert Manifest.parsed(text.encode()) is None
