"""What ``ray up`` runs on every host: install what ltsearch needs, in the versions of ``constraints.txt``, if it is not there.

Stands alone: it is copied to the host beside ``pyproject.toml`` and ``constraints.txt`` and runs with any Python >= 3.11.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

VENV = Path.home() / "ltsearch" / "venv"


def requirements(folder: Path) -> list[str]:
    """What ``pyproject.toml`` asks for."""
    import tomllib

    return list(tomllib.loads((folder / "pyproject.toml").read_text())["project"]["dependencies"])


def differing(folder: Path) -> list[str]:
    """Packages that are not installed in the version of ``constraints.txt``, such as ``ray 2.60.0 (here: none)``."""
    lines = (folder / "constraints.txt").read_text().splitlines()
    exact = {_plain(name): wanted for name, _, wanted in (line.partition("==") for line in lines) if wanted}
    found = []
    for requirement in requirements(folder):
        name = _plain(re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0])
        try:
            here = version(name).partition("+")[0]  # 2.14.0+cpu is as good as 2.14.0
        except PackageNotFoundError:
            here = "none"
        if here != exact.get(name, here):
            found.append(f"{name} {exact[name]} (here: {here})")
    return found


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def main(folder: Path, venv: Path = VENV) -> int:
    """Nothing if all is there; otherwise an environment in ``~/ltsearch/venv``."""
    missing = differing(folder)
    if not missing:
        print(f"ltsearch: {sys.prefix} has everything")
        return 0
    print(f"ltsearch: installing into {venv}: {', '.join(missing)}", flush=True)
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return subprocess.run([*pip, "--constraint", str(folder / "constraints.txt"), *requirements(folder)]).returncode


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - this file meets whatever Python a host has
        sys.exit(
            f"ltsearch needs Python >= 3.11, {sys.executable} is {sys.version.split()[0]}; "
            "name another one in the setup_commands of cluster.yaml"
        )
    sys.exit(main(Path(__file__).resolve().parent))
