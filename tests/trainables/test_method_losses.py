"""Every method's loss against an independent float64 evaluation of its definition, with loops over samples and classes."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, softmax

from tests.trainables.helpers import make_batch
from tests.trainables.loss_helpers import (
    LABELS,
    B,
    C,
    K,
    N,
    T,
    ce,
    effective,
    kl,
    logits,
    loss_of,
    mean_over,
    method,
)
from trainables.config import TrialConfig
from trainables.losses import contrastive, distillation, weights
from trainables.methods import method_class
from trainables.methods.base import Images, Prediction
from trainables.methods.lfme.method import easiness
from trainables.methods.virtual_examples.method import propose
from trainables.models.network import Outputs

# -- losses of single samples ------------------------------------------------------------------------------------------


def test_ce_with_label_smoothing() -> None:
    def sample(z: np.ndarray, y: int) -> float:
        target = np.full(C, 0.1 / C) + 0.9 * np.eye(C)[y]
        return -float(target @ log_softmax(z))

    assert loss_of(method("ce", label_smoothing=0.1), logits()) == pytest.approx(mean_over(sample, logits()), rel=1e-12)


def test_deferred_weights_and_both_means() -> None:
    z, w = logits(), effective(0.9)
    weighted = mean_over(lambda z, y: w[y] * ce(z, y), z)
    for mean, want in (("batch", weighted), ("weights", weighted / np.mean([w[y] for y in LABELS]))):
        made = method("ce", reweight="effective", reweight_beta=0.9, reweight_from=0.8, reweight_mean=mean)
        assert loss_of(made, z, epoch=7) == pytest.approx(mean_over(ce, z), rel=1e-12)
        assert loss_of(made, z, epoch=8) == pytest.approx(want, rel=1e-12)
    # torch's own weighted mean, of one expert
    one = z[:1]
    theirs = torch.nn.functional.cross_entropy(
        one[0].flatten(0, 1), torch.tensor(LABELS * T), weight=torch.from_numpy(w)
    )
    made = method("ce", k=1, reweight="effective", reweight_beta=0.9)
    assert loss_of(made, one) == pytest.approx(float(theirs), rel=1e-12)
    inverse = N**-0.5 * C / np.sum(N**-0.5)
    assert torch.allclose(weights.inverse_frequency(torch.from_numpy(N), 0.5), torch.from_numpy(inverse))


def test_focal_in_its_three_forms() -> None:
    z, g = logits(), 1.5

    def plain(z: np.ndarray, y: int) -> float:
        p = softmax(z)[y]
        return -float((1 - p) ** g * np.log(p))

    def binary(z: np.ndarray, y: int) -> float:
        p = np.where(np.arange(C) == y, expit(z), expit(-z))  # of the right answer
        return float(np.sum(-((1 - p) ** g) * np.log(p)))

    w = effective(0.9999)

    def inside(z: np.ndarray, y: int) -> float:
        p = softmax(z)[y] ** w[y]
        return -float((1 - p) ** g * np.log(p))

    assert loss_of(method("focal", gamma=g), z) == pytest.approx(mean_over(plain, z), rel=1e-10)
    assert loss_of(method("focal", gamma=g, form="sigmoid"), z) == pytest.approx(mean_over(binary, z), rel=1e-10)
    made = method("focal", gamma=g, form="softmax_weight_inside", reweight="effective")
    assert loss_of(made, z) == pytest.approx(mean_over(inside, z), rel=1e-9)


@pytest.mark.parametrize("loss", ["softmax", "focal", "sigmoid", "sigmoid_focal"])
def test_class_balanced(loss: str) -> None:
    """Weights outside, divided by the batch's size, as the authors do."""
    z, w, beta = logits(), effective(0.99), 0.99

    def sample(z: np.ndarray, y: int) -> float:
        p, right = softmax(z)[y], np.where(np.arange(C) == y, expit(z), expit(-z))
        value = {
            "softmax": -np.log(p),
            "focal": -(1 - p) * np.log(p),
            "sigmoid": -np.log(right).sum(),
            "sigmoid_focal": -((1 - right) * np.log(right)).sum(),
        }[loss]
        return float(w[y] * value)

    made = method("class_balanced", loss=loss, reweight_beta=beta)
    assert loss_of(made, z) == pytest.approx(mean_over(sample, z), rel=1e-10)
    assert float(made.weights.sum()) == pytest.approx(C)


