"""Second stages by hand: what is frozen, what is fitted, and that the test set chooses nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainables.helpers import required_weights, small_trial
from trainables import trained
from trainables.config import TrialConfig
from trainables.data.longtail import split
from trainables.errors import UserError
from trainables.methods.base import Images
from trainables.methods.cam_sampling.method import activation_map, composed
from trainables.models.network import build
from trainables.run_options import RunOptions
from trainables.training import train


def finished(name: str, digits: Any, folder: Path, *over: dict[str, Any]) -> tuple[TrialConfig, trained.Trained]:
    """A trial trained with what it requires, and its weights loaded as others load them."""
    from ltsearch.store.ids import cell_id

    config = small_trial(name, {"training.precision": "fp64"}, *over)
    where = folder / cell_id(config)
    run = RunOptions(folder=where, keep_final=True, required=required_weights(config, digits, folder))
    list(train(config, split(config.data, digits), run))
    return config, trained.load(config, where / "weights.pt", torch.device("cpu"), torch.float64)


def first_of(config: TrialConfig, folder: Path) -> dict[str, torch.Tensor]:
    from ltsearch.store.ids import cell_id

    (start,) = [r.trial for r in config.method.requires(config) if r.role == "start"]
    return trained.read(folder / cell_id(start) / "weights.pt")["network"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stages")


@pytest.mark.parametrize(
    ("name", "moved"), [("crt", {"classifier.weight", "classifier.bias"}), ("lws", {"classifier.scale"})]
)
def test_all_but_the_head_is_frozen_with_its_statistics(name: str, moved: set[str], digits: Any, folder: Path) -> None:
    config, after = finished(name, digits, folder)
    before = first_of(config, folder)
    state = {key.replace("classifier.classifier", "classifier"): v for key, v in after.network.state_dict().items()}
    changed = {key for key, value in state.items() if key not in before or not torch.equal(value, before[key])}
    assert {key.removeprefix("experts.0.") for key in changed} == moved


def test_published_code_moves_the_statistics(digits: Any, folder: Path) -> None:
    config, after = finished("crt", digits, folder, {"method.frozen_statistics": False})
    before = first_of(config, folder)
    changed = {k for k, v in after.network.state_dict().items() if not torch.equal(v, before[k])}
    assert any("running_mean" in key for key in changed)
    assert not any(key.endswith("0.weight") and "branch" in key for key in changed)


def test_stage_one_is_the_ce_row(digits: Any) -> None:
    from ltsearch.store.ids import cell_id

    ce = small_trial("ce")
    for name in ("crt", "lws", "tau_norm", "ncm", "disalign", "post_hoc_adjustment", "cam_sampling"):
        config = small_trial(name)
        assert cell_id(config.method.requires(config)[0].trial) == cell_id(ce), name


@pytest.mark.parametrize("project", ["step", "epoch"])
def test_weight_balancing_keeps_rows_in_a_ball(digits: Any, folder: Path, project: str) -> None:
    over = {"method.max_norm": 0.25, "method.weight_decay": 0.0, "method.project": project}
    config, after = finished("weight_balancing", digits, folder, over)
    first = config.method.requires(config)[0].trial
    assert first.optimizer.weight_decay == 5e-3
    before = first_of(config, folder)["experts.0.classifier.weight"].double().norm(dim=1)
    radius = float(before.min() + 0.25 * (before.max() - before.min()))
    norms = after.network.branches[0].classifier.weight.norm(dim=1)
    assert float(norms.max()) <= radius * (1 + 1e-12)
    # Rows that were longer were shortened to the sphere.
    assert (norms > radius * (1 - 1e-9)).any() and before.max() > radius


def test_tau_is_chosen_on_validation_images_of_another_stage_one(digits: Any, folder: Path) -> None:
    over = {"data.data_ratio": 1.0, "method.selection_per_class": 10}
    config, after = finished("tau_norm", digits, folder, over)
    start, selection = config.method.requires(config)
    assert (start.role, selection.role) == ("start", "selection")
    assert start.trial.data.val_per_class == 0 and selection.trial.data.val_per_class == 10
    from ltsearch.store.ids import cell_id

    chosen = trained.read(folder / cell_id(selection.trial) / "weights.pt")["method"]["tau"]
    assert float(after.method.tau) == float(chosen)
    # By hand: the best mean over classes on the validation images of the held-out stage 1.
    held = trained.load(
        selection.trial, folder / cell_id(selection.trial) / "weights.pt", torch.device("cpu"), torch.float64
    )
    data = split(selection.trial.data, digits)
    assert data.split == "val"
    inputs = torch.from_numpy(np.asarray(data.evaluation.images)).double().div(255)
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (data.mean, data.std))
    with torch.no_grad():
        _, features = held.network((inputs - mean) / std)
    w = held.network.branches[0].classifier.weight.detach().numpy()
    labels, scores = data.evaluation.labels, {}
    for tau in [round(0.1 * i, 1) for i in range(21)]:
        z = features[0].numpy() @ (w / np.linalg.norm(w, axis=1, keepdims=True) ** tau).T
        scores[tau] = np.mean([(z[labels == j].argmax(1) == j).mean() for j in range(10)])
    best = max(scores.values())
    assert float(chosen) == pytest.approx(min(t for t, s in scores.items() if s == best))


def test_a_given_tau_needs_no_selection(digits: Any) -> None:
    config = small_trial("tau_norm", {"method.tau": 1.0})
    assert [r.role for r in config.method.requires(config)] == ["start"]


@pytest.mark.parametrize("features", ["un", "l2n", "cl2n"])
@pytest.mark.parametrize("distance", ["cosine", "euclidean", "dot"])
def test_ncm_by_hand(features: str, distance: str, digits: Any, folder: Path) -> None:
    config, after = finished("ncm", digits, folder, {"method": {"features": features, "distance": distance}})
    data = split(config.data, digits)
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (data.mean, data.std))

    def seen(images: Any) -> np.ndarray:
        with torch.no_grad():
            return after.network((torch.from_numpy(np.asarray(images)).double().div(255) - mean) / std)[1][0].numpy()

    train, test = seen(data.train.images), seen(data.evaluation.images[:50])
    centre = train.mean(0) if features == "cl2n" else 0.0
    if features != "un":
        train, test = ((f - centre) / np.linalg.norm(f - centre, axis=1, keepdims=True) for f in (train, test))
    means = np.stack([train[data.train.labels == j].mean(0) for j in range(10)])
    scores = {
        "cosine": lambda f, m: f @ m / np.linalg.norm(f) / np.linalg.norm(m),
        "euclidean": lambda f, m: -np.sum((f - m) ** 2),
        "dot": lambda f, m: f @ m / len(f),
    }[distance]
    want = np.array([[scores(f, m) for m in means] for f in test])
    from trainables.models.network import Outputs

    raw = torch.from_numpy(seen(data.evaluation.images[:50]))[None]
    got = after.method.predict(Outputs(torch.empty(0), raw)).logits[0].numpy()
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)


def test_weights_that_do_not_fit_are_named_before_anything_starts() -> None:
    config = small_trial("crt", {"method.stage1": {"model.backbone": "resnet14"}})
    with pytest.raises(
        UserError, match=r"study: crt goes on from the weights of ce \(resnet14, K = 1\), which do not fit resnet8"
    ):
        trained.check_fit(config, "study")
    trained.check_fit(small_trial("crt"), "study")


# -- CAM-based sampling ------------------------------------------------------------------------------------------------


def test_activation_maps_by_hand() -> None:
    network = build(TrialConfig.model_validate({"model": {"backbone": "resnet8"}}).model, 10, 0).eval().double()
    images = Images(torch.randn(3, 3, 16, 16, dtype=torch.float64), torch.tensor([1, 0, 7]))
    with torch.no_grad():
        maps = activation_map(network, images)
        expert = network.branches[0]
        last = expert.branch[:-1](images.inputs)
        for i, y in enumerate(images.labels.tolist()):
            want = sum(float(expert.classifier.weight[y, d]) * last[i, d] for d in range(64))
            resized = torch.nn.functional.interpolate(want[None, None], size=16, mode="bilinear", align_corners=False)
            torch.testing.assert_close(maps[i], resized[0, 0])


def test_new_images_keep_their_background_and_move_their_foreground() -> None:
    torch.manual_seed(0)
    images = torch.full((30, 3, 16, 16), 10, dtype=torch.uint8)
    foreground = torch.zeros(30, 16, 16, dtype=torch.bool)
    foreground[:, 3:7, 2:6] = True
    images[foreground[:, None].expand_as(images)] = 200
    u = torch.rand(30, 4)
    u[:10, 0], u[10:20, 0], u[20:, 0] = 0.1, 0.5, 0.9  # turned, moved, mirrored
    new = composed(images, foreground, u)
    assert set(new.unique().tolist()) == {10, 200}
    assert (new[foreground[:, None].expand_as(new)] == 200).all()  # the old one stays
    mirrored = foreground[20:].flip(-1)
    assert torch.equal(new[20:, 0] == 200, foreground[20:] | mirrored)
    for i in range(10, 20):
        dx, dy = ((u[i, 1:3] - 0.5) * 8).tolist()  # half sides of 8 px
        added = (new[i, 0] == 200) & ~foreground[i]
        if added.any():
            rows, columns = torch.nonzero((new[i, 0] == 200) & ~foreground[i], as_tuple=True)
            assert rows.float().mean() == pytest.approx(4.5 + dy, abs=3.0) and columns.float().mean() == pytest.approx(
                3.5 + dx, abs=3.0
            )


def test_rare_classes_are_filled_up(digits: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of new images among those of class j is (n_max + n_min - n_j)/(n_max + n_min)."""
    from trainables.training import _Trial

    config = small_trial("cam_sampling", {"training.batch_size": 64})
    run = RunOptions(required=required_weights(config, digits, folder))
    trial = _Trial(config, split(config.data, digits), run)
    n = trial.method.class_counts.double()
    monkeypatch.setattr("trainables.methods.cam_sampling.method.composed", lambda images, *_: ~images)
    images = torch.randint(0, 256, (4000, 3, 8, 8), dtype=torch.uint8)
    for j in (0, 9):
        rows = torch.full((4000,), int(torch.nonzero(trial.feed.labels == j)[0]))
        labels = torch.full((4000,), j)
        key = (0, 2, 1, rows, torch.arange(4000))
        changed = (trial.method.pixels(images, labels, key) != images).flatten(1).any(1).double().mean()
        want = float((n.max() + n.min() - n[j]) / (n.max() + n.min()))
        assert float(changed) == pytest.approx(want, abs=0.03)


def test_broken_first_stages_are_named(tmp_path: Path, digits: Any) -> None:
    from trainables.training import train

    config = small_trial("crt")
    (tmp_path / "weights.pt").write_bytes(b"no weights")
    data = split(config.data, digits)
    with pytest.raises(trained.BrokenWeights, match=r"weights.pt of a trial that comes first are missing or broken"):
        next(train(config, data, RunOptions(required=(tmp_path / "weights.pt",))))
    with pytest.raises(ValueError, match=r"needs the weights of 1 trials \(start\), got 0"):
        next(train(config, data, replace(RunOptions(), required=())))
