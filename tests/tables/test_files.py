import pytest

from ospo_cli.errors import FileError, MissingInputError
from ospo_cli.tables import files
from tests.policies.tiny import folder_bytes


def test_json_is_sorted_indented_and_ends_with_a_line_feed(tmp_path):
    files.write_json(tmp_path / "sub/x.json", {"b": [1], "a": "é"})
    assert (tmp_path / "sub/x.json").read_bytes() == b'{\n  "a": "\\u00e9",\n  "b": [\n    1\n  ]\n}\n'
    assert files.read_json(tmp_path / "sub/x.json") == {"b": [1], "a": "é"}
    assert files.as_json("é", ensure_ascii=False) == '"é"\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"x\.json: cannot be read as JSON: found Expecting.*; run `ospo evaluate` again"),
        ("[" * 100_000, "cannot be read as JSON: found maximum recursion"),
        ("[]", "is no JSON object: found list; run `ospo evaluate` again"),
    ],
)
def test_broken_json_is_one_line_with_the_command_that_makes_it(content, message, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(FileError, match=message):
        files.read_json(tmp_path / "x.json", "ospo evaluate")


def test_missing_json_names_the_command_to_run_first(tmp_path):
    with pytest.raises(MissingInputError, match=r"x\.json: no such file; run `ospo evaluate` first"):
        files.read_json(tmp_path / "x.json", "ospo evaluate")


def test_the_hash_of_a_folder_tells_names_and_contents_apart(tmp_path):
    seen = {files.sha256_of(tmp_path / "folder")}
    for name, content in (("a", "1"), ("a", "2"), ("b", "2"), ("b/c", "2")):
        path = tmp_path / f"folder{len(seen)}" / name
        path.parent.mkdir(parents=True)
        path.write_text(content)
        seen.add(files.sha256_of(tmp_path / f"folder{len(seen)}"))
    assert len(seen) == 5
    assert files.sha256_of(tmp_path / "nothing") == "absent"


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "policy"
    target.mkdir()
    (target / "old").write_text("old")
    rename = type(target).rename

    def refuse(path, to):
        if path.name != "policy" and not path.name.endswith(".old.tmp"):
            raise OSError(13, "Permission denied")
        return rename(path, to)

    monkeypatch.setattr(type(target), "rename", refuse)
    with pytest.raises(FileError, match="Permission denied"), files.replacing_folder(target) as temporary:
        (temporary / "new").write_text("new")
    assert folder_bytes(tmp_path) == {"policy/old": b"old"}


def test_a_folder_is_replaced_whole_when_the_block_ends_well(tmp_path):
    target = tmp_path / "policy"
    target.mkdir()
    (target / "old").write_text("old")
    with files.replacing_folder(target) as temporary:
        (temporary / "new").write_text("new")
        assert (target / "old").exists()
    assert folder_bytes(tmp_path) == {"policy/new": b"new"}


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path):
    target = tmp_path / "policy"
    target.mkdir()
    (target / "old").write_text("old")

    def write_and_fail():
        with files.replacing_folder(target) as temporary:
            (temporary / "new").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert folder_bytes(tmp_path) == {"policy/old": b"old"}


def test_a_full_disk_is_one_line_with_a_remedy(tmp_path):
    with pytest.raises(FileError, match=r"cannot be written.*No space left.*free space"), files.replacing_folder(tmp_path / "policy"):
        raise OSError(28, "No space left on device")
    assert folder_bytes(tmp_path) == {}


def test_what_a_kill_left_behind_is_swept(tmp_path):
    (tmp_path / ".policy.abc.tmp").mkdir()
    with files.replacing_folder(tmp_path / "policy") as temporary:
        (temporary / "new").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
