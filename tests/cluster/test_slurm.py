"""A real Slurm of three nodes: both modes, a time limit, a lost node, ``scancel``; and what it refuses."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ltsearch.store.cells import CellStore
from ltsearch.store.records import CellRecord
from tests.cluster.slurm_site import Site, missing
from tests.ltsearch.helpers import sweep
from trainables.config import TrialConfig
from trainables.synthetic import accuracy

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site() as running:
        yield running


def study(name: str, seeds: int, epochs: int) -> dict[str, Any]:
    """Real training on digits: CE and BSCE."""
    return {
        "name": name,
        "question": "The same numbers in jobs of Slurm?",
        "base": {
            "data": {"name": "digits", "imbalance": {"factor": 10}, "data_ratio": 0.5},
            "model": {"backbone": "resnet8"},
            "method": {"name": "ce"},
            "training": {"epochs": epochs, "batch_size": 32},
        },
        "seeds": seeds,
        "ablation": {
            "reference": "CE",
            "rows": [{"name": "CE"}, {"name": "BSCE", "set": {"method": {"name": "bsce"}}}],
        },
    }


def put(site: Site, tree: dict[str, Any], where: str = ".", **words: Any) -> str:
    """Study and site in the shared folder, or ``where`` below it; the words that submit."""
    folder = site.work / where
    folder.mkdir(exist_ok=True)
    (folder / f"{tree['name']}.yaml").write_text(yaml.safe_dump(tree))
    (folder / "site.yaml").write_text(yaml.safe_dump({"cpus_per_node": 2, "time": "10", "margin_minutes": 5, **words}))
    return f"cd '{where}'; {sys.executable} -m ltsearch sweep {tree['name']}.yaml --slurm site.yaml"


def records(folder: Path) -> list[CellRecord]:
    store = CellStore(folder / "store")
    return [record for cell in store.cells() if (record := store.read(cell)) is not None]


def numbers(folder: Path) -> dict[str, Any]:
    """By cell: status, and accuracies and losses of every epoch."""
    found = {}
    for record in records(folder):
        told = [
            {k: v for k, v in epoch.metrics.items() if k.startswith(("test/", "train/loss"))}
            for epoch in record.history
        ]
        found[record.cell] = (str(record.status), told)
    return found


def logs(site: Site, name: str) -> str:
    return "\n".join(log.read_text() for log in sorted((site.work / "slurm" / name).glob("*.log")))


def cells(site: Site, tree: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """What a run on this machine alone has, of the cells of a study."""
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(tree))
    done = sweep(tmp_path, str(path), "--local", timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return numbers(tmp_path)


def test_an_array_shares_the_cells_and_bears_a_lost_node(site: Site, tmp_path: Path) -> None:
    """Jobs of one node each; the node of one that helps loses its power, and its cell and its job go on elsewhere."""
    tree = study("array", seeds=3, epochs=40)
    submit = put(site, tree, mode="array", nodes=3)
    said = site.run(submit)
    assert "array: job 1 of Slurm" in said or re.search(r"array: job \d+ of Slurm", said), said
    site.wait_for(
        lambda: logs(site, "array").count("joined; ") == 2 and "start  " in logs(site, "array"), 400, "helpers"
    )
    assert "is in Slurm's queue already: job" in site.run(submit)
    assert "of Slurm: running" in site.run(f"{sys.executable} -m ltsearch status array.yaml")
    where = dict(line.split() for line in site.run("squeue -h -r -o '%K %N'").splitlines())
    lost = next(node for node in site.nodes if node.name == where["1"])
    lost.power_off()
    site.wait_for(lambda: not site.run("squeue -h").strip(), 900, "empty queue")
    lost.power_on()
    site.boot(lost)
    here = cells(site, tree, tmp_path)
    found = numbers(site.work)
    assert {cell: found[cell] for cell in here} == here and len(here) == 6
    assert (site.work / "results" / "array" / "report.md").is_file()
    assert not site.left()


def test_an_allocation_goes_on_after_its_time_is_over(site: Site) -> None:
    """Two nodes and four minutes, some of which are kept for the end: the sweep goes on in the jobs that follow.

    With trials that sleep, longer than one job on any machine; what their curves are is known in closed form. That trials which
    really train go on at their checkpoints is shown without Slurm (``tests/ltsearch/run/test_workers.py``).
    """
    site.wait_for(lambda: "down" not in site.run("sinfo -h -o %t"), 120, "nodes that are up")
    tree = study("allocation", seeds=1, epochs=200)
    tree["base"]["synthetic"] = {"epoch_seconds": 1.0}
    tree["resources"] = {"checkpoint_seconds": 5}
    site.run(put(site, tree, mode="allocation", nodes=2, time="4", margin_minutes=0.75))
    site.wait_for(lambda: "followed by job" in logs(site, "allocation"), 300, "job that follows")
    site.wait_for(lambda: not site.run("squeue -h").strip(), 1200, "empty queue")
    output = logs(site, "allocation")
    assert (
        "the job's time is nearly over" in output
        and "is not needed" not in output
        and "2 nodes (4 CPUs, 0 GPUs)" in output
    ), output
    found = [one for one in records(site.work) if one.config["training"]["epochs"] == 200]
    assert len(found) == 2
    for one in found:
        config = TrialConfig.model_validate(one.config)
        assert [e.epoch for e in one.history] == list(range(1, 201)) and str(one.status) == "finished"
        assert [e.metrics["train/top1"] for e in one.history] == [accuracy(config, n) for n in range(1, 201)]
    assert not site.left()


def test_stop_and_scancel_leave_nothing(site: Site) -> None:
    tree, folder = study("stopped", seeds=3, epochs=3000), "100% of my work"
    submit = put(site, tree, folder, mode="allocation", nodes=2)
    for end in (f"cd '{folder}'; {sys.executable} -m ltsearch stop stopped.yaml", "scancel --me"):
        said = site.run(submit)
        number = re.findall(r"job (\d+)", said)[0]
        log = site.work / folder / "slurm" / "stopped" / f"{number}.log"
        site.wait_for(lambda log=log: log.exists() and "start  " in log.read_text(), 300, "start of a trial")
        site.run(end)
        site.wait_for(lambda: not site.run("squeue -h").strip() and not site.left(), 240, "end of everything")
        assert "followed by job" not in log.read_text()
        left = {node.name: node.run(f"find /tmp/lts-{number}").stdout for node in site.nodes}
        assert not any(left.values()), (end, left, log.read_text())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"partition": "gpu"}, r"site\.yaml: Slurm refuses the job: .*partition.*; see its partition"),
        ({"gpus_per_node": 2}, r"site\.yaml: Slurm refuses the job: .*; see its .*gpus_per_node"),
        ({"cpus_per_node": 64}, r"site\.yaml: Slurm refuses the job: .*processors.*; see its cpus_per_node"),
        ({"time": "a while"}, r"site\.yaml: Slurm refuses the job: .*time.*; see its time"),
        ({"partitoin": "all"}, r"site\.yaml: unknown key 'partitoin'; did you mean 'partition'"),
        ({"mode": "fleet"}, r"site\.yaml: mode"),
    ],
)
def test_what_is_refused(site: Site, words: dict[str, Any], message: str) -> None:
    tree = study("refused", seeds=1, epochs=2)
    said = site.run(put(site, tree, **words) + "; echo exit $?")
    assert re.search(message, said) and "exit 2" in said and "Traceback" not in said, said
    assert not site.run("squeue -h").strip()
