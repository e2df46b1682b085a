"""What every method in the catalogue must do; a new one is tested by being listed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.helpers import (
    LOGITS_ONLY,
    TRAINED,
    make_batch,
    make_method,
    required_weights,
    run_with_requirements,
    small_trial,
)
from trainables import evaluation
from trainables.config import TrialConfig
from trainables.data.longtail import check_batches, split
from trainables.methods import METHODS, method_class, options_class
from trainables.methods.base import Method
from trainables.methods.options import MethodOptions
from trainables.reports import Report
from trainables.run_options import RunOptions
from trainables.training import _Trial, train

every_method = pytest.mark.parametrize("name", METHODS)
trains = [name for name in METHODS if small_trial(name).loop.trains]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def first_stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What comes first is trained once for all tests: most second stages share it."""
    return tmp_path_factory.mktemp("first")


def trial_of(name: str, digits: Any, first_stages: Path, *over: dict[str, Any]) -> _Trial:
    """A trial before its first step, with what it requires."""
    config = small_trial(name, *over)
    run = RunOptions(required=required_weights(config, digits, first_stages))
    return _Trial(config, split(config.data, digits), run)


@every_method
def test_options(name: str) -> None:
    cls = options_class(name)
    assert issubclass(cls, MethodOptions) and cls.model_fields["name"].default == name
    options = cls()
    assert cls.model_validate_json(options.model_dump_json()) == options
    assert isinstance(cls.recipe, int) and cls.recipe >= 1
    with pytest.raises(ValueError, match="frozen"):
        options.name = "other"
    for field, info in cls.model_fields.items():
        assert field == "name" or info.description or info.annotation is not None


@every_method
def test_it_is_a_module_of_the_right_kind(name: str) -> None:
    assert issubclass(method_class(name), Method)


@every_method
def test_it_is_documented(name: str) -> None:
    pages = Path(__file__).parents[2] / "docs" / "methods"
    assert any(f"`{name}`" in page.read_text(encoding="utf-8") for page in pages.glob("*.md")), "docs/methods/<name>.md"


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("shape", [(1, 1, 3, 2), (2, 1, 4, 5), (1, 3, 4, 5), (3, 2, 2, 20)])
def test_losses_are_finite_scalars_with_gradients(name: str, shape: tuple[int, ...]) -> None:
    """Also for extreme logits and classes of one image."""
    classes = shape[-1]
    for scale in (1.0, 1e4):
        z = (torch.randn(shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1) * scale).requires_grad_()
        try:
            method = make_method(z, [100] + [1] * (classes - 1), precision="fp32", name=name)
        except ValueError as error:  # the method wants another number of experts, and says so
            assert "model.experts" in str(error)
            pytest.skip(str(error).splitlines()[-2])
        if name == "one_way_smoothing" and classes != 2:
            pytest.skip("for two classes")
        losses = method.losses(make_batch(z, [b % classes for b in range(shape[2])], epoch=150))
        assert all(value.shape == () and torch.isfinite(value) for value in losses.values())
        (gradient,) = torch.autograd.grad(losses["loss"], z)
        assert torch.isfinite(gradient).all()
        assert scale > 1 or gradient.abs().sum() > 0
        assert all(not value.requires_grad for key, value in losses.items() if key != "loss")


@pytest.mark.parametrize("name", TRAINED)
def test_mixup_of_an_image_with_itself_is_the_plain_loss(name: str) -> None:
    if name == "one_way_smoothing":
        pytest.skip("for two classes")
    experts = options_class(name).wants.get("model.experts", 2)
    z = torch.randn(experts, 2, 3, 6, dtype=torch.float64)
    method = make_method(z, [30, 20, 10, 5, 2, 1], name=name)
    plain = method.losses(make_batch(z, [0, 3, 5]))["loss"]
    same = method.losses(make_batch(z, [0, 3, 5], [0, 3, 5], [0.3, 0.6, 1.0]))["loss"]
    assert same.item() == pytest.approx(plain.item(), rel=1e-12)


@pytest.mark.parametrize("name", TRAINED)
def test_images_do_not_see_each_other(name: str) -> None:
    """The loss of a batch is the mean of the losses of its halves (class weights are off, or divide by B)."""
    if name == "one_way_smoothing":
        pytest.skip("for two classes")
    experts = options_class(name).wants.get("model.experts", 2)
    z = torch.randn(experts, 2, 6, 5, dtype=torch.float64)
    labels = [0, 1, 2, 3, 4, 0]
    method = make_method(z, [30, 20, 10, 5, 1], name=name)
    whole = method.losses(make_batch(z, labels))["loss"]
    parts = [slice(0, 3), slice(3, 6)]
    batches = [replace(make_batch(z[:, :, part], labels[part]), image=torch.arange(6)[part]) for part in parts]
    halves = [method.losses(batch)["loss"].item() for batch in batches]
    assert whole.item() == pytest.approx(sum(halves) / 2, rel=1e-12)


