"""What Tune says of a trial's end, without Ray: which errors it is given, and what is told of them."""

from __future__ import annotations

import socket
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError, RayTaskError, RuntimeEnvSetupError
from ray.train._internal.storage import StorageContext
from ray.tune.error import TuneError
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

from ltsearch.cluster.ray_internals import tell_memory_apart
from ltsearch.plan.cells import make_cell
from ltsearch.plan.layout import make_plan
from ltsearch.run import capacity
from ltsearch.run.capacity import Capacity
from ltsearch.run.jobs import Job, Outcome
from ltsearch.run.queue import Queue
from ltsearch.run.sharing import Share
from ltsearch.run.tune_adapters import Feeder, TrialCallback, died_for_memory, reason
from ltsearch.run.unfit import LOST, Unfit, lost
from ltsearch.store.cells import CellStore
from ltsearch.store.records import Status
from ltsearch.study.spec import Resources, load
from tests.ltsearch.helpers import study, write
from trainables.errors import UserError


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """One of Tune's, with a folder for its errors."""
    monkeypatch.setattr("ray.train._internal.storage._get_ray_train_session_dir", lambda: str(tmp_path))
    storage = StorageContext(tmp_path / "tune", "sweep", trial_dir_name="t")
    made = Trial("x", stub=True, storage=storage, trial_id="t")
    made.init_local_path()
    return made


NO_MEMORY = "Task was killed due to the node running low on memory.\nMemory on the node was 0.96."


