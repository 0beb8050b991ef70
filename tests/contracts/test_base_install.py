"""Every module imports with only the base dependencies, and the package itself without torch."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata

from tests.contracts.source import sources

# Hides what a plain `pip install timeviper` would not bring, then imports everything.
_IMPORT_ALL = """
import importlib, sys
hidden, modules = set(sys.argv[1].split(",")), sys.argv[2].split(",")

class Veil:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in hidden:
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Veil(finder) for finder in sys.meta_path]
for name in list(sys.modules):
    if name.split(".")[0] in hidden:
        del sys.modules[name]
failed = []
for module in modules:
    try:
        importlib.import_module(module)
    except ImportError as error:
        failed.append(f"{module}: {error}")
print("\\n".join(failed))
sys.exit(bool(failed))
"""


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _needs(name: str) -> set[str]:
    """Names of the distributions that `name` requires without extras, as far as installed."""
    try:
        wanted = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return set()
    plain = [line for line in wanted if "extra ==" not in line]
    return {_plain(re.match(r"[A-Za-z0-9._-]+", line).group()) for line in plain}


def base_closure() -> set[str]:
    """The package, its base dependencies, and all that those bring."""
    found, waiting = set(), {"timeviper"}
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= _needs(name) - found
    return found


def test_every_module_imports_with_the_base_install_alone() -> None:
    base = base_closure()
    tops = metadata.packages_distributions()
    hidden = {top for top, owners in tops.items() if not {_plain(o) for o in owners} & base}
    assert "pytest" in hidden
    assert "torch" not in hidden
    modules = [
        f.module for f in sources() if "triton" not in f.module and "__main__" not in f.where
    ]
    run = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL, ",".join(hidden), ",".join(modules)],
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]


def test_the_package_itself_imports_without_torch() -> None:
    code = "import sys, timeviper; sys.exit('torch' in sys.modules or not timeviper.__version__)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_public_names_resolve_and_unknown_ones_do_not() -> None:
    code = (
        "import timeviper\n"
        "for name in timeviper.__all__: getattr(timeviper, name)\n"
        "assert 'Engine' in dir(timeviper)\n"
        "try: timeviper.nothing\n"
        "except AttributeError as error: assert 'nothing' in str(error)\n"
        "else: raise SystemExit('an unknown name was found')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
