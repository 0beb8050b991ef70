"""The contracts themselves can fail: each finds the violation that it is there for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contracts import source
from tests.contracts.source import Source, code_lines
from tests.contracts.test_habits import guesses, late_imports, unsafe


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file of an imagined package, `src/timeviper/model/layer.py`, with the given text."""
    monkeypatch.setattr(source, "ROOT", tmp_path)
    monkeypatch.setattr(source, "SRC", tmp_path / "src")

    def write(text: str, name: str = "model/layer.py") -> Source:
        path = tmp_path / "src" / "timeviper" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return Source(path)

    return write


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load('x.bin')",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "AutoModel.from_pretrained('x', trust_remote_code=flag)",
        "np.load('x.npy', allow_pickle=True)",
        "subprocess.run('ls', shell=True)",
        "eval('1')",
    ],
)
def test_unsafe_lines_are_found(write, line: str) -> None:
    assert list(unsafe(write(line)))


@pytest.mark.parametrize("line", ["model.eval()", "f(trust_remote_code=False)", "import json"])
def test_safe_lines_are_left_alone(write, line: str) -> None:
    assert not list(unsafe(write(line)))


@pytest.mark.parametrize(
    "line", ["hasattr(a, 'b')", "def f(**kwargs): ...", "def f():\n    global x\n    x = 1"]
)
def test_guesses_are_found(write, line: str) -> None:
    assert list(guesses(write(line)))


def test_late_imports_are_found_outside_the_command_line(write) -> None:
    text = "def f():\n    from timeviper.core import errors\n    return errors\n"
    assert list(late_imports(write(text)))
    assert not list(late_imports(write(text, "cli/ask.py")))
    assert list(late_imports(write("def f():\n    return importlib.import_module('x')\n")))


def test_a_docstring_does_not_count_as_code(write) -> None:
    file = write('def f():\n    """One.\n\n    Two.\n    """\n    a = 1\n    return a\n')
    assert [code_lines(function) for function in file.functions()] == [3]
