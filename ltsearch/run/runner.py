"""Running the queue on Ray Tune: one experiment whose searcher is the queue and whose scheduler asks it when to stop.

Ablation cells, search trials and confirmations are trials of the same experiment, so that all of them share the warm actors.
Tune's own checkpoints, loggers and restore are not used: the store has what is needed to go on (``design``: `Tuner.restore`
cannot grow a search and does not restore ASHA's rungs).
"""

from __future__ import annotations

import gc
import logging
import os
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ltsearch.cluster import ray_cluster, ray_internals
from ltsearch.run.nodes import Terms
from ltsearch.run.queue import Queue
from ltsearch.store.provenance import ROOT, usable_cpus
from ltsearch.study.spec import Resources
from trainables.errors import UserError

if TYPE_CHECKING:
    from ltsearch.run.capacity import Capacity
    from trainables.custom import Trainable

STARTS = 3  # of Ray on this machine
OF_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # results go to the store and to MLflow
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the sweep's to handle
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's own state is never read again
    # It guesses why nothing runs after so long, and of a sweep that waits for others before its first trial it ends with an
    # IndexError.
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "inf",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S_AUTOSCALER": "inf",
    "RAY_AIR_NEW_OUTPUT": "0",
}
ACTOR_BYTES = 150 * 2**20  # of a trial whose workers train: Ray and Tune


@contextmanager
def ray_session(address: str | None, *, logs: bool) -> Iterator[None]:
    """Join the cluster at ``address`` or start Ray on this machine; ends what it started.

    Raises ``UserError`` if the cluster cannot be reached.
    """
    if address and address.startswith("ray://"):
        raise UserError(
            f"--address {address}: Ray Client addresses do not work here; run the command on the cluster's head with "
            "--address auto, or name the head's host:6379"
        )
    os.environ |= OF_TUNE
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about its coming default
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address:
        ray_cluster.use_token()
    # Workers import the three packages from where this one lies.
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    import ray

    if not logs:
        ray_internals.silence_raylets()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    options: dict[str, Any] = {"log_to_driver": logs, "logging_level": logging.INFO if logs else logging.ERROR}
    try:
        if address:
            ray.init(address=address, runtime_env={"working_dir": str(ROOT), "excludes": EXCLUDES}, **options)
        else:
            _start_here(options)
    except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
        if not address:
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if len(versions := re.findall(r"(?:Ray|Python): (\S+)", str(error))) == 4:
            raise UserError(
                f"--address {address}: the cluster runs Ray {versions[0]} on Python {versions[1]}, this command Ray "
                f"{versions[2]} on Python {versions[3]}; they must be the same: `ray up cluster.yaml` installs what "
                f"constraints.txt names, or `pip install 'ray[default,train,tune]=={versions[0]}'` here what the cluster has"
            ) from None
        raise UserError(
            f"--address {address}: no Ray cluster answers there ({first}); start one with `ray up cluster.yaml`, or leave "
            "--address out to run on this machine"
        ) from None
    signal.signal(signal.SIGTERM, on_sigterm)  # ray.init has put its own there, which aborts
    try:
        yield
    finally:
        # Garbage that holds Ray objects must go before Ray does: another thread (MLflow's writer) that collects it while Ray
        # shuts down would take the process with it ("the core worker has already been shutdown").
        gc.collect()
        gc.disable()
        try:
            ray.shutdown()
        finally:
            gc.enable()


def _start_here(options: Mapping[str, Any]) -> None:
    """Ray on this machine; raises ``UserError`` if it does not start: a busy machine takes longer than its parts wait."""
    import ray

    for attempt in range(STARTS):
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                num_cpus=usable_cpus(),
                _temp_dir=os.environ.get("RAY_TMPDIR"),
                **options,
            )
        except Exception as error:  # Ray raises no kind of its own
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            if attempt == STARTS - 1:
                raise UserError(
                    f"Ray does not start on this machine ({STARTS} tries): it is too busy, or short of memory; the same "
                    "command tries again"
                ) from None
        else:
            return


def _beside(resources: Resources) -> int:
    """Bytes to ask for a trial's own actor, beside its workers: what it takes, so that Ray spreads them over the nodes.

    Ray places where most is left, and so all of what asks for nothing on one node. Never so much that a trial waits for it: at
    most half a node's, with as many trials on it as it has CPUs; and nothing if its workers ask for memory of their own.
    """
    import ray

    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    least = min((of.get("memory", 0) / max(of.get("CPU", 0), 1) / 2 for of in there), default=0)
    return 1 if resources.memory_per_worker is not None else max(1, min(ACTOR_BYTES, int(least)))


def _by_value(functions: Mapping[str, Trainable]) -> dict[str, Trainable]:
    """Other hosts, and actors started elsewhere, have no module to import the user's functions from: they are sent whole."""
    from ray import cloudpickle

    for function in functions.values():
        module = sys.modules.get(function.__module__)
        if module is not None and module.__name__ != "__main__" and not module.__name__.startswith("trainables"):
            cloudpickle.register_pickle_by_value(module)
    return dict(functions)


