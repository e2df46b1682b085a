"""All that is used of Ray and that Ray does not promise: what for, and why nothing public does it.

``pyproject.toml`` bounds Ray's version to those that were tried; ``tests/ltsearch/cluster/test_ray_internals.py`` says which
piece an upgrade has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple


class PlacementGroup(NamedTuple):
    """One that is not removed."""

    id: str
    job: str
    maker: str  # the actor that made it; only f for the driver itself
    detached: bool
    bundles: tuple[
        tuple[str, Mapping[str, float]], ...
    ] = ()  # the node of each, "" while it waits, and what it asks for


def silence_raylets() -> None:
    """What raylets tell every driver (processes that died or were started) in spite of ``log_to_driver=False``.

    What matters to a sweep is told as a trial's retry or failure.
    """
    worker: Any = import_module("ray._private.worker")
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_, **__: None


def tell_memory_apart(died: Callable[[Exception], Exception]) -> None:
    """Let Tune take a process that Ray's memory monitor ended for one that died: it knows no such error, and would stop."""
    from ray.exceptions import OutOfMemoryError

    manager = import_module("ray.air.execution._internal.actor_manager").RayActorManager
    failed = manager._actor_task_failed
    if getattr(failed, "ltsearch", False):
        return

    def actor_task_failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        failed(self, tracked_actor_task, died(exception) if isinstance(exception, OutOfMemoryError) else exception)

    actor_task_failed.ltsearch = True  # type: ignore[attr-defined]
    manager._actor_task_failed = actor_task_failed


def start_at_once(controller: Any, trials: int) -> None:
    """At least so many of Tune's trials may wait for an actor. Public is only an environment variable that is read once.

    Never less than before: a trial beyond the bound that gets a used actor has no folder yet, and Tune stops with a traceback.
    """
    controller.update_max_pending_trials(max(trials, controller._max_pending_trials))


def let_starting_actors_start() -> None:
    """Let no Tune trial whose own actor is starting take another one that has become free, as long as more trials come.

    Tune would end the one that starts: where trials end faster than actors start, places that are free would never be used.
    """
    tune = import_module("ray.tune.execution.tune_controller").TuneController
    reuse = tune._maybe_reuse_cached_actor
    if getattr(reuse, "ltsearch", False):
        return

    def maybe_reuse_cached_actor(self: Any, trial: Any) -> bool:
        waits_for_its_own = is_starting(self, trial) and not self._search_alg.is_finished()
        return False if waits_for_its_own else bool(reuse(self, trial))

    maybe_reuse_cached_actor.ltsearch = True  # type: ignore[attr-defined]
    tune._maybe_reuse_cached_actor = maybe_reuse_cached_actor


def is_starting(controller: Any, trial: Any) -> bool:
    """Has a Tune trial that waits an actor of its own, which has a place already?"""
    actor = controller._trial_to_actor.get(trial)
    resets = trial in controller._resetting_trials  # a used actor, that is made ready for it
    return actor is not None and not resets and bool(controller._actor_manager.is_actor_started(actor))


def first_without_place(controller: Any) -> Any:
    """The Tune trial that has waited longest of those whose actor has no place yet; none: ``None``."""
    pending = (trial for trial in controller._pending_trials_list if trial in controller._pending_trials)
    return next((trial for trial in pending if not is_starting(controller, trial)), None)


def let_idle_actors_go(controller: Any) -> None:
    """End the actors that Tune keeps for trials to come, and give back what they hold. Nothing public does, in mid-run."""
    controller._cleanup_cached_actors(force_all=True)
    if not controller._running_trials and not controller._pending_trials:
        # Tune waits for the next trial, and hears of no actor's end meanwhile: the place would stay taken.
        for _ in range(20):
            if not controller._actor_manager.next(timeout=0.02):
                break


def actors(controller: Any) -> int:
    """Tune's actors that have a trial, or are kept for one; nothing public tells of them."""
    manager, cache = controller._actor_manager, controller._actor_cache
    return sum(bool(manager.is_actor_started(one)) for one in controller._actor_to_trial) + int(
        cache.num_cached_objects
    )


def ask_again(controller: Any, trial: Any) -> None:
    """Make a waiting Tune trial's resource request anew from its configuration, which has changed since Tune made it."""
    waiting = controller._resources_to_pending_trials  # Tune's own list of who waits for what
    waiting[trial.placement_group_factory].discard(trial)
    trial.create_placement_group_factory()
    waiting[trial.placement_group_factory].add(trial)


def waiting(controller: Any) -> list[Any]:
    """Tune's trials whose actor has been asked for and not been given a place; nothing public tells of them."""
    manager = controller._actor_manager
    return [trial for actor, trial in controller._actor_to_trial.items() if not manager.is_actor_started(actor)]