def test_weight_balancing() -> None:
    z, w = logits(), effective(0.9999)

    def binary(z: np.ndarray, y: int) -> float:
        p = np.exp(log_softmax(z))
        return -sum(np.log(p[j] if j == y else 1 - p[j]) for j in range(C)) / C

    assert loss_of(method("weight_balancing"), z) == pytest.approx(
        mean_over(lambda z, y: w[y] * ce(z, y), z), rel=1e-12
    )
    want = mean_over(lambda z, y: w[y] * binary(z, y), z)
    assert loss_of(method("weight_balancing", loss="binary"), z) == pytest.approx(want, rel=1e-12)
    # What the authors' code calls: torch's own, of one expert, weighted by class.
    one = torch.from_numpy(np.asarray(z))[0].flatten(0, 1).double()
    labels = torch.tensor(LABELS * T)
    theirs = torch.nn.functional.binary_cross_entropy(
        one.softmax(1), torch.nn.functional.one_hot(labels, C).double(), weight=torch.from_numpy(w)[labels, None]
    )
    assert loss_of(method("weight_balancing", k=1, loss="binary"), z[:1]) == pytest.approx(float(theirs), rel=1e-12)


@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_ldam_and_drw(classifier: str) -> None:
    z = logits()
    scale = 30.0 if classifier == "cosine" else 1.0
    m = N**-0.25 * 0.5 / np.max(N**-0.25) * scale
    w = effective(0.9999)

    def sample(z: np.ndarray, y: int) -> float:
        return ce(z - m[y] * np.eye(C)[y], y)

    over = {"classifier": classifier, "cosine_scale": 30.0}
    made = method("ldam", over, reweight="effective", reweight_from=0.8)
    assert loss_of(made, z) == pytest.approx(mean_over(sample, z), rel=1e-12)
    weighted = mean_over(lambda z, y: w[y] * sample(z, y), z) / np.mean([w[y] for y in LABELS])
    assert loss_of(made, z, epoch=9) == pytest.approx(weighted, rel=1e-12)


def test_softmax_equalization() -> None:
    """With γ = 1 every rare class is left out of the denominators of others; γ = 0 is CE; in between, draws have mean γ."""
    z, rare = logits(), N / N.sum() < 0.1

    def sample(z: np.ndarray, y: int) -> float:
        weight = [1.0 if k == y or not rare[k] else 0.0 for k in range(C)]
        return -float(np.log(np.exp(z[y]) / np.sum(weight * np.exp(z))))

    assert rare.sum() == 2
    assert loss_of(method("softmax_eql", gamma=1.0, threshold=0.1), z) == pytest.approx(mean_over(sample, z), rel=1e-12)
    assert loss_of(method("softmax_eql", gamma=0.0, threshold=0.1), z) == pytest.approx(mean_over(ce, z), rel=1e-12)
    values = [loss_of(method("softmax_eql", gamma=0.5, threshold=0.1), z, epoch=e) for e in range(200)]
    low, high = mean_over(sample, z), mean_over(ce, z)
    assert all(low - 1e-12 <= v <= high + 1e-12 for v in values) and len(set(values)) > 20


def test_logit_adjustment_and_bsce() -> None:
    z, tau = logits(), 1.5
    want = mean_over(lambda z, y: ce(z + tau * np.log(N / N.sum()), y), z)
    assert loss_of(method("logit_adjustment", tau=tau), z) == pytest.approx(want, rel=1e-12)
    assert loss_of(method("logit_adjustment"), z) == pytest.approx(loss_of(method("bsce"), z), rel=1e-12)


