"""What is declared is what is used: pins for every dependency, the licence, the shipped data."""

from __future__ import annotations

import re
import tomllib

from tests.contracts.source import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FORBIDDEN = {"torchvision", "mamba-ssm", "causal-conv1d", "flash-attn", "triton", "matplotlib"}
MOST_MODEL_BYTES = 48 * 2**20


def _name(requirement: str) -> str:
    return re.match(r"[A-Za-z0-9._-]+", requirement).group().lower().replace("_", "-")


def test_every_dependency_is_pinned_for_reproduction() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {_name(line) for line in lines if line and not line.startswith("#")}
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for name in extras for line in extras[name])]
    # The developers' extra names the others through the package itself.
    missing = {_name(line) for line in wanted} - pins - {project["name"]}
    assert not missing
    assert all("==" in line for line in lines if line and not line.startswith("#"))


def test_the_base_install_needs_no_compiler_and_no_plotting() -> None:
    base = {_name(line) for line in PROJECT["project"]["dependencies"]}
    assert not base & FORBIDDEN
    assert set(PROJECT["project"]["optional-dependencies"]) >= {"serve", "train", "eval", "ray"}


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_shipped_models_stay_small() -> None:
    folder = ROOT / "src" / "timeviper" / "models"
    total = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    assert total <= MOST_MODEL_BYTES, f"{total} bytes of safetensors"
