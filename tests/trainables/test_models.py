"""Backbones against published sizes, a literal option-A block, and the experts' initialisation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18

from trainables import catalogue
from trainables.config import ModelConfig
from trainables.errors import DataError
from trainables.models import BACKBONES
from trainables.models.backbone import Backbone
from trainables.models.cifar_resnet import CifarResNet
from trainables.models.heads import CosineClassifier
from trainables.models.network import build, freeze


def make(name: str, stem: str | None = None) -> Backbone:
    return catalogue.load(BACKBONES[name].build)(stem, 1.0, None)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_cifar_resnets_have_the_published_size(depth: int, millions: float) -> None:
    # Table 6 of He et al., which counts the classifier for 10 classes.
    assert (parameters(CifarResNet(depth)) + 650) / 1e6 == pytest.approx(millions, abs=0.006)


def test_cifar_resnet_depth_is_checked() -> None:
    with pytest.raises(ValueError, match=r"depth = 33 must be 6n \+ 2"):
        CifarResNet(33)


@pytest.mark.parametrize(
    ("name", "millions", "features"),
    [("resnet10", 4.91, 512), ("resnet18", 11.18, 512), ("resnet50", 23.51, 2048), ("resnet152", 58.14, 2048)],
)
def test_imagenet_resnets(name: str, millions: float, features: int) -> None:
    backbone = make(name)
    assert parameters(backbone) / 1e6 == pytest.approx(millions, abs=0.02)
    assert backbone.features == features


def test_option_a_shortcut_by_hand() -> None:
    net = CifarResNet(8).eval()
    block = net.parts[2]  # 16 -> 32 channels, stride 2
    x = torch.randn(2, 16, 8, 8)
    out = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    shortcut = torch.zeros(2, 32, 4, 4)
    for channel in range(16):
        for i in range(4):
            for j in range(4):
                shortcut[:, channel + 8, i, j] = x[:, channel, 2 * i, 2 * j]
    torch.testing.assert_close(block(x.clone()), F.relu(out + shortcut))


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_of_the_configuration_is_built(name: str) -> None:
    if name in ("resnet152",):
        pytest.skip("half a minute of memory traffic; its size is checked above")
    model = build(ModelConfig(backbone=name), classes=7, seed=0).eval()
    logits, features = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (1, 2, 7) and features.shape[:2] == (1, 2)


def test_stem_cifar_keeps_resolution() -> None:
    stem = make("resnet10", "cifar").parts[0](torch.randn(1, 3, 32, 32))
    assert stem.shape == (1, 64, 32, 32)


def test_cosine_classifier() -> None:
    classifier = CosineClassifier(5, 3, scale=16.0)
    f = torch.randn(4, 5)
    want = torch.stack([16 * F.cosine_similarity(f, w.expand_as(f)) for w in classifier.weight], dim=1)
    torch.testing.assert_close(classifier(f), want)
    torch.testing.assert_close(classifier(3 * f), want)


def test_experts_differ_and_depend_on_seed_and_number_only() -> None:
    two, three = (build(ModelConfig(backbone="resnet8", experts=k), 10, seed=4) for k in (2, 3))
    other = build(ModelConfig(backbone="resnet8"), 10, seed=5)
    weights = [e.branch[0][0].weight for e in (*two.experts, *three.experts, *other.experts)]
    assert torch.equal(weights[0], weights[2]) and torch.equal(weights[1], weights[3])
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[5])


@pytest.mark.parametrize(
    ("shared", "parts"),
    [("none", 0), ("stem", 1), ("stage1", 3), ("stage2", 5), ("stage3", 7), ("all_but_last_block", 6), ("backbone", 8)],
)
def test_branches_share_the_trunk(shared: str, parts: int) -> None:
    """ResNet-14: a stem, three stages of two blocks, pooling. What is not shared starts as in whole experts."""
    config = ModelConfig(backbone="resnet14", experts=2, shared=shared)
    model, whole = build(config, 10, seed=4), build(ModelConfig(backbone="resnet14", experts=2), 10, seed=4)
    assert len(list(model.trunk.children())) == parts and len(model.experts[0].branch) == 8 - parts
    images = torch.randn(2, 3, 16, 16)
    first, theirs = model(images).logits[0], whole(images).logits[0]
    torch.testing.assert_close(first, theirs)
    if parts < 7:
        ours, others = model.experts[1].branch.parameters(), whole.experts[1].branch[parts:].parameters()
        assert all(torch.equal(a, b) for a, b in zip(ours, others, strict=True))


def test_a_stage_that_is_not_there_and_a_narrow_branch() -> None:
    with pytest.raises(ValueError, match="only the CIFAR family has it, not 'resnet18'"):
        ModelConfig(backbone="resnet18", branch_width=0.75)
    narrow = build(ModelConfig(backbone="resnet32", experts=3, shared="stage1", branch_width=0.75), 100, seed=0)
    assert narrow.features == 48 and narrow(torch.randn(2, 3, 32, 32)).logits.shape == (3, 2, 100)


def test_frozen_parts_keep_their_statistics() -> None:
    model = build(ModelConfig(backbone="resnet8", shared="stage1"), 10, seed=0)
    freeze(model.trunk)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()(torch.randn(4, 3, 16, 16) + 3)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and not any(name.startswith("trunk") for name in moved)
    freeze(model.trunk, statistics=False)
    model.train()(torch.randn(4, 3, 16, 16) + 3)
    assert not torch.equal(model.state_dict()["trunk.0.1.running_mean"], before["trunk.0.1.running_mean"])


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    build(ModelConfig(backbone="resnet8"), 10, seed=4)
    assert torch.equal(before, torch.get_rng_state())


def test_pretrained_weights_go_into_every_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainables.models import pretrained

    net = resnet18(weights=None)
    monkeypatch.setattr(pretrained, "fetch", lambda name, file: net.state_dict())
    model = build(ModelConfig(backbone="resnet18", experts=2, pretrained=True), 7, seed=0)
    images = torch.randn(2, 3, 64, 64)
    net.fc = torch.nn.Identity()
    _, features = model.eval()(images)
    for expert in features:
        torch.testing.assert_close(expert, net.eval()(images))
    first, second = (expert.classifier.weight for expert in model.experts)
    assert not torch.equal(first, second)


def test_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from trainables.models import pretrained

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(DataError, match=r"resnet152-.*\.pth is not in .*checkpoints.*no route to host.*TORCH_HOME"):
        pretrained.fetch("resnet152")


@pytest.mark.parametrize("wrapped", ["plain", "wrapped"])
def test_weights_of_a_file_go_into_every_expert(wrapped: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As they are saved, or in a checkpoint of DataParallel; the classifier of 1,000 classes is not taken."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    net = resnet18(weights=None)
    state = net.state_dict()
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}} if wrapped == "wrapped" else state,
        folder / "mine.pth",
    )
    model = build(ModelConfig(backbone="resnet18", experts=2, pretrained="mine.pth"), 7, seed=0)
    images = torch.randn(2, 3, 64, 64)
    net.fc = torch.nn.Identity()
    _, features = model.eval()(images)
    for expert in features:
        torch.testing.assert_close(expert, net.eval()(images))


def test_a_file_that_has_no_such_weights_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from trainables.models import pretrained

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    with pytest.raises(DataError, match=rf"model.pretrained = 'mine.pth': it is not in {folder}; put it there"):
        pretrained.fetch("resnet18", "mine.pth")
    (folder / "mine.pth").write_text("x")
    with pytest.raises(DataError, match="mine.pth is no file of weights"):
        pretrained.fetch("resnet18", "mine.pth")
    torch.save(resnet18(weights=None).state_dict(), folder / "mine.pth")
    with pytest.raises(DataError, match=r"mine.pth has no layer1.0.conv1.weight, .* … of the shape in resnet50"):
        pretrained.fetch("resnet50", "mine.pth")
    with pytest.raises(ValueError, match="weights are read for resnet10, resnet18"):
        ModelConfig(backbone="resnet32", pretrained="mine.pth")
    with pytest.raises(ValueError, match="pattern"):
        ModelConfig(backbone="resnet18", pretrained="../mine.pth")


@pytest.mark.parametrize(
    "over", [{"backbone": "resnet32"}, {"backbone": "resnet10"}, {"backbone": "resnet50", "stem": "cifar"}]
)
def test_what_has_no_pretrained_weights(over: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="there are no ImageNet weights"):
        ModelConfig(pretrained=True, **over)
