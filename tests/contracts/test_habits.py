"""What no file does: run strangers' code, guess at objects, hide state, import late."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.contracts.source import Source, dotted, sources

UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_CALLS = {"torch.load", "eval", "exec", "os.system", "os.popen", "__import__"}
UNSAFE_KEYWORDS = {"trust_remote_code": False, "weights_only": True, "allow_pickle": False}
UNSAFE_KEYWORDS["shell"] = False
# The package's lazy exports, kernels loaded by name, commands loaded when called.
LATE_IMPORT_ALLOWED = {"timeviper", "timeviper.ops.backend"}


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return []


def unsafe(file: Source) -> Iterator[str]:
    """Places where bytes or text from outside could become code."""
    for node in ast.walk(file.tree):
        found = [name for name in _imported(node) if name.split(".")[0] in UNSAFE_MODULES]
        if isinstance(node, ast.Call):
            found += [dotted(node.func)] if dotted(node.func) in UNSAFE_CALLS else []
            found += [
                f"{key.arg}={ast.unparse(key.value)}"
                for key in node.keywords
                if key.arg in UNSAFE_KEYWORDS
                and not (
                    isinstance(key.value, ast.Constant)
                    and key.value.value is UNSAFE_KEYWORDS[key.arg]
                )
            ]
        yield from (f"{file.where}:{node.lineno} {what}" for what in found)


def guesses(file: Source) -> Iterator[str]:
    """`hasattr`, `global` and parameters that pass anything through."""
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Call) and dotted(node.func) == "hasattr":
            yield f"{file.where}:{node.lineno} hasattr"
        if isinstance(node, ast.Global):
            yield f"{file.where}:{node.lineno} global {', '.join(node.names)}"
    for function in file.functions():
        if function.args.kwarg is not None:
            yield f"{file.where}:{function.lineno} {function.name}(**{function.args.kwarg.arg})"


def late_imports(file: Source) -> Iterator[str]:
    """Imports of ours inside functions, and modules imported by name."""
    if file.room == "cli" or file.module in LATE_IMPORT_ALLOWED:
        return
    for function in file.functions():
        for node in ast.walk(function):
            ours = [name for name in _imported(node) if name.split(".")[0] == "timeviper"]
            if isinstance(node, ast.Call) and dotted(node.func).endswith("import_module"):
                ours.append(ast.unparse(node))
            yield from (f"{file.where}:{node.lineno} {name}" for name in ours)


def test_nothing_runs_what_a_file_says() -> None:
    found = [place for file in sources() for place in unsafe(file)]
    assert not found, "\n".join(found)


def test_nothing_guesses_and_nothing_hides() -> None:
    found = [place for file in sources() for place in guesses(file)]
    assert not found, "\n".join(found)


def test_no_late_import_of_ours() -> None:
    found = [place for file in sources() for place in late_imports(file)]
    assert not found, "\n".join(found)