def fail_waiting(controller: Any, trial: Any, error: Exception) -> None:
    """Take back what one of those asks for, as if its actor had died of this: Tune tries it again, or tells of it.

    Raises ``ValueError`` if it is none of those, and what Tune's callbacks raise.
    """
    manager, actor = controller._actor_manager, controller._trial_to_actor[trial]
    manager.remove_actor(actor)
    manager._failed_actor_ids.add(actor.actor_id)  # or Tune would remove it twice
    controller._actor_failed(actor, error)


def error_of(trial: Any) -> BaseException | None:
    """What a Tune trial raised, once. Its ``get_error`` reads the trial's storage, where the file only comes later.

    The file goes: Tune leaves it there when the next error is one that it does not pickle.
    """
    from ray import cloudpickle

    path = trial.pickled_error_file
    try:
        error: BaseException | None = cloudpickle.loads(Path(path).read_bytes()) if path else None
        if path:
            Path(path).unlink()
    except (OSError, EOFError, ValueError, AttributeError, ImportError):
        return None
    return error


def said_of(trial: Any) -> str:
    """The text of a Tune trial's last error, of which it keeps no other trace if it is neither a task's nor an actor's."""
    try:
        return Path(trial.error_file or "").read_text(encoding="utf-8", errors="replace").rpartition("Failure # ")[2]
    except OSError:
        return ""


def placement_groups() -> list[PlacementGroup]:
    """Of all jobs. The public table (``placement_group_table``) does not say who made them."""
    pb2 = import_module("ray.core.generated.gcs_pb2")
    found = []
    for raw in _state()._connect_and_get_accessor().get_placement_group_table():
        group = pb2.PlacementGroupTableData.FromString(raw)
        if group.state != pb2.PlacementGroupTableData.REMOVED:
            ids = group.placement_group_id.hex(), group.creator_job_id.hex(), group.creator_actor_id.hex()
            placed = group.state != pb2.PlacementGroupTableData.PENDING
            bundles = ((one.node_id.hex() if placed else "", dict(one.unit_resources)) for one in group.bundles)
            found.append(PlacementGroup(*ids, group.is_detached, tuple(bundles)))
    return found


def autoscaler_reports() -> bool:
    """Does an autoscaler run? Where the head's pod starts none, KubeRay's stands beside it; nothing public tells."""
    kv = import_module("ray.experimental.internal_kv")
    status = import_module("ray.core.generated.autoscaler_pb2").GetClusterStatusReply()
    status.ParseFromString(kv.internal_kv_get_gcs_client().get_cluster_status())
    if status.autoscaling_state.autoscaler_state_version > 0:  # version 2
        return True
    return bool(kv._internal_kv_get(import_module("ray._private.ray_constants").DEBUG_AUTOSCALING_STATUS))


def ended_jobs() -> set[str]:
    """Ids. The public list asks the dashboard, which may not be there."""
    return {job["JobID"] for job in _state().job_table() if job["IsDead"]}


def actor_is_dead(actor: str) -> bool:
    """By its id. The public list asks the dashboard, which may not be there."""
    return bool(_state().actor_table(actor).get("State", "DEAD") == "DEAD")


def node_of(actor: str) -> str:
    """The id of the node on which an actor is, or was; "" if it is not known. The public list asks the dashboard."""
    import ray

    found = _state().actor_table(actor) if ray.is_initialized() else {}
    node = str(found.get("Address", {}).get("NodeID", ""))
    return "" if set(node) <= {"f"} else node  # Ray's id of none: it was never placed


def remove_placement_group(group: str) -> None:
    """By its id: the public function wants the object that its maker has."""
    from ray.util.placement_group import PlacementGroup as Handle
    from ray.util.placement_group import remove_placement_group

    remove_placement_group(Handle(import_module("ray._raylet").PlacementGroupID(bytes.fromhex(group))))


def _state() -> Any:
    return import_module("ray._private.state").state


def has_token() -> bool:
    """Does this host have a token for a cluster that asks for one?"""
    loader = import_module("ray._raylet").AuthenticationTokenLoader
    return bool(loader.instance().has_token(ignore_auth_mode=True))


def nodes_without_joining(address: str, seconds: float) -> list[dict[str, float]]:
    """What the living nodes of a cluster have, without starting a process there as ``ray.init`` does."""
    nodes = import_module("ray._raylet").GcsClient(address=address).get_all_node_info(timeout=seconds)
    alive = 0  # of the protocol's node states
    return [dict(node.resources_total) for node in nodes.values() if node.state == alive]