@pytest.fixture
def memory_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice; undone after the test."""
    monkeypatch.setattr(RayActorManager, "_actor_task_failed", RayActorManager._actor_task_failed)
    tell_memory_apart(died_for_memory)
    once = RayActorManager._actor_task_failed
    tell_memory_apart(died_for_memory)
    assert RayActorManager._actor_task_failed is once


def fail(error: Exception) -> dict[str, Exception]:
    """What the callbacks of an actor, and of the task that it was given, are told."""
    told: dict[str, Exception] = {}
    freed: list[Any] = []
    manager = RayActorManager(SimpleNamespace(free_resources=lambda acquired_resource: freed.append(acquired_resource)))
    actor = TrackedActor(1, on_error=lambda _, error: told.update(actor=error))
    manager._live_actors_to_ray_actors_resources[actor] = (None, "one CPU")
    manager._actor_task_failed(TrackedActorTask(actor, on_error=lambda _, error: told.update(task=error)), error)
    assert freed == (["one CPU"] if "actor" in told else [])
    return told


def test_a_process_that_ray_ended_for_memory_is_an_actor_that_died(memory_told_apart: None, trial: Trial) -> None:
    told = fail(OutOfMemoryError(NO_MEMORY))
    assert set(told) == {"actor", "task"} and told["actor"] is told["task"]
    assert isinstance(told["actor"], RayActorError) and str(told["actor"]) == NO_MEMORY
    trial.handle_error(told["actor"])
    assert reason(trial) == "OutOfMemoryError: the node ran out of memory, and Ray ended the trial's process"


def test_other_errors_are_what_they_were(memory_told_apart: None, trial: Trial) -> None:
    died, raised = ActorDiedError(), RayTaskError("step", "Traceback …\nValueError: no", ValueError("no"))
    assert fail(died) == {"actor": died, "task": died}
    assert fail(raised) == {"task": raised}
    with pytest.raises(RuntimeError, match="unexpected exception: what is this"):
        fail(ValueError("what is this"))
    trial.handle_error(died)
    assert reason(trial) == "the trial's process died"
    trial.handle_error(raised)
    assert reason(trial) == "ValueError: no"


def test_a_node_that_does_not_meet_the_terms_is_told(trial: Trial) -> None:
    """Of an actor that could not be made, Ray has the traceback in the text."""
    line = "RuntimeError: node h does not see the storage of this sweep (/store/lock): is it mounted there?"
    text = f"The actor died because of an error raised in its creation task, ray::X()\n  File 'a', line 1\n{line}\n"
    trial.handle_error(RayActorError(error_msg=text, actor_init_failed=True))
    assert reason(trial) == line


def test_a_trial_without_an_error_file(trial: Trial) -> None:
    assert reason(trial) == "unknown error"
    trial.handle_error(RayActorError())
    Path(str(trial.pickled_error_file)).unlink()
    assert reason(trial) == "unknown error"


# -- what the queue hears ----------------------------------------------------------------------------------------------------


def begun(tmp_path: Path, trial: Trial, max_failures: int) -> tuple[TrialCallback, Queue, Job]:
    """A queue with a job that Tune has."""
    tree = study()
    del tree["search"]
    queue = Queue(make_plan(load(write(tmp_path, tree))), CellStore(tmp_path / "store"), None, [], lambda record: False)
    feeder = Feeder(queue, Capacity(Resources(), lambda: {"here": {"CPU": 1.0}}), max_failures=max_failures)
    assert feeder.suggest(trial.trial_id)["cell"] == make_cell(tree["base"], 0, "test").id
    return TrialCallback(feeder), queue, feeder.jobs[trial.trial_id]


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_trial_that_ran_out_of_memory_is_not_tried_again(
    memory_told_apart: None, trial: Trial, tmp_path: Path, goes_on: bool
) -> None:
    callback, queue, job = begun(tmp_path, trial, max_failures=2)
    trial.handle_error(fail(OutOfMemoryError(NO_MEMORY))["task"])
    (callback.on_trial_recover if goes_on else callback.on_trial_error)(1, [trial], trial)
    record = queue.store.read(job.cell.id)
    assert record.status is Status.OUT_OF_MEMORY and record.error.startswith("OutOfMemoryError: the node")
    assert job.retries == 0 and (job.cell.id in queue.running) == goes_on


def test_a_process_that_died_before_it_had_begun_is_tried_again_so_often(trial: Trial, tmp_path: Path) -> None:
    """Tune counts as many failures, but never tries again what dies before its first result."""
    callback, queue, job = begun(tmp_path, trial, max_failures=2)
    for retries in (1, 2):
        trial.handle_error(ActorDiedError())
        callback.on_trial_error(1, [trial], trial)
        assert (job.retries, queue.ended, queue.running) == (retries, {}, {})
        assert callback.feeder.suggest(trial.trial_id)["cell"] == job.cell.id
    trial.handle_error(ActorDiedError())
    callback.on_trial_error(1, [trial], trial)
    assert [one.outcome for one in queue.ended.values()] == [Outcome(Status.FAILED, "the trial's process died")]
    assert queue.store.read(job.cell.id).status is Status.FAILED


def test_tune_never_has_a_trial_that_it_may_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It gives one that is beyond its bound a used actor before it has made its folder, and the sweep ends with a traceback."""
    tree = study()
    del tree["search"]
    queue = Queue(make_plan(load(write(tmp_path, tree))), CellStore(tmp_path / "store"), None, [], lambda record: False)
    monkeypatch.setattr(capacity, "LOOK_SECONDS", -1.0)
    places = 1
    feeder = Feeder(queue, Capacity(Resources(), lambda: {"here": {"CPU": float(places)}}))
    feeder.controller = controller = TuneController.__new__(TuneController)
    controller._max_pending_trials = 1
    for places, bound in ((4, 5), (2, 5), (8, 9), (1, 9)):  # nodes come and go
        feeder.suggest(f"with {places} places")
        assert controller._max_pending_trials == bound


@pytest.mark.parametrize(("others", "turns"), [(1, True), (0, False)])
def test_more_sweeps_than_places_take_turns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, others: int, turns: bool
) -> None:
    """Ray gives a place to who asks when it falls free, which is who has had it; who waits is looked at every second."""
    monkeypatch.setattr(capacity, "LOOK_SECONDS", -1.0)
    tree = study()
    del tree["search"]
    queue = Queue(make_plan(load(write(tmp_path, tree))), CellStore(tmp_path / "store"), None, [], lambda record: False)
    waiting = [Share({}, [{"CPU": 1.0}])] * others
    room = Capacity(
        Resources(), lambda: {"here": {"CPU": 1.0}}, sharing=lambda: (Share({"here": {"CPU": 1.0}}), waiting)
    )
    feeder = Feeder(queue, room)
    assert feeder.suggest("first") is not None  # one that has had none yet waits like the others
    feeder.end(feeder.jobs["first"], Outcome(Status.FAILED, "for once"))
    assert (feeder.suggest("second") is None) == turns
    if turns:
        monkeypatch.setattr("ltsearch.run.tune_adapters.TURN_SECONDS", 0.0)
        assert feeder.suggest("second") is not None  # nobody has taken it