# What Ray does not send to the nodes of a cluster; rooted, since `trainables/data` is a package.
EXCLUDES = ["/.git", "/.venv", "/store", "/results", "/mlruns", "/mlflow.db", "/data", "/docs"]


def run(
    queue: Queue,
    resources: Resources,
    capacity: Capacity,
    sources: Mapping[Any, Any],
    provenance: Mapping[str, str],
    *,
    logs: bool,
    terms: Terms | None = None,
    functions: Mapping[str, Trainable] | None = None,
    each_round: Callable[[], None] = lambda: None,
    silent: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Run the queue until it is exhausted, ``capacity()`` trials at once.

    ``terms``: what every node must meet.
    ``silent``: nodes to leave alone at first, and why.
    ``functions``: the user's own trainables by name. ``each_round`` is called in every round of Tune's loop.

    ``KeyboardInterrupt`` passes through; the store has what is needed to go on.
    """
    if not logs:  # a trial's error is told in one line, by the progress and in its record
        warnings.filterwarnings("ignore", module="ray")
        for name in ("ray", "ray.tune", "ray.air", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(capacity())  # at first; see Feeder.suggest
    import ray
    from ray import tune
    from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig, TuneError

    from ltsearch.run.growth import Demand
    from ltsearch.run.placement_groups import Orphans
    from ltsearch.run.trial import CellTrial
    from ltsearch.run.tune_adapters import Feeder, Stopper, TrialCallback, died_for_memory
    from ltsearch.run.unfit import Unfit, placed
    from ltsearch.run.worker_group import Layout

    layout = None
    if resources.workers > 1:
        spread = resources.placement == "spread"
        layout = Layout(resources.workers, resources.need(), resources.labels, spread)
    orphans = Orphans() if layout is not None or capacity.sharing is not None else None
    wanted = resources.need()

    def able() -> list[str]:
        """Nodes that have room for a worker, whatever they do now."""
        there = [n for n in ray.nodes() if n["Alive"] and resources.labels.items() <= n["Labels"].items()]
        return [n["NodeID"] for n in there if all(n["Resources"].get(kind, 0) >= of for kind, of in wanted.items())]

    # A trial's own actor asks for memory only: Ray would put them all on a head with much of it on which nothing trains. Where
    # nodes come when they are asked for, it must not wait for one: it is what asks.
    elsewhere: set[str] = set()
    if layout is not None and not capacity.grows and resources.memory_per_worker is None:
        elsewhere = {node["NodeID"] for node in ray.nodes() if node["Alive"]} - set(able())
    unfit = Unfit(able, queue.say, growing=capacity.grows)
    demand = Demand(resources, capacity, queue, unfit.now) if capacity.sharing is not None else None
    for node, why in silent.items():
        unfit.failed(node, why, at_work=True)
    failures = resources.max_failures
    feeder = Feeder(queue, capacity, orphans, spare=layout is None, max_failures=failures, unfit=unfit)
    feeder.each_round = [each_round, *([demand.look] if demand is not None else [])]
    ray_internals.tell_memory_apart(died_for_memory)
    ray_internals.let_starting_actors_start()
    trainable = tune.with_resources(
        tune.with_parameters(
            CellTrial,
            sources=dict(sources),
            storage=str(queue.store.root),
            cpus=resources.cpus_per_worker,
            gpus=resources.gpus_per_worker,
            checkpoint_seconds=resources.checkpoint_seconds,
            hang_seconds=resources.hang_seconds,
            provenance=dict(provenance),
            layout=layout,
            terms=terms,
            functions=_by_value(functions or {}),
        ),
        # Tune does not see what a worker group reserves: how many trials run at once is bounded by the queue.
        partial(
            placed,
            wanted={"memory": _beside(resources)} if layout else wanted,
            labels=resources.labels,
            never=frozenset(elsewhere),
        ),
    )
    with tempfile.TemporaryDirectory(prefix="ltsearch-tune-") as scratch:
        tuner = tune.Tuner(
            trainable,
            tune_config=TuneConfig(
                search_alg=feeder,
                scheduler=Stopper(feeder),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
                trial_name_creator=lambda trial: trial.trial_id,
            ),
            run_config=RunConfig(
                name="sweep",
                storage_path=scratch,
                verbose=0,
                # Tune's own checkpoints would lie in a folder of the driver's host, which other nodes do not see.
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                failure_config=FailureConfig(max_failures=resources.max_failures),
                callbacks=[TrialCallback(feeder)],
            ),
        )
        try:
            tuner.fit()
        except TuneError:
            if feeder.broken is None:
                raise
        finally:
            if demand is not None:
                demand.close()
    if feeder.broken is not None:
        raise feeder.broken
