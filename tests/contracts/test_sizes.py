"""Files, functions and forwards stay short; the ten largest are printed."""

from __future__ import annotations

import pytest

from tests.contracts.source import ROOT, code_lines, sources

FILE, KERNEL_FILE, FUNCTION, FORWARD = 400, 800, 60, 40


def _report(title: str, sizes: list[tuple[int, str]]) -> None:
    print(f"\n{title}")
    for size, where in sorted(sizes, reverse=True)[:10]:
        print(f"  {size:5d}  {where}")


def test_no_file_is_too_long() -> None:
    sizes = [(len(file.text.splitlines()), file.where) for file in sources()]
    _report("largest files", sizes)
    limit = {where: KERNEL_FILE if "triton" in where else FILE for _, where in sizes}
    over = [f"{where}: {size} > {limit[where]}" for size, where in sizes if size > limit[where]]
    assert not over, "\n".join(over)


def test_no_function_is_too_long() -> None:
    sizes = [
        (code_lines(function), f"{file.where}:{function.lineno} {function.name}")
        for file in sources()
        for function in file.functions()
    ]
    _report("longest functions", sizes)
    over = [f"{where}: {size} > {FUNCTION}" for size, where in sizes if size > FUNCTION]
    assert not over, "\n".join(over)


def test_every_forward_can_be_drawn() -> None:
    sizes = [
        (code_lines(function), f"{file.where}:{function.lineno}")
        for file in sources()
        for function in file.functions()
        if function.name == "forward"
    ]
    _report("longest forwards", sizes)
    over = [f"{where}: {size} > {FORWARD}" for size, where in sizes if size > FORWARD]
    assert not over, "\n".join(over)


@pytest.mark.parametrize("folder", ["tests", "recipes", "benchmarks", "examples"])
def test_files_beside_the_package_are_no_longer(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    over = [p.relative_to(ROOT).as_posix() for p in files if len(p.read_text().splitlines()) > FILE]
    assert not over, f"longer than {FILE} lines: {over}"