@pytest.mark.parametrize("name", trains)
def test_steps_lower_the_loss_on_a_fixed_batch(name: str, digits: Any, first_stages: Path) -> None:
    trial = trial_of(
        name, digits, first_stages, {"optimizer.lr": 0.005, "optimizer.momentum": 0.0, "optimizer.nesterov": False}
    )
    trial.network.train()
    trial.method.train()
    trial.method.begin_epoch(0)
    ((step, batch),) = list(trial.feed.batches(trial.feed.steps(0)[:1], 0))
    losses = []
    for _ in range(8):
        losses.append(float(trial._forward_backward(step, batch)["loss"].detach()))
        if name not in ("ncl", "paco"):  # whose queue would move under the loss
            trial._optimizer_step()
        else:
            trial.optimizer.step()
            trial.optimizer.zero_grad()
            trial.method.slow.coming.clear()
    assert losses[-1] < losses[0] and all(math.isfinite(loss) for loss in losses)


@pytest.mark.slow
@every_method
def test_resume_is_exact_and_the_state_is_whole(name: str, digits: Any, first_stages: Path, tmp_path: Path) -> None:
    """Twice the same bits; and from the checkpoint, with other global random numbers, the same bits again."""
    config = small_trial(name)

    def run(where: str, stop_after: int | None = None) -> list[Report]:
        required = required_weights(config, digits, first_stages)
        options = RunOptions(folder=tmp_path / where, checkpoint_seconds=0, keep_final=True, required=required)
        reports = []
        for report in train(config, split(config.data, digits), options):
            reports.append(report)
            if report.epoch == stop_after:
                break
        return reports

    whole = run("whole")
    assert whole[-1].done and 0 <= whole[-1].metrics["test/ensemble_top1"] <= 1
    if config.loop.epochs > 1:
        run("parts", stop_after=2)
    torch.manual_seed(123)
    rest = run("parts")
    a, b = (torch.load(tmp_path / part / "weights.pt", weights_only=True) for part in ("whole", "parts"))
    for section in ("network", "method"):
        assert a[section].keys() == b[section].keys()
        assert all(torch.equal(a[section][key], b[section][key]) for key in a[section])
    mine, theirs = whole[-1].metrics, rest[-1].metrics
    assert {k: v for k, v in mine.items() if "second" not in k and "memory" not in k} == {
        k: v for k, v in theirs.items() if "second" not in k and "memory" not in k
    }


@pytest.mark.slow
@every_method
def test_evaluation_does_not_depend_on_its_batches(
    name: str, digits: Any, first_stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trial_of(name, digits, first_stages, {"training.precision": "fp64"})
    if not trial.loop.trains:
        trial.fit()

    def look() -> evaluation.Evaluation:
        return evaluation.evaluate(
            trial.network, trial.method, trial.data, trial.config, torch.device("cpu"), full=True
        )

    before = look()
    monkeypatch.setattr(evaluation, "BATCH", 37)
    after = look()
    torch.testing.assert_close(after.kept, before.kept, rtol=1e-5, atol=1e-6)
    assert after.scalars.keys() == before.scalars.keys()


LEARNERS = [name for name in METHODS if name not in ("one_way_smoothing", "lfme", "tau_norm")]


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_it_learns_the_digits(name: str, digits: Any, first_stages: Path) -> None:
    config = small_trial(
        name,
        {"data": {"imbalance": {"profile": "natural"}, "data_ratio": 1.0}, "augmentation.policy": "none"},
        {"optimizer.lr": 0.1, "training": {"epochs": 4, "batch_size": 64}, "schedule.name": "cosine"},
    )
    reports, _ = run_with_requirements(config, digits, first_stages)
    assert reports[-1].metrics["test/ensemble_top1"] > 0.8


@every_method
def test_its_smallest_study_is_checked_against_the_data(name: str, digits: Any) -> None:
    config = small_trial(name)
    check_batches(config, split(config.data, digits))


def test_what_needs_no_network_is_known() -> None:
    assert {"ce", "bsce", "ncl_pp", "dive"} <= set(TRAINED) <= set(LOGITS_ONLY)


def test_wrong_neighbours_are_named() -> None:
    """Options that need something elsewhere say which key, its value and the way out."""
    for name, over, message in [
        ("bbn", {"model.experts": 3}, r"set model.experts: 2 \(now 3\)"),
        ("ncl", {"augmentation.copies": 1}, r"augmentation.copies: 2 \(now 1\)"),
        ("ride", {"model.experts": 1}, "set model.experts >= 2"),
        ("ride_routing", {"model.experts": 1}, "among the experts of a trained RIDE: set model.experts >= 2"),
        ("sade", {"model.experts": 2}, "set model.experts: 3, not 2"),
        ("balpoe", {"method.tau": [0.0, 1.0]}, "2 values for model.experts = 3"),
        ("tau_norm", {"model.classifier": "cosine"}, "has no norms"),
        ("dive", {"method.power": 1.5}, "less than or equal to 1"),
        ("dive", {"method.power": 0}, "greater than 0"),
        ("crt", {"method.stage1": {"method": {"name": "nothing"}}}, "method.stage1: .*unknown method 'nothing'"),
        ("crt", {"method.sampling": "balanced"}, "Input should be 'instance'"),
        ("focal", {"method.form": "softmax_weight_inside"}, "set method.reweight"),
        ("lfme", {"method.groups": ["few", "few"]}, "names a group twice"),
        ("lfme", {"augmentation.mix": "mixup"}, "is not defined for lfme"),
    ]:
        with pytest.raises(ValueError, match=message):
            small_trial(name, over)


def test_other_methods_options_are_refused() -> None:
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        TrialConfig.model_validate({"method": {"name": "ce", "beta": 0.3}})
