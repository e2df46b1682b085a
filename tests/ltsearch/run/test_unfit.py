"""Which nodes are left alone, for how long, and whose fault a failure was."""

from __future__ import annotations

from typing import Any

import pytest

from ltsearch.run import unfit
from ltsearch.run.unfit import LOST, Unfit, blamed, lost, selector
from trainables.errors import UserError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(unfit.time, "monotonic", lambda: now[0])
    return now


def test_a_node_is_left_alone_for_a_growing_while_and_named_once(clock: list[float]) -> None:
    told: list[str] = []
    nodes = Unfit(lambda: ["a", "b"], told.append)
    for times, seconds in enumerate([60, 120, 240, 480, 960, 1920, 3600, 3600], start=1):
        nodes.failed("a", "node a: no torch", at_work=False)
        clock[0] += seconds - 1
        assert nodes.now() == ("a",), times
        clock[0] += 2
        assert nodes.now() == ()
    assert told == [
        "node a: no torch; the node is left alone for a growing while, and what it was to do is done elsewhere"
    ]


def test_with_no_other_node_left_it_ends_unless_a_trial_is_at_work(clock: list[float]) -> None:
    nodes = Unfit(lambda: ["a", "b"], lambda text: None)
    nodes.failed("a", "node a: no torch", at_work=False)
    assert not nodes.everywhere()
    nodes.failed("b", "node b: no torch", at_work=True)
    assert nodes.everywhere()
    with pytest.raises(UserError, match="no node is left .*: node a: no torch; node b: no torch; mend that"):
        nodes.failed("b", "node b: no torch", at_work=False)


@pytest.mark.parametrize(
    ("text", "node", "gone"),
    [
        ("node h2: ImportError: no torch [node 1f2e]", "1f2e", False),
        (
            "RuntimeError: node h2 does not see the storage of this sweep (x): is it mounted there? [node 00ff]",
            "00ff",
            False,
        ),
        ("ValueError: node [node x]", None, False),
        ("the trial's process died", None, False),
        (LOST, None, True),
        (
            "The actor died because its node has died. Node Id: 83, the actor's node was terminated unexpectedly",
            None,
            True,
        ),
    ],
)
def test_whose_fault_it_was(text: str, node: str | None, gone: bool) -> None:
    found, told = blamed(text)
    assert found == node and lost(text) == gone
    assert told == (text if node is None else text.removeprefix("RuntimeError: ").partition(" [node")[0])


def test_the_node_is_named_by_the_process_that_could_not_be_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    class Context:
        def get_node_id(self) -> str:
            return "beef"

    monkeypatch.setattr(ray, "get_runtime_context", lambda: Context())
    monkeypatch.setattr(unfit, "gethostname", lambda: "h2")

    def fail(error: Exception) -> Any:
        with unfit.blaming_the_node():
            raise error

    with pytest.raises(RuntimeError, match=r"^node h2: ImportError: libcudart.so.13: cannot open \[node beef\]$"):
        fail(ImportError("libcudart.so.13: cannot open"))
    with pytest.raises(RuntimeError, match=r"^node h2 does not see the storage \[node beef\]$"):
        fail(RuntimeError("node h2 does not see the storage"))


def test_what_ray_is_asked_for() -> None:
    assert selector([]) == {} and selector(["b", "a"]) == {"ray.io/node-id": "!in(a,b)"}
