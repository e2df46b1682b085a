"""Losses of methods with several experts against an independent float64 evaluation, with loops over samples and classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, softmax

from tests.trainables.helpers import make_batch
from tests.trainables.loss_helpers import (
    COUNTS,
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
from trainables.losses import diversity
from trainables.models.network import Outputs

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
        assert got.item() == pytest.approx(want, rel=1e-10)
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
