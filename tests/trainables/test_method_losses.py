"""Every method's loss against an independent float64 evaluation of its definition, with loops over samples and classes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, softmax

from tests.trainables.helpers import make_batch
from trainables.config import TrialConfig
from trainables.losses import contrastive, distillation, diversity, weights
from trainables.methods import method_class
from trainables.methods.lfme.method import easiness
from trainables.methods.virtual_examples.method import propose
from trainables.models.network import Outputs

K, T, B, C = 3, 2, 4, 5
COUNTS = [40, 25, 12, 6, 1]
N = np.array(COUNTS, float)
LABELS = [0, 4, 2, 4]


def logits(seed: int = 0, k: int = K, t: int = T) -> torch.Tensor:
    return 3 * torch.randn(k, t, B, C, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def method(
    name: str, over: dict[str, Any] | None = None, epochs: int = 10, k: int = K, t: int = T, **options: Any
) -> Any:
    tree = {
        "model": {"experts": k, **(over or {})},
        "augmentation": {"copies": t},
        "training": {"precision": "fp64", "epochs": epochs},
        "method": {"name": name, **options},
    }
    return method_class(name)(TrialConfig.model_validate(tree), torch.tensor(COUNTS)).double()


def loss_of(made: Any, z: torch.Tensor, epoch: int = 0, **fields: Any) -> float:
    return float(made.losses(replace(make_batch(z, LABELS, epoch=epoch), **fields))["loss"])


def mean_over(sample: Any, z: torch.Tensor, labels: list[int] = LABELS) -> float:
    """Sum over experts of the mean over copies and images of ``sample(z, y)``."""
    a = z.numpy()
    return sum(
        np.mean([sample(a[k, t, b], labels[b]) for t in range(a.shape[1]) for b in range(a.shape[2])])
        for k in range(a.shape[0])
    )


def ce(z: np.ndarray, y: int) -> float:
    return -float(log_softmax(z)[y])


def effective(beta: float) -> np.ndarray:
    w = np.array([(1 - beta) / (1 - beta**n) for n in N])
    return w * C / w.sum()


def kl(a: np.ndarray, b: np.ndarray) -> float:
    """Of two log-probability vectors."""
    return float(np.sum(np.exp(a) * (a - b)))


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


# -- several experts -----------------------------------------------------------------------------------------------------


def test_dml() -> None:
    z = logits()
    log_p = log_softmax(z.numpy(), axis=-1)
    pairs = np.mean(
        [
            sum(kl(log_p[q, t, b], log_p[k, t, b]) for k in range(K) for q in range(K) if q != k)
            for t in range(T)
            for b in range(B)
        ]
    )
    want = mean_over(ce, z) + 0.7 * pairs / (K - 1)
    assert loss_of(method("dml", weight=0.7), z) == pytest.approx(want, rel=1e-12)
    # No gradient through the first argument: that of the loss is that with constant teachers.
    z = z.requires_grad_()
    (got,) = torch.autograd.grad(method("dml").losses(make_batch(z, LABELS))["loss"], z)
    constant = z.detach().log_softmax(-1)
    terms = torch.nn.functional.cross_entropy(
        z.permute(0, 1, 3, 2).flatten(0, 1), torch.tensor(LABELS).expand(K * T, B), reduction="sum"
    ) / (T * B)
    for k in range(K):
        for q in range(K):
            if q != k:
                own = z[k].log_softmax(-1)
                terms = terms + (constant[q].exp() * (constant[q] - own)).sum() / (T * B) / (K - 1)
    (want_gradient,) = torch.autograd.grad(terms, z)
    torch.testing.assert_close(got, want_gradient)


def test_independent_experts_with_and_without_diversity() -> None:
    z = logits()
    shifted = mean_over(lambda z, y: ce(z + np.log(N), y), z)
    assert loss_of(method("independent_experts"), z) == pytest.approx(shifted, rel=1e-12)
    joint = mean_over(lambda z, y: ce(z + np.log(N), y), z.mean(0, keepdim=True))
    assert loss_of(method("independent_experts", diversity=False), z) == pytest.approx(joint, rel=1e-12)


def test_sade() -> None:
    z = logits()
    prior = N / N.sum()
    inverse = prior[::-1]  # counts fall with the label: the reversed rank is the reversed list
    shift = [np.zeros(C), np.log(prior), np.log(prior) - 1.5 * np.log(inverse)]
    want = sum(mean_over(lambda z, y, s=s: ce(z + s, y), z[k : k + 1]) for k, s in enumerate(shift))
    assert loss_of(method("sade", inverse=1.5), z) == pytest.approx(want, rel=1e-12)


def test_balpoe() -> None:
    z, tau = logits(), (0.0, 1.0, 2.0)
    want = np.mean([mean_over(lambda z, y, s=s: ce(z + s * np.log(N), y), z[k : k + 1]) for k, s in enumerate(tau)])
    assert loss_of(method("balpoe", tau=tau), z) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("epoch", [0, 9])
def test_ride_in_both_formulations(epoch: int) -> None:
    z, lam, scale = logits(), 0.45, 30.0
    m = N**-0.25 * 0.5 / np.max(N**-0.25) * scale
    w = effective(0.9999) if epoch == 9 else np.ones(C)
    own = mean_over(lambda z, y: w[y] * ce(z - m[y] * np.eye(C)[y], y), z) / np.mean([w[y] for y in LABELS])
    raw = 0.05 * C * N / N.sum() + 0.95
    tau = raw / raw.max() if epoch == 9 else np.ones(C)
    a, rows = z.numpy(), [(t, b) for t in range(T) for b in range(B)]
    log_p = log_softmax(a / tau, axis=-1)
    pairs = np.mean(
        [sum(kl(log_p[i, t, b], log_p[j, t, b]) for i in range(K) for j in range(K) if i != j) for t, b in rows]
    ) / (K - 1)
    mean = log_softmax(a.mean(0) / tau, axis=-1)
    from_mean = np.mean([sum(kl(mean[t, b], log_p[k, t, b]) for k in range(K)) for t, b in rows]) * tau.mean() ** 2
    over = {"classifier": "cosine", "cosine_scale": scale}
    for formulation, apart in (("paper", pairs), ("official", from_mean)):
        made = method("ride", over, diversity=lam, formulation=formulation)
        assert loss_of(made, z, epoch=epoch) == pytest.approx(own - lam * apart, rel=1e-10)
    assert torch.allclose(diversity.class_temperature(torch.from_numpy(N)), torch.from_numpy(raw / raw.max()))


def test_ride_with_bsce_and_distillation() -> None:
    z, teacher = logits(), logits(1, k=2)
    made = method("ride", loss="bsce", diversity=0.0)
    assert loss_of(made, z, epoch=9) == pytest.approx(mean_over(lambda z, y: ce(z + np.log(N), y), z), rel=1e-12)
    made = method("ride_distillation", loss="bsce", diversity=0.0, weight=0.8, distillation_temperature=1.5)
    target = log_softmax(teacher.numpy().mean(0) / 1.5, axis=-1)
    log_p = log_softmax(z.numpy() / 1.5, axis=-1)
    term = sum(np.mean([kl(target[t, b], log_p[k, t, b]) for t in range(T) for b in range(B)]) for k in range(K))
    want = mean_over(lambda z, y: ce(z + np.log(N), y), z) + 0.8 * 1.5**2 * term
    assert loss_of(made, z, teacher_logits=(teacher,)) == pytest.approx(want, rel=1e-12)


def test_ride_routing() -> None:
    """Targets, loss and the experts used, row by row."""
    made = method("ride_routing", units=3, top=4, positive_weight=7.0)
    from trainables.models.network import build

    network = build(TrialConfig.model_validate({"model": {"backbone": "resnet8", "experts": 3}}).model, C, 0)
    torch.manual_seed(0)
    made.prepare(network)
    made.double()
    n = 40
    outputs = Outputs(torch.randn(K, n, C).double(), torch.randn(K, n, 64).double())
    labels = torch.randint(0, C, (n,))
    scores, prefix = made.scores(outputs)
    z, f = outputs.logits.numpy(), outputs.features.numpy()
    total, count = 0.0, 0
    used = []
    for b in range(n):
        asked = 1
        going = True
        for i in range(K - 1):
            mean = z[: i + 1, b].mean(0)
            view = made.views[i]
            seen = np.maximum(
                view.weight.detach().numpy() @ (f[i, b] / np.linalg.norm(f[i, b])) + view.bias.detach().numpy(), 0
            )
            x = np.concatenate([np.sort(mean)[::-1][:4], seen])
            score = float(made.head.weight.detach().numpy()[0] @ x + made.head.bias.detach().numpy()[0])
            assert float(scores[i, b].detach()) == pytest.approx(score, rel=1e-9, abs=1e-12)
            wrong = mean.argmax() != int(labels[b])
            later = any(z[: j + 1, b].mean(0).argmax() == int(labels[b]) for j in range(i + 1, K))
            p = expit(score)
            total += -7.0 * math.log(p) if wrong and later else -math.log(1 - p)
            count += 1
            going = going and score > 0
            asked += going
        used.append(asked)
    assert float(made.routing_loss(scores, prefix, labels).detach()) == pytest.approx(total / count, rel=1e-9)
    prediction = made.predict(outputs)
    assert prediction.per_image["experts_used"].tolist() == used
    for b in range(n):
        np.testing.assert_allclose(prediction.logits[0, b].numpy(), z[: used[b], b].mean(0), rtol=1e-9)


@pytest.mark.parametrize("formulation", ["paper", "official"])
def test_bbn(formulation: str) -> None:
    tree = {
        "model": {"backbone": "resnet8", "experts": 2, "shared": "all_but_last_block"},
        "training": {"precision": "fp64", "epochs": 10},
        "method": {"name": "bbn", "formulation": formulation},
    }
    config = TrialConfig.model_validate(tree)
    from trainables.trained import assemble

    network, made = assemble(config, torch.tensor(COUNTS))
    made.double()
    d = network.features
    uniform, reversed_ = torch.randn(T, B, d).double(), torch.randn(T, B, d).double()
    factor = 2.0 if formulation == "official" else 1.0
    w = made.head.weight.detach().numpy()
    bias = made.head.bias.detach().numpy() if formulation == "official" else np.zeros(C)
    other = [1, 1, 3, 0]
    for epoch in (0, 5, 9):
        alpha = 1 - (epoch / 10) ** 2
        assert made.alpha(epoch) == alpha
        z = made.mixed(uniform, reversed_, alpha)
        want = 0.0
        for t in range(T):
            for b in range(B):
                f = np.concatenate(
                    [factor * alpha * uniform[t, b].numpy(), factor * (1 - alpha) * reversed_[t, b].numpy()]
                )
                row = w @ f + bias
                want += (alpha * ce(row, LABELS[b]) + (1 - alpha) * ce(row, other[b])) / (T * B)
        got = made.both_losses(z, torch.tensor(LABELS), torch.tensor(other), epoch)["loss"]
        assert float(got) == pytest.approx(want, rel=1e-10)
    both = torch.stack([uniform[0], reversed_[0]])
    at_test = made.predict(Outputs(torch.empty(0), both)).logits[0].detach().numpy()
    f = np.concatenate([both[0].numpy(), both[1].numpy()], -1) * (1.0 if formulation == "official" else 0.5)
    np.testing.assert_allclose(at_test, f @ w.T + bias, rtol=1e-9)


def test_ncl_supervised_terms() -> None:
    """Paper: BIL and InterCL with their partial parts, own hard sets; official: the released class, transcribed by its rule."""
    z = logits(t=1)
    a = z.numpy()[:, 0]  # [K, B, C]
    hard = 2  # floor(0.3·5 + 0.5)
    bil = inter = 0.0
    for b, y in enumerate(LABELS):
        psi = []
        for k in range(K):
            s = a[k, b] + np.log(N)
            others = [c for c in np.argsort(-a[k, b]) if c != y][:hard]
            psi.append([y, *others])
            bil += (ce(s, y) - float(log_softmax(s[psi[k]])[0])) / B
        for i in range(K):
            for j in range(K):
                if i != j:
                    si, sj = a[i, b] + np.log(N), a[j, b] + np.log(N)
                    full = kl(log_softmax(si), log_softmax(sj))
                    part = kl(log_softmax(si[psi[i]]), log_softmax(sj[psi[i]]))
                    inter += 2 / (K * (K - 1)) * (full + part) / B
    made = method("ncl", k=K, t=2, beta=0.3)
    terms = made.supervised(z, torch.tensor(LABELS))
    assert float(terms["bil"]) == pytest.approx(bil, rel=1e-12)
    assert float(terms["inter"]) == pytest.approx(inter, rel=1e-12)

    bil = inter = 0.0
    for b, y in enumerate(LABELS):
        order = [y, *[c for c in np.argsort(-a[0, b]) if c != y]][
            :hard
        ]  # the target is counted, expert 0's set for all
        mask = np.isin(np.arange(C), order).astype(float)
        for k in range(K):
            s = a[k, b] + np.log(N)
            bil += (ce(s, y) + ce(s * mask, y)) / B
        for i in range(K):
            for j in range(K):
                if i != j:
                    for m in (np.ones(C), mask):
                        pi, pj = softmax((a[i, b] + np.log(N)) * m), softmax((a[j, b] + np.log(N)) * m)
                        inter += 1 / (K - 1) * np.sum(pj * (np.log(pj) - np.log(pi + 1e-9))) / B
    made = method("ncl", k=K, t=2, beta=0.3, formulation="official")
    terms = made.supervised(z, torch.tensor(LABELS))
    assert float(terms["bil"]) == pytest.approx(bil, rel=1e-12)
    assert float(terms["inter"]) == pytest.approx(inter, rel=1e-10)


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