def test_one_way_smoothing() -> None:
    tree = {"training": {"precision": "fp64"}, "method": {"name": "one_way_smoothing", "flatness": 0.6}}
    made = method_class("one_way_smoothing")(TrialConfig.model_validate(tree), torch.tensor([500, 50])).double()
    epsilon = float(made.targets[0, 1])
    # Virtual examples of the tail over those of the head, counted.
    assert (50 + epsilon * 500) / ((1 - epsilon) * 500) == pytest.approx(0.6)
    z = torch.randn(1, 1, 2, 2, dtype=torch.float64)
    got = float(made.losses(make_batch(z, [0, 1]))["loss"])
    log_p = log_softmax(z[0, 0].numpy(), axis=-1)
    want = -((1 - epsilon) * log_p[0, 0] + epsilon * log_p[0, 1] + log_p[1, 1]) / 2
    assert got == pytest.approx(want, rel=1e-12)


# -- contrast --------------------------------------------------------------------------------------------------------------


def unit(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def test_info_nce() -> None:
    q, k, queue = unit(3, 8), unit(3, 8), unit(7, 8)
    want = 0.0
    for i in range(3):
        scores = [float(q[i] @ k[i]) / 0.2, *[float(q[i] @ old) / 0.2 for old in queue]]
        want -= (scores[0] - math.log(sum(map(math.exp, scores)))) / 3
    assert float(contrastive.info_nce(q, k, queue, 0.2)) == pytest.approx(want, rel=1e-12)


def test_parametric_contrast() -> None:
    n, others = 3, torch.tensor([0, 2, 0, 0, 2, 1, -1])
    labels = torch.tensor([0, 2, 0])
    z, f, g = torch.randn(n, C, dtype=torch.float64), unit(n, 6), unit(7, 6)
    g[:3] = f
    itself = torch.zeros(n, 7, dtype=torch.bool)
    itself[range(3), range(3)] = True
    alpha, beta, tau = 0.05, 1.0, 0.5
    got = contrastive.parametric(z, labels, f @ g.T / tau, others, itself, alpha, beta)
    for i in range(n):
        exps = [math.exp(float(v)) for v in z[i]]
        exps += [math.exp(float(f[i] @ g[j]) / tau) for j in range(7) if j != i]
        total = sum(exps)
        loss, weight = -beta * math.log(math.exp(float(z[i, labels[i]])) / total), beta
        for j in range(7):
            if j != i and others[j] == labels[i]:
                loss -= alpha * math.log(math.exp(float(f[i] @ g[j]) / tau) / total)
                weight += alpha
        assert float(got[i]) == pytest.approx(loss / weight, rel=1e-10)


def test_balanced_contrast() -> None:
    labels = torch.tensor([0, 1, 0, 0, 1, 0])  # two views of [0, 1, 0]
    f, centres, tau = unit(6, 8), unit(C, 8), 0.3
    itself = torch.eye(6, dtype=torch.bool)
    got = contrastive.balanced(f @ f.T / tau, labels, labels, itself, f @ centres.T / tau)
    for i in range(6):
        denominator = 0.0
        for j in range(C):
            members = [math.exp(float(f[i] @ f[m]) / tau) for m in range(6) if m != i and labels[m] == j]
            members.append(math.exp(float(f[i] @ centres[j]) / tau))
            denominator += sum(members) / len(members)
        positives = [math.exp(float(f[i] @ f[m]) / tau) for m in range(6) if m != i and labels[m] == labels[i]]
        positives.append(math.exp(float(f[i] @ centres[labels[i]]) / tau))
        want = -np.mean([math.log(p / denominator) for p in positives])
        assert float(got[i]) == pytest.approx(want, rel=1e-10)


# -- distillation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["teacher", "label_factored"])
@pytest.mark.parametrize("bsce", [True, False])
def test_dive(target: str, bsce: bool) -> None:
    z, teacher, tau, p, alpha = logits(), logits(1, k=2), 3.0, 0.5, 0.4
    mean = teacher.numpy().mean(0)
    term = 0.0
    for k in range(K):
        for t in range(T):
            for b in range(B):
                soft = softmax(mean[t, b] / tau)
                if target == "label_factored":
                    soft = (1 - alpha) * np.eye(C)[LABELS[b]] + alpha * soft
                soft = soft**p / np.sum(soft**p)
                term += kl(np.log(soft), log_softmax(z.numpy()[k, t, b] / tau)) / (T * B)
    term *= tau**2
    balanced = mean_over(lambda z, y: ce(z + np.log(N), y), z)
    made = method("dive", temperature=tau, power=p, alpha=alpha, bsce=bsce, target=target)
    want = (1 - alpha) * balanced + alpha * term if bsce else term
    assert loss_of(made, z, teacher_logits=(teacher,)) == pytest.approx(want, rel=1e-11)


def test_no_gradient_reaches_a_target() -> None:
    teacher, student = logits(1)[0].requires_grad_(), logits().requires_grad_()
    distillation.divergence(teacher.log_softmax(-1), student).backward()
    assert teacher.grad is None and student.grad is not None


def test_the_rule_of_thumb() -> None:
    """A teacher whose tail overtakes its head at temperature 4: with power ½ the student's is 2, and that is proposed."""
    counts = torch.tensor([500, 300, 50, 10, 5])
    tail = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], dtype=torch.float64) / 4
    distribution = torch.ones(2, 10, 5, dtype=torch.float64)
    distribution[0, :, 3:] = tail[:, None]
    distribution[1, :, 3:] = 2 * tail[:, None]
    assert propose(distribution, counts, 0.5) == (2.0, 0.5)
    distribution[..., 3:] = 0.1
    distribution[0, 6, 3:] = 0.9  # nowhere a crossing: the flattest
    assert propose(distribution, counts, 0.5) == (7.0, 1.0)


