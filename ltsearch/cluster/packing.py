"""What a laptop sends to a cluster: the checkout without data, results and secrets, and the study with what it extends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ltsearch.store.provenance import ROOT, SENT_COMMIT, commit
from ltsearch.study.tree import read_study
from trainables.errors import UserError

LINKED = ("store", "results", "data", "mlruns", "mlflow.db")  # of every tree there, to ~/ltsearch: they outlive it
LEAVE = {  # of the root
    ".git",
    ".venv",
    "store",
    "results",
    "data",
    "mlruns",
    "mlartifacts",
    "build",
    "docs",
    SENT_COMMIT,
}
SECRET = re.compile(
    r"\.env(\..*)?|\.netrc|\.npmrc|\.pypirc|id_(rsa|ecdsa|ed25519)|auth_token|.*\.(pem|key|p12|pfx)|.*credentials.*"
    r"|secrets?\..*|service.?account.*|kubeconfig"
)
CODE = {".py", ".yaml", ".yml", ".json", ".toml", ".txt", ".csv", ".cfg", ".ini"}  # of files that Git does not know yet


@dataclass(frozen=True)
class Tree:
    """An archive of what is to run, the same bytes for the same content: Ray sends nothing twice."""

    file: Path
    spec: str  # the study's path in it


@contextlib.contextmanager
def packed(spec: Path, name: str | None = None) -> Iterator[Tree]:
    """This checkout with its commit and the study, called ``name``. Raises ``UserError`` outside of a checkout."""
    if not (ROOT / "pyproject.toml").exists():
        raise UserError(f"{ROOT} is no checkout of ltsearch; clone it and run the command there, or use --local")
    files = {name: ROOT / name for name in tree_files(ROOT)}
    spec = spec.resolve()
    with tempfile.TemporaryDirectory(prefix="ltsearch-") as scratch:
        read: list[Path] = []
        study = read_study(spec, read=read)
        known = {path.resolve() for path in files.values()}
        if name in (None, study.get("name")) and {path.resolve() for path in read} <= known:
            inside = str(spec.relative_to(ROOT))
        else:  # brought together with what it extends, which may lie anywhere; JSON is YAML without surprises
            inside = f"specs/{spec.name}"
            files[inside] = Path(scratch) / spec.name
            files[inside].write_text(
                json.dumps(study | ({"name": name} if name else {}), ensure_ascii=False, default=str), encoding="utf-8"
            )
        files[SENT_COMMIT] = Path(scratch) / "commit"
        files[SENT_COMMIT].write_text(commit())
        archive = Path(scratch) / "tree.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
            for name, path in sorted(files.items()):
                entry = zipfile.ZipInfo(name)  # of 1980: times say nothing about content
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = (0o755 if os.access(path, os.X_OK) else 0o644) << 16
                made.writestr(entry, path.read_bytes())
        yield Tree(archive, inside)


def tree_files(root: Path) -> list[str]:
    """Files that belong to a checkout, relative to it: what Git knows, and code and studies that it does not know yet."""
    if (root / ".git").exists():
        known, new = (_git(root, which) for which in ("--cached", "--others"))
    else:  # an unpacked archive
        known, new = [str(path.relative_to(root)) for path in root.rglob("*") if "__pycache__" not in path.parts], []
    listed = {*known, *(name for name in new if Path(name).suffix in CODE)}
    kept = {name for name in listed if name and name.split("/")[0] not in LEAVE and not name.startswith("mlflow.db")}
    return sorted(name for name in kept if not SECRET.fullmatch(Path(name).name.lower()) and (root / name).is_file())


def _git(root: Path, which: str) -> list[str]:
    """Raises ``UserError`` with Git's words: without it, nobody knows what is to stay here."""
    words = ["git", "-C", str(root), "ls-files", which, "--exclude-standard", "-z"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
        why = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.SubprocessError) as error:
        why = str(error)
    if why:
        raise UserError(f"{root}: what is to be sent cannot be told from what is not: {why}; --local runs here")
    return done.stdout.split("\0")
