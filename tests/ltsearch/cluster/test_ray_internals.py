"""Whether Ray still is as ``ray_internals`` takes it to be; what these say is what an upgrade has changed.

What the functions do is seen by the tests of faults and of clusters; here stands that the names are there.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from types import SimpleNamespace

import pytest

from ltsearch.cluster import ray_internals


@pytest.mark.parametrize(
    ("module", "name", "what_for"),
    [
        ("ray._private.worker", "print_to_stdstream", "silence_raylets: raylets' messages would fill the terminal"),
        ("ray.air.execution._internal.actor_manager", "RayActorManager._actor_task_failed", "tell_memory_apart"),
        ("ray._private.state", "state.job_table", "ended_jobs: orphaned placement groups would stay"),
        ("ray._private.state", "state.actor_table", "actor_is_dead: orphaned placement groups would stay"),
        ("ray._private.state", "state._connect_and_get_accessor", "placement_groups: orphaned ones would stay"),
        ("ray.core.generated.gcs_pb2", "PlacementGroupTableData.FromString", "placement_groups"),
        ("ray.core.generated.gcs_pb2", "PlacementGroupTableData.REMOVED", "placement_groups"),
        ("ray.core.generated.gcs_pb2", "PlacementGroupTableData.PENDING", "placement_groups: who waits for a place"),
        ("ray._raylet", "PlacementGroupID", "remove_placement_group"),
        ("ray._raylet", "InnerGcsClient.get_all_node_info", "nodes_without_joining: --plan on a cluster"),
        ("ray._raylet", "AuthenticationTokenLoader.instance", "has_token: the message about a missing token"),
        (
            "ray.tune.execution.tune_controller",
            "TuneController._cleanup_cached_actors",
            "let_idle_actors_go: two sweeps on one cluster could wait for each other",
        ),
        (
            "ray.tune.utils.object_cache",
            "_ObjectCache.num_cached_objects",
            "actors: a place that another sweep waits for would not be given back",
        ),
        (
            "ray.tune.execution.tune_controller",
            "TuneController.update_max_pending_trials",
            "start_at_once: ramps take minutes",
        ),
        (
            "ray.tune.execution.tune_controller",
            "TuneController._maybe_reuse_cached_actor",
            "let_starting_actors_start: short trials would never fill a cluster that grows",
        ),
        (
            "ray.tune.execution.tune_controller",
            "TuneController._actor_failed",
            "fail_waiting: a trial could wait for ever for a node that has gone",
        ),
        (
            "ray.air.execution._internal.actor_manager",
            "RayActorManager.is_actor_failed",  # which has _failed_actor_ids
            "fail_waiting: a trial could wait for ever for a node that has gone",
        ),
        ("ray.tune.experiment", "Trial.create_placement_group_factory", "ask_again: retries on nodes that are unfit"),
        ("ray.core.generated.autoscaler_pb2", "GetClusterStatusReply", "autoscaler_reports: KubeRay's clusters grow"),
        ("ray.experimental.internal_kv", "internal_kv_get_gcs_client", "autoscaler_reports: KubeRay's clusters grow"),
        ("ray._private.ray_constants", "DEBUG_AUTOSCALING_STATUS", "autoscaler_reports: KubeRay's clusters grow"),
        ("ray.experimental.internal_kv", "_internal_kv_get", "autoscaler_reports: KubeRay's clusters grow"),
        ("ray.tune.experiment", "Trial.pickled_error_file", "error_of: why a trial failed"),
    ],
)
def test_the_pieces_are_there(module: str, name: str, what_for: str) -> None:
    found: object = import_module(module)
    for part in name.split("."):
        assert hasattr(found, part), f"this Ray has no {module}.{name} any more; it is needed for {what_for}"
        found = getattr(found, part)


@pytest.mark.parametrize(
    ("module", "name", "attributes"),
    [
        (
            "ray.tune.execution.tune_controller",
            "TuneController",
            [
                "_actor_to_trial",
                "_trial_to_actor",
                "_resources_to_pending_trials",
                "_resetting_trials",
                "_running_trials",
                "_pending_trials",
                "_pending_trials_list",
                "_actor_manager",
                "_search_alg",
            ],
        ),
        ("ray.air.execution._internal.actor_manager", "RayActorManager", ["_failed_actor_ids"]),
    ],
)
def test_what_its_objects_keep_is_there(module: str, name: str, attributes: list[str]) -> None:
    made = inspect.getsource(getattr(import_module(module), name).__init__)
    for attribute in attributes:
        assert f"self.{attribute}" in made, (
            f"this Ray's {name} has no {attribute} any more; see who uses it in ray_internals"
        )


def test_tunes_handler_of_failed_tasks_takes_what_it_took() -> None:
    from ray.air.execution._internal.actor_manager import RayActorManager

    assert list(inspect.signature(RayActorManager._actor_task_failed).parameters) == [
        "self",
        "tracked_actor_task",
        "exception",
    ], "tell_memory_apart wraps it by these names"


def test_tunes_requests_pass_labels_on() -> None:
    """``unfit.placed``: a trial stays away from nodes on which set-up fails."""
    from ray.util.placement_group import placement_group

    from ltsearch.run.unfit import placed

    for request in (placed({"avoid": "a1,b2"}, {"CPU": 1.0}), placed({"avoid": "b2"}, {"CPU": 1.0}, never=["a1"])):
        assert request._bound.kwargs == {"bundle_label_selector": [{"ray.io/node-id": "!in(a1,b2)"}]}  # type: ignore[attr-defined]
    assert "bundle_label_selector" in inspect.signature(placement_group).parameters
    assert placed({}, {"CPU": 1.0}) == placed({"avoid": ""}, {"CPU": 1.0})


@pytest.mark.parametrize("bounded", [True, False])
def test_a_sweep_may_wait_before_its_first_trial(monkeypatch: pytest.MonkeyPatch, bounded: bool) -> None:
    """Left to itself, Tune ends with an ``IndexError`` after a minute."""
    from ray.tune.execution import insufficient_resources_manager as tune

    from ltsearch.run.runner import OF_TUNE

    for name in (one for one in OF_TUNE if "THRESHOLD" in one):
        monkeypatch.setenv(name, "60" if bounded else OF_TUNE[name])
    tune._get_insufficient_resources_warning_threshold.cache_clear()
    times = iter((1.0, 2.0, 3.0, 1e6, 1e6))
    monkeypatch.setattr(tune, "time", SimpleNamespace(monotonic=lambda: next(times)))
    guesses = tune._InsufficientResourcesManager()
    try:
        guesses.on_no_available_trials([])
        guesses.on_no_available_trials([])  # since 1 s
        guesses.on_no_available_trials([])  # for 1 s
        guesses.on_no_available_trials([])  # for 2 s
        if bounded:
            with pytest.raises(IndexError):
                guesses.on_no_available_trials([])
        else:
            guesses.on_no_available_trials([])
    finally:
        tune._get_insufficient_resources_warning_threshold.cache_clear()


def test_an_actor_that_starts_is_not_given_up_for_one_that_has_become_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the end of a sweep, when no more trials come. In a real Tune: tests/ltsearch/run/test_shared_cluster.py."""
    from ray.tune.execution.tune_controller import TuneController

    asked: list[str] = []

    def reuse(self: object, trial: str) -> bool:
        asked.append(trial)
        return True

    monkeypatch.setattr(TuneController, "_maybe_reuse_cached_actor", reuse)
    for _ in range(2):  # every sweep of a process says so
        ray_internals.let_starting_actors_start()
    finished = False
    controller = SimpleNamespace(
        _trial_to_actor={"starting": "a", "waiting": "b", "made ready": "c"},
        _resetting_trials={"made ready"},
        _pending_trials={"starting", "waiting", "new"},
        _pending_trials_list=["over", "starting", "waiting", "new"],
        _actor_manager=SimpleNamespace(is_actor_started=lambda actor: actor in "ac"),
        _search_alg=SimpleNamespace(is_finished=lambda: finished),
    )

    def takes(trial: str) -> bool:
        return bool(TuneController._maybe_reuse_cached_actor(controller, trial))

    assert [takes(one) for one in ("starting", "waiting", "made ready", "new")] == [False, True, True, True]
    assert ray_internals.first_without_place(controller) == "waiting"
    finished = True
    assert takes("starting") and asked == ["waiting", "made ready", "new", "starting"]
    controller._pending_trials = {"starting"}
    assert ray_internals.first_without_place(controller) is None
