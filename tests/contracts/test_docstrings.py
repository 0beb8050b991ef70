"""Each file says what it is for, and each public name says what it does."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.contracts.source import Function, Source, sources


def _public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    for node in body:
        if not isinstance(node, (ast.ClassDef, Function)) or node.name.startswith("_"):
            continue
        if any("overload" in ast.unparse(mark) for mark in node.decorator_list):
            continue
        yield f"{prefix}{node.name}", node
        if isinstance(node, ast.ClassDef):
            yield from _public(node.body, f"{prefix}{node.name}.")


def _opening(file: Source) -> str:
    return (ast.get_docstring(file.tree) or "").split("\n\n")[0]


def test_every_file_opens_with_one_sentence() -> None:
    wrong = [
        file.where
        for file in sources()
        if not file.text.startswith('"""') or not _opening(file).rstrip().endswith(".")
    ]
    assert not wrong, f"no sentence on the first line: {wrong}"


def test_every_public_name_is_documented() -> None:
    names = [(file, name, node) for file in sources() for name, node in _public(file.tree.body)]
    bare = [f"{f.where}: {name}" for f, name, node in names if not ast.get_docstring(node)]
    print(f"\n{len(names) - len(bare)} of {len(names)} public names are documented")
    assert not bare, "\n".join(bare)