@pytest.mark.parametrize("target", ["teacher", "label_factored"])
def test_virtual_examples(target: str) -> None:
    """Sums over images of what DiVE's student would be taught, image by image."""
    tau, p, alpha = 2.0, 0.5, 0.3
    made = method("virtual_examples", temperature=tau, power=p, target=target, alpha=alpha, rule_power=0.25)
    z = logits(1, k=2).flatten(1, 2)  # [2, N, C]
    labels = torch.arange(z.shape[1]) % C
    made.teachers = [teacher := SimpleNamespace(network=None)]  # type: ignore[list-item]
    halves = iter([z[:, :5], z[:, 5:]])
    teacher.method = SimpleNamespace(
        forward=lambda network, inputs: Outputs(next(halves), torch.zeros(1)), predict=lambda o: Prediction(o.logits)
    )
    made.fit(torch.nn.Identity(), iter([Images(torch.zeros(1), labels[:5]), Images(torch.zeros(1), labels[5:])]), None)  # type: ignore[arg-type]
    want, rule = np.zeros(C), np.zeros(C)
    for i, label in enumerate(labels.tolist()):
        mean = z.numpy().mean(0)[i]
        soft = softmax(mean / tau)
        if target == "label_factored":
            soft = (1 - alpha) * np.eye(C)[label] + alpha * soft
        want += soft**p / np.sum(soft**p)
        rule += softmax(mean * 0.25 / 7)
    assert made.distribution.tolist() == pytest.approx(want, rel=1e-11)
    assert made.grid[1, 6].tolist() == pytest.approx(rule, rel=1e-11)


