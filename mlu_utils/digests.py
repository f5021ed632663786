"""One notion of "the same": of facts, and of code. Checkpoints and the workflow both name their results by it.

Code is the same while its syntax trees are, docstrings and comments apart. Nothing here imports the code it looks at.
"""

from __future__ import annotations

import ast
import hashlib
import json
import modulefinder
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

from mlu_utils import paths

PACKAGE = "mlu_utils"
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def digest(facts: Any) -> str:
    """Return the SHA-256 of facts that JSON can hold, whatever the order of their names."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@cache
def code_digest(*roots: str | Path, source: str = "", excludes: tuple[str, ...] = ()) -> str:
    """Return the SHA-256 of the code of these roots and of every module of the package that they import.

    It is computed once a process for the same roots.

    Args:
        roots: names of modules of the package, or Python files.
        source: Python text, for example the cells of a notebook, which counts likewise.
        excludes: names of modules that do not count, nor what only they import.

    Raises:
        ValueError: no such module or file, or one that is no Python.
    """
    modules = import_closure(*roots, source=source, excludes=excludes)
    return digest([_digest_and_imports(source)[0], {n: _digest_and_imports(_read(f))[0] for n, f in modules.items()}])


def import_closure(*roots: str | Path, source: str = "", excludes: tuple[str, ...] = ()) -> dict[str, Path]:
    """Return name -> file of the roots and of all that they import from this package, directly or indirectly.

    Imports inside functions count. A module that is loaded by a computed name cannot be seen: give it as a root.

    Args:
        roots, source, excludes: see `code_digest`.

    Raises:
        ValueError: no such module or file, or one that is no Python.
    """
    finder = _InsidePackage(path=[str(paths.ROOT)], excludes=excludes)
    where = "source"
    try:
        finder.scan_code(_digest_and_imports(source)[1], finder.add_module("__main__"))
        for root in roots:
            where = str(root)
            if isinstance(root, Path):
                finder.load_file(where)
            else:
                finder.import_hook(root)
    except (ImportError, OSError) as error:
        raise ValueError(f"the imports of {where} cannot be followed: {error}") from error
    except SyntaxError as error:
        line = f"line {error.lineno}, {(error.text or '').strip()!r}"
        raise ValueError(f"{where}: no valid Python, {error.msg}: {line}") from error
    found = {name: Path(module.__file__) for name, module in finder.modules.items() if module.__file__}
    return dict(sorted(found.items()))


class _InsidePackage(modulefinder.ModuleFinder):
    """Follows imports, but never out of the package, and reads of a module only its imports."""

    def find_module(self, name, path, parent=None):
        full = f"{parent.__name__}.{name}" if parent else name
        if name != "__init__" and full.split(".")[0] != PACKAGE:
            raise ImportError(f"{full} is no module of {PACKAGE}")
        try:
            return super().find_module(name, path, parent)
        except AttributeError:  # modulefinder knows no packages of this kind
            raise ValueError(f"the folder of {full} has no __init__.py: its imports cannot be followed") from None

    def load_module(self, fqname, fp, pathname, file_info):
        if fp is None:  # a package: modulefinder comes back with its __init__
            return super().load_module(fqname, fp, pathname, file_info)
        module = self.add_module(fqname)
        module.__file__ = pathname
        self.scan_code(_digest_and_imports(_read(Path(pathname)))[1], module)
        return module


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


@cache
def _digest_and_imports(source: str) -> tuple[str, CodeType]:
    tree = ast.parse(source)
    statements = list(_statements(tree))
    found = [node for node in statements if isinstance(node, ast.Import | ast.ImportFrom)]
    in_order = sorted(found, key=lambda node: node.lineno)  # those from __future__ first
    imports = compile(ast.Module(in_order, type_ignores=[]), "imports", "exec")
    for node in statements:
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield a module and its statements, however deep; expressions hold none, and a walk through them takes long."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        yield node
        for name in ("body", "orelse", "handlers", "finalbody", "cases"):
            pending += getattr(node, name, ())
