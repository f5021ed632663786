"""Sameness of code and facts, and files that appear whole."""

import os
import subprocess
import sys
import textwrap
import time

import pytest

from mlu_utils import digests, files, paths
from mlu_utils.digests import code_digest, digest, import_closure


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a function that writes a module of a package of our name, in a folder of its own."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)

    def write(name, source):
        file = tmp_path / "mlu_utils" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(source))
        return file

    for name, source in {
        "__init__": "",
        "a": "import os, torch\nfrom mlu_utils import b",
        "b": "def f():\n    from mlu_utils.sub.c import x\n    return x",
        "sub/__init__": "",
        "sub/c": "from ..d import y as x",
        "d": "y = 1",
        "e": "import mlu_utils.a",
    }.items():
        write(name, source)
    return write


def closure(*roots, **options):
    return {name.removeprefix("mlu_utils").removeprefix(".") for name in import_closure(*roots, **options)}


def fresh(*roots, **options):
    code_digest.cache_clear()
    return code_digest(*roots, **options)


# Facts


def test_the_order_of_names_is_no_difference():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert len({digest(facts) for facts in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": [1]}, {"a": None})}) == 5


# Code


@pytest.mark.parametrize(
    ("roots", "names"),
    [
        (["mlu_utils.d"], {"", "d"}),
        (["mlu_utils.sub.c"], {"", "sub", "sub.c", "d"}),
        (["mlu_utils.a"], {"", "a", "b", "sub", "sub.c", "d"}),
        (["mlu_utils.e", "mlu_utils.d"], {"", "a", "b", "sub", "sub.c", "d", "e"}),
        (["mlu_utils.loose.x"], {"", "d", "loose.x"}),
    ],
)
def test_the_closure_holds_all_that_is_imported_and_nothing_else(package, roots, names):
    package("loose/x", "from mlu_utils import d, nothing")  # a folder without an __init__.py
    assert closure(*roots) == names


def test_what_is_excluded_takes_what_only_it_imports_along(package):
    assert closure("mlu_utils.a", excludes=("mlu_utils.sub.c",)) == {"", "a", "b", "sub"}


def test_the_closure_of_text(package):
    assert closure(source="from mlu_utils.sub import c") == {"", "sub", "sub.c", "d"}
    assert closure(source="import pandas") == set()


def test_the_closure_is_what_python_itself_imports():
    code = "import sys; import mlu_utils.training; print(*(n for n in sys.modules if n.split('.')[0] == 'mlu_utils'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=paths.ROOT)
    assert set(done.stdout.split()) <= set(import_closure("mlu_utils.training")), done.stderr


def test_every_folder_of_the_library_is_a_package():
    folders = {file.parent for file in (paths.ROOT / "mlu_utils").rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


@pytest.mark.parametrize(
    ("source", "is_same"),
    [
        ("y = 1  # one", True),
        ('"""What is."""\ny = (1)\n', True),
        ("y = 2", False),
        ("y = 1\nz = 1", False),
        ("y = '1'", False),
    ],
)
def test_comments_and_docstrings_are_no_difference(package, source, is_same):
    before = fresh("mlu_utils.a"), fresh("mlu_utils.sub")
    package("d", source)
    after = fresh("mlu_utils.a"), fresh("mlu_utils.sub")
    assert (before[0] == after[0]) == is_same and before[1] == after[1]


def test_docstrings_inside_functions_are_no_difference(package):
    package("d", "class A:\n    '''A.'''\n    def f(self):\n        '''f.'''\n        return 1")
    before = fresh("mlu_utils.d")
    package("d", "class A:\n    def f(self):\n        return 1")
    assert fresh("mlu_utils.d") == before
    package("d", "class A:\n    def f(self):\n        return 'f.'")
    assert fresh("mlu_utils.d") != before


def test_the_text_itself_counts(package):
    text = "from mlu_utils import d"
    assert fresh(source=text) == fresh(source=text + "  # d") != fresh(source=text + "\nd.y")
    assert fresh(source="") != fresh("mlu_utils.d")


@pytest.mark.parametrize(
    ("roots", "options", "message"),
    [
        (["mlu_utils.z"], {}, "the imports of mlu_utils.z cannot be followed: No module named mlu_utils.z"),
        (["torch"], {}, "the imports of torch cannot be followed"),
        ([], {"source": "a b"}, "source: no valid Python, invalid syntax: line 1, 'a b'"),
        (["mlu_utils.bad"], {}, "mlu_utils.bad: no valid Python, .*: line 2, 'y = = 2'"),
    ],
)
def test_what_cannot_be_followed_is_named(package, roots, options, message):
    package("bad", "x = 1\ny = = 2")
    with pytest.raises(ValueError, match=message):
        import_closure(*roots, **options)


def test_the_result_is_that_of_this_process(package):
    before = fresh("mlu_utils.d")
    package("d", "y = 2")
    assert code_digest("mlu_utils.d") == before != fresh("mlu_utils.d")


# Files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_are_written_and_replaced(tmp_path):
    old = tmp_path / "old.txt"
    old.write_bytes(b"old")
    files.write_atomically({old: b"new", tmp_path / "deep" / "folder" / "a.bin": b"\x00\x01"})
    assert old.read_bytes() == b"new" and (tmp_path / "deep" / "folder" / "a.bin").read_bytes() == b"\x00\x01"
    assert names(tmp_path) == ["deep", "old.txt"] and names(tmp_path / "deep" / "folder") == ["a.bin"]


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_everything_as_it_was(tmp_path, monkeypatch, error):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"old")
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise error

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(type(error)):
        files.write_atomically({first: b"new", second: b"new"})
    assert names(tmp_path) == ["a"] and first.read_bytes() == b"old"


def test_a_target_that_is_a_folder_leaves_no_part(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError):
        files.write_atomically({tmp_path / "a": b"x"})
    assert names(tmp_path) == ["a"]


def test_a_file_appears_only_when_it_is_whole(tmp_path, monkeypatch):
    seen = []
    replace = os.replace

    def watched(source, target):
        seen.append((os.path.exists(target), source.read_bytes()))
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", watched)
    files.write_atomically({tmp_path / "a": b"whole"})
    assert seen == [(False, b"whole")]


def test_two_writers_do_not_share_a_part(tmp_path, monkeypatch):
    parts = []
    monkeypatch.setattr(files.os, "replace", lambda part, _: parts.append(part))
    for _ in range(2):
        files.write_atomically({tmp_path / "a": b"x"})
    assert len(set(parts)) == 2


def test_parts_of_a_killed_run_are_removed_and_those_at_work_are_not(tmp_path):
    dead, alive, other = (tmp_path / name for name in (".a.1.part", ".a.2.part", ".b.1.part"))
    for part in (dead, alive, other):
        part.write_bytes(b"half")
    past = time.time() - 2 * files.ABANDONED_AFTER_S
    for part in (dead, other):
        os.utime(part, (past, past))
    files.write_atomically({tmp_path / "a": b"x"})
    assert names(tmp_path) == [".a.2.part", ".b.1.part", "a"]


def test_these_modules_need_no_torch():
    code = "import sys; from mlu_utils import digests, files, paths, naming; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=paths.ROOT)
    assert done.stdout.strip() == "False", done.stderr
    assert digests.PACKAGE == "mlu_utils"