NODE_GONE = "The actor died because its node has died. Node Id: 8f, the actor's node was terminated unexpectedly"


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_node_that_is_lost_is_not_charged_to_its_trial(trial: Trial, tmp_path: Path, goes_on: bool) -> None:
    callback, queue, job = begun(tmp_path, trial, max_failures=0)
    for times in range(1, 4):
        trial.handle_error(RayActorError(error_msg=NODE_GONE))
        if goes_on:
            waiting = defaultdict(set, {trial.placement_group_factory: {trial}})
            callback.feeder.controller = SimpleNamespace(_resources_to_pending_trials=waiting)
            callback.on_trial_recover(1, [trial], trial)
            callback.feeder.controller = None
            assert waiting[trial.placement_group_factory] == {trial}
        else:
            callback.on_trial_error(1, [trial], trial)
            assert callback.feeder.suggest(trial.trial_id)["cell"] == job.cell.id
        assert (job.retries, job.not_its_fault, queue.ended) == (0, times, {}) and job.cell.id in queue.running
    trial.handle_error(ActorDiedError())
    callback.on_trial_error(1, [trial], trial)
    assert [one.outcome.status for one in queue.ended.values()] == [Status.FAILED]


def test_a_trial_that_kills_every_node_ends(trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ltsearch.run.tune_adapters.MOST_OF_NODES", 2)
    callback, queue, job = begun(tmp_path, trial, max_failures=0)
    for left in (True, True, False):
        trial.handle_error(RayActorError(error_msg=NODE_GONE))
        callback.on_trial_error(1, [trial], trial)
        assert (not queue.ended) == left
        if left:
            callback.feeder.suggest(trial.trial_id)


def test_a_node_that_cannot_set_up_is_avoided_by_the_next_attempt(trial: Trial, tmp_path: Path) -> None:
    callback, queue, job = begun(tmp_path, trial, max_failures=0)
    told: list[str] = []
    callback.feeder.unfit = Unfit(lambda: ["8f", "a0"], told.append)
    line = "RuntimeError: node h2: ImportError: no torch [node 8f]"
    trial.handle_error(RayActorError(error_msg=f"error in its creation task\n{line}\n", actor_init_failed=True))
    callback.on_trial_error(1, [trial], trial)
    again = callback.feeder.suggest(trial.trial_id)
    assert (again["cell"], again["avoid"], job.retries) == (job.cell.id, "8f", 0)
    assert len(told) == 1 and told[0].startswith("node h2: ImportError: no torch; the node is left alone")
    other = line.replace("8f", "a0")
    trial.handle_error(RayActorError(error_msg=f"error in its creation task\n{other}\n", actor_init_failed=True))
    with pytest.raises(UserError, match="no node is left on which a trial can be set up"):
        callback.on_trial_error(1, [trial], trial)
    assert isinstance(callback.feeder.broken, UserError) and queue.store.read(job.cell.id) is None


@pytest.mark.parametrize(
    ("avoid", "left", "freed"),
    [
        ("8f", ["8f"], True),  # though the while for which new trials leave it alone may be over
        ("8f,a0", ["8f"], True),
        ("8f", ["8f", "a0"], False),
        ("8f", [], False),  # all have gone, for now
        ("", ["8f"], False),
    ],
)
def test_what_waits_for_a_node_that_has_gone_is_asked_for_again(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, avoid: str, left: list[str], freed: bool
) -> None:
    callback, _, _ = begun(tmp_path, trial, max_failures=0)
    found: list[Exception] = []
    monkeypatch.setattr("ltsearch.cluster.ray_internals.waiting", lambda controller: [trial])
    monkeypatch.setattr("ltsearch.cluster.ray_internals.fail_waiting", lambda c, one, error: found.append(error))
    callback.feeder.controller = SimpleNamespace()
    trial.config["avoid"] = avoid
    for growing in (True, False):
        callback.feeder.unfit = Unfit(lambda: left, lambda text: None, growing=growing)
        callback.feeder.free_what_waits_for_none()
        assert len(found) == (freed and not growing)
    for error in found:
        trial.handle_error(error)
        why = reason(trial)
        assert why == "the node that it waited for was lost" and lost(why)


def test_a_node_that_a_trial_was_kept_away_from_is_not_at_fault(trial: Trial, tmp_path: Path) -> None:
    """Or it would be tried again for ever: where Ray names another address than its own, say."""
    callback, _, job = begun(tmp_path, trial, max_failures=2)
    callback.feeder.unfit = Unfit(lambda: ["8f", "a0"], lambda text: None)
    trial.config["avoid"] = "8f"
    line = "RuntimeError: node h2: ImportError: no torch [node 8f]"
    trial.handle_error(RayActorError(error_msg=f"error in its creation task\n{line}\n", actor_init_failed=True))
    callback.on_trial_error(1, [trial], trial)
    assert (job.retries, job.not_its_fault, callback.feeder.unfit.now()) == (1, 0, ())


NODES = [
    {"NodeID": "8f", "NodeManagerAddress": "10.0.0.2", "NodeManagerPort": 1, "Alive": True},
    {"NodeID": "a0", "NodeManagerAddress": "10.0.0.3", "NodeManagerPort": 1, "Alive": True},
]


def test_code_that_ray_cannot_unpack_on_a_node_is_that_nodes_fault(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune keeps the text of such an error only, after those of the attempts before."""
    monkeypatch.setattr("ray.nodes", lambda: NODES)
    trial.handle_error(RayActorError(error_msg=NODE_GONE))
    assert reason(trial) == LOST
    trial.handle_error(TuneError("Task was killed due to the node running low on memory."))
    assert reason(trial).startswith("OutOfMemoryError: the node ran out of memory")
    failed = "Could not create the actor because its associated runtime env failed to be created."
    where = (
        "[Node 10.0.0.3] Traceback (most recent call last):\n  File 'a', line 1\nOSError: [Errno 28] No space left\n"
    )
    trial.handle_error(RuntimeEnvSetupError(f"{failed}\n{where}"))
    told = "node 10.0.0.3: a trial's process cannot start there (OSError: [Errno 28] No space left) [node a0]"
    assert reason(trial) == told


def test_with_one_node_it_is_not_known_whose_fault_it_was(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.nodes", lambda: [NODES[0], {**NODES[1], "Alive": False}])
    monkeypatch.setattr("ltsearch.cluster.ray_internals.node_of", lambda actor: "8f")
    monkeypatch.setattr("ltsearch.run.unfit.answers", lambda node: True)
    trial.handle_error(RayActorError("1" * 32, "error in its creation task\nOSError: no\n", actor_init_failed=True))
    assert reason(trial) == "OSError: no"


def test_a_trial_that_begins_on_no_node_is_at_fault_itself(trial: Trial, tmp_path: Path) -> None:
    """Where new nodes would come for ever: its function imports what none of them has, say."""
    callback, _, job = begun(tmp_path, trial, max_failures=2)
    callback.feeder.unfit = Unfit(lambda: [f"{n}f" for n in range(9)], lambda text: None, growing=True)
    for n, charged in enumerate((0, 0, 0, 1, 2)):
        line = f"RuntimeError: node h{n}: ImportError: no foo [node {n}f]"
        trial.handle_error(RayActorError(error_msg=f"error in its creation task\n{line}\n", actor_init_failed=True))
        callback.on_trial_error(1, [trial], trial)
        assert job.retries == charged and len(callback.feeder.unfit.now()) == min(n + 1, 3)
        callback.feeder.suggest(trial.trial_id)


def test_a_process_that_died_with_its_node_is_told_apart(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Ray itself has noticed; and one that could not be made on a node that is there is that node's fault."""
    monkeypatch.setattr("ltsearch.cluster.ray_internals.node_of", {"1" * 32: "8f", "2" * 32: "a0"}.__getitem__)
    with socket.create_server(("127.0.0.1", 0)) as there, socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        nodes = [
            {**node, "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": one.getsockname()[1]}
            for node, one in zip(NODES, (gone, there), strict=True)
        ]
        monkeypatch.setattr("ray.nodes", lambda: nodes)
        trial.handle_error(RayActorError("1" * 32))
        assert reason(trial) == LOST
        trial.handle_error(RayActorError("2" * 32))
        assert reason(trial) == "the trial's process died"
        text = "error in its creation task\nModuleNotFoundError: No module named 'x'\n"
        trial.handle_error(RayActorError("2" * 32, text, actor_init_failed=True))
        told = "a trial's process cannot start there (ModuleNotFoundError: No module named 'x') [node a0]"
        assert reason(trial).endswith(told)
