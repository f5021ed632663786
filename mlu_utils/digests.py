"""One notion of "the same": of facts, and of code. Checkpoints and the workflow both name their results by it.

Code is the same while its syntax trees are, docstrings and comments apart. Nothing here imports the code it looks at.
"""

import ast
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from mlu_utils import paths

PACKAGE = "mlu_utils"
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def digest(facts: Any) -> str:
    """Return the SHA-256 of facts that JSON can hold, whatever the order of their names."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@cache
def code_digest(*roots: str, source: str = "", excludes: tuple[str, ...] = ()) -> str:
    """Return the SHA-256 of the code that `import_closure` finds, computed once a process for the same arguments."""
    modules = import_closure(*roots, source=source, excludes=excludes)
    of_modules = {name: _digest_and_imports(file.read_text("utf-8"), name)[0] for name, file in modules.items()}
    return digest([_digest_and_imports(source, "source")[0], of_modules])


def import_closure(*roots: str, source: str = "", excludes: tuple[str, ...] = ()) -> dict[str, Path]:
    """Return name -> file of the roots and of all that they, and a text, import from this package, even indirectly.

    Imports inside functions count. A module that is loaded by a computed name cannot be seen: give it as a root. What
    is excluded does not count, nor what only it imports. A root that does not exist and bad Python are a ValueError.
    """
    found: dict[str, Path] = {}
    for root in roots:
        if _file_of(root) is None:
            raise ValueError(f"the imports of {root} cannot be followed: No module named {root}")
    pending, seen = [*roots, *_imports(source, "source")], set(excludes)
    while pending:
        name = pending.pop()
        if "." in name:  # to import a module is to import the packages that it lies in
            pending.append(name.rpartition(".")[0])
        file = None if name in seen else _file_of(name)
        seen.add(name)
        if file is not None:
            found[name] = file
            pending += _imports(file.read_text("utf-8"), f"{name}.__init__" if file.stem == "__init__" else name)
    return dict(sorted(found.items()))


def _file_of(module: str) -> Path | None:
    if module.split(".")[0] != PACKAGE:
        return None
    place = paths.ROOT.joinpath(*module.split("."))
    return next((file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()), None)


def _imports(source: str, module: str) -> list[str]:
    """Return the absolute names that a module's text imports, of modules and of what they hold alike."""
    parts = module.split(".")
    found = _digest_and_imports(source, module)[1]
    return [".".join([*(parts[:-level] if level else ()), name]) for level, name in found]


@cache
def _digest_and_imports(source: str, name: str) -> tuple[str, list[tuple[int, str]]]:
    """Return the SHA-256 of a text's code, and the level and name of each of its imports."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        line = f"line {error.lineno}, {(error.text or '').strip()!r}"
        raise ValueError(f"{name}: no valid Python, {error.msg}: {line}") from error
    imports = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            of = f"{node.module}." if node.module else ""
            imports += [(node.level, of + alias.name) for alias in node.names]
        elif isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imports