def test_lfme() -> None:
    tree = {
        "training": {"precision": "fp64", "epochs": 11},
        "method": {"name": "lfme", "groups": ["medium", "few"], "temperature": 2.0},
        "model": {"experts": 1},
        "augmentation": {"copies": T},
    }
    made = method_class("lfme")(TrialConfig.model_validate(tree), torch.tensor([40, 25, 12, 6, 1])).double()
    made.easy = torch.tensor([0.2, 0.4, 0.6, 1.0], dtype=torch.float64)
    made.weight = torch.tensor([0.5, 0.9], dtype=torch.float64)
    z = logits(k=1)
    experts = (torch.randn(1, T, B, 2).double(), torch.randn(1, T, B, 3).double())
    epoch = 3
    v = np.array([0.2, 0.4, 0.6, 1.0])
    v = v + (1 - v) * epoch / 10
    a, want = z.numpy()[0], 0.0
    for t in range(T):
        for b in range(B):
            want += v[b] * ce(a[t, b], LABELS[b]) / (T * B)
            for w, expert, group in ((0.5, experts[0], [0, 1]), (0.9, experts[1], [2, 3, 4])):
                target = log_softmax(expert.numpy()[0, t, b] / 2.0)
                want += w * kl(target, log_softmax(a[t, b][group] / 2.0)) / (T * B)
    assert loss_of(made, z, epoch=epoch, teacher_logits=experts) == pytest.approx(want, rel=1e-12)
    # The student's pace, from what was counted in the epoch.
    made.seen = torch.tensor([[1.0, 10.0, 20.0], [8.0, 8.0, 9.0]], dtype=torch.float64)
    made.end_epoch(3)
    assert made.weight.tolist() == pytest.approx([1.0, 0.0])  # a tenth of the expert's accuracy; all of it
    made.seen = torch.tensor([[5.0, 10.0, 20.0], [3.0, 10.0, 20.0]], dtype=torch.float64)
    made.end_epoch(4)
    assert made.weight.tolist() == pytest.approx([0.5 / 0.7, 1.0])


def test_easy_images_are_the_confident_ones_of_their_class() -> None:
    counts, groups = torch.tensor([40, 4]), [torch.tensor([0]), torch.tensor([1])]
    confidence = torch.tensor([0.1, 0.6, 0.3, 0.9, 0.9]).double()
    got = easiness(confidence, torch.tensor([0, 0, 0, 1, 1]), counts, groups)
    t = 4 / 40
    assert got.tolist() == pytest.approx([t, 1.0, t + (1 - t) * 0.4, 1.0, 1.0])


# -- second stages -------------------------------------------------------------------------------------------------------


def test_post_hoc_adjustment() -> None:
    z = torch.randn(2, 3, C, dtype=torch.float64)
    made = method("post_hoc_adjustment", tau=0.7)
    got = made.predict(Outputs(z, torch.empty(0))).logits
    np.testing.assert_allclose(got.numpy(), z.numpy() - 0.7 * np.log(N / N.sum()), rtol=1e-12)


def test_disalign() -> None:
    from trainables.methods.disalign.method import CalibratedClassifier

    inner = torch.nn.Linear(6, C)
    head = CalibratedClassifier(inner, 6, C).double()
    with torch.no_grad():
        head.alpha.uniform_()
        head.beta.uniform_()
    f = torch.randn(4, 6).double()
    z = f.numpy() @ inner.weight.detach().numpy().T + inner.bias.detach().numpy()
    sigma = expit(f.numpy() @ head.confidence.weight.detach().numpy().T + head.confidence.bias.detach().numpy())
    want = sigma * (head.alpha.detach().numpy() * z + head.beta.detach().numpy()) + (1 - sigma) * z
    np.testing.assert_allclose(head(f).detach().numpy(), want, rtol=1e-10)
    w = (1 / N) ** 1.2
    w = w * C / w.sum()
    want_loss = mean_over(lambda z, y: w[y] * ce(z, y), logits())
    assert loss_of(method("disalign", rho=1.2), logits()) == pytest.approx(want_loss, rel=1e-12)
