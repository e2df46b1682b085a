"""The losses against a brute-force float64 evaluation of their definitions, sample by sample and pair by pair."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainables.helpers import make_batch, make_method

# -- brute force: Python loops over the formulas of the paper --------------------------------------------------------------


def softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    e = [math.exp(s - top) for s in scores]
    return [x / sum(e) for x in e]


def log_softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    log_sum = math.log(sum(math.exp(s - top) for s in scores)) + top
    return [s - log_sum for s in scores]


def kl(a: list[float], b: list[float]) -> float:
    """KL between the softmax of two score lists."""
    return sum(p * (lp - lq) for p, lp, lq in zip(softmax(a), log_softmax(a), log_softmax(b), strict=True))


def hard_negatives(z: list[float], targets: set[int], beta: float) -> list[int]:
    c = len(z)
    want = min(max(math.floor(beta * c + 0.5), 1), c - 1)
    return sorted((j for j in range(c) if j not in targets), key=lambda j: -z[j])[:want]


def paper_loss(z: np.ndarray, labels: list[int], counts: list[int], o: dict) -> dict[str, float]:
    """z [K, T, B, C]; every term of eq. 3-13 by its definition."""
    K, T, B, C = z.shape
    mixed = o.get("partner")
    coefficient = o.get("coefficient") or [1.0] * B
    second = mixed or labels

    def scores(k: int, t: int, b: int, balanced: bool = True) -> list[float]:
        return [float(z[k, t, b, j]) + (math.log(counts[j]) if balanced else 0.0) for j in range(C)]

    def psi(k: int, t: int, b: int) -> list[int]:
        if o["hard_set"] == "shared":
            k = 0
        targets = {labels[b], second[b]}
        return sorted(targets) + hard_negatives([float(x) for x in z[k, t, b]], targets, o["beta"])

    def restricted(s: list[float], members: list[int]) -> list[float]:
        return [s[j] for j in members]

    out = dict.fromkeys(("bil", "bil_partial", "inter", "inter_partial", "intra", "intra_partial"), 0.0)
    d = o["balanced_distillation"]
    for b in range(B):
        for t in range(T):
            for k in range(K):
                lp = log_softmax(scores(k, t, b))
                lam = coefficient[b]
                out["bil"] -= (lam * lp[labels[b]] + (1 - lam) * lp[second[b]]) / (T * B)
                members = psi(k, t, b)
                lp = dict(zip(members, log_softmax(restricted(scores(k, t, b), members)), strict=True))
                out["bil_partial"] -= (lam * lp[labels[b]] + (1 - lam) * lp[second[b]]) / (T * B)
                for q in range(K):
                    if q != k:
                        factor = 2 / (K * (K - 1)) / (T * B)
                        out["inter"] += factor * kl(scores(k, t, b, d), scores(q, t, b, d))
                        m = psi(k, t, b)
                        out["inter_partial"] += factor * kl(
                            restricted(scores(k, t, b, d), m), restricted(scores(q, t, b, d), m)
                        )
                for u in range(T):
                    if u != t:
                        factor = 2 / (T * (T - 1)) / B
                        out["intra"] += factor * kl(scores(k, t, b, d), scores(k, u, b, d))
                        m = psi(k, 0 if o["hard_set"] == "shared" else t, b)
                        out["intra_partial"] += factor * kl(
                            restricted(scores(k, t, b, d), m), restricted(scores(k, u, b, d), m)
                        )
    return out


def official_loss(z: np.ndarray, labels: list[int], counts: list[int], beta: float) -> dict[str, float]:
    """Section 3 of the released code's behaviour, point by point."""
    K, T, B, C = z.shape
    s = z + np.log(np.asarray(counts, float))
    total = min(max(math.floor(beta * C + 0.5), 1), C)
    mask = np.zeros((T, B, C))
    for t in range(T):
        for b in range(B):
            others = sorted((j for j in range(C) if j != labels[b]), key=lambda j: -z[0, t, b, j])
            mask[t, b, [labels[b], *others[: total - 1]]] = 1

    def term(target: np.ndarray, other: np.ndarray, m: np.ndarray) -> float:
        p, lp, q = softmax(list(target)), log_softmax(list(target)), softmax(list(other))
        return sum(m[j] * p[j] * (lp[j] - math.log(q[j] + 1e-9)) for j in range(C))

    out = dict.fromkeys(("bil", "bil_partial", "inter", "inter_partial", "intra", "intra_partial"), 0.0)
    full = np.ones(C)
    for b in range(B):
        for t in range(T):
            for k in range(K):
                out["bil"] -= log_softmax(list(s[k, t, b]))[labels[b]] / (T * B)
                out["bil_partial"] -= log_softmax(list(s[k, t, b] * mask[t, b]))[labels[b]] / (T * B)
                for q in range(K):
                    if q != k:
                        f = 1 / (K * (K - 1) / 2) / (T * B)
                        out["inter"] += f * term(s[k, t, b], s[q, t, b], full)
                        out["inter_partial"] += f * term(s[k, t, b], s[q, t, b], mask[t, b])
                for u in range(T):
                    if u != t:
                        f = 1 / (T * (T - 1) / 2) / B
                        out["intra"] += f * term(s[k, t, b], s[k, u, b], full)
                        out["intra_partial"] += f * term(s[k, t, b], s[k, u, b], mask[0, b])
    return out


# -- random shapes ---------------------------------------------------------------------------------------------------------


def random_case(seed: int) -> tuple[Tensor, list[int], list[int], float]:
    r = random.Random(seed)
    k, t, b, c = r.randint(1, 4), r.randint(1, 4), r.randint(1, 5), r.choice([2, 3, 5, 10, 17, 50])
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(k, t, b, c, generator=g, dtype=torch.float64) * r.choice([0.1, 1.0, 5.0])
    labels = [r.randrange(c) for _ in range(b)]
    counts = [r.choice([1, 1, 2, 7, 50, 500]) for _ in range(c)]
    beta = r.choice([0.01, 0.1, 0.3, 0.5, 0.77, 1.0])
    return z, labels, counts, beta


@pytest.mark.parametrize("seed", range(40))
def test_paper_formulation_equals_its_definition(seed: int) -> None:
    z, labels, counts, beta = random_case(seed)
    r = random.Random(seed + 1000)
    options = {
        "beta": beta,
        "hard_set": r.choice(["own", "shared"]),
        "balanced_distillation": r.choice([True, False]),
        "detach_teacher": r.choice([True, False]),
    }
    lambdas = {"lambda_intra": r.random(), "lambda_inter": 2 * r.random()}
    mixed = r.random() < 0.4
    partner = [r.randrange(len(counts)) for _ in labels] if mixed else None
    coefficient = [r.random() for _ in labels] if mixed else None
    method = make_method(z, counts, **options, **lambdas)
    got = method.losses(make_batch(z, labels, partner, coefficient))
    want = paper_loss(z.numpy(), labels, counts, {**options, "partner": partner, "coefficient": coefficient})
    for name, value in want.items():
        if name in got:
            assert got[name].item() == pytest.approx(value, rel=1e-9, abs=1e-11), name
        else:
            assert value == 0.0, name
    total = want["bil"] + want["bil_partial"]
    total += lambdas["lambda_intra"] * (want["intra"] + want["intra_partial"])
    total += lambdas["lambda_inter"] * (want["inter"] + want["inter_partial"])
    assert got["loss"].item() == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("seed", range(30))
def test_official_formulation_equals_its_definition(seed: int) -> None:
    z, labels, counts, beta = random_case(seed)
    got = make_method(z, counts, beta=beta, formulation="official").losses(make_batch(z, labels))
    want = official_loss(z.numpy(), labels, counts, beta)
    for name, value in want.items():
        assert (got[name].item() if name in got else 0.0) == pytest.approx(value, rel=1e-9, abs=1e-11), name


@pytest.mark.parametrize("formulation", ["paper", "official"])
@pytest.mark.parametrize("hard_set", ["own", "shared"])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_gradients(formulation: str, hard_set: str, beta: float) -> None:
    if formulation == "official" and hard_set == "shared":
        pytest.skip("official fixes the hard set")
    torch.manual_seed(0)
    z = torch.randn(3, 2, 2, 6, dtype=torch.float64, requires_grad=True)
    options = {"hard_set": hard_set} if formulation == "paper" else {"formulation": formulation}
    method = make_method(z, [100, 40, 10, 5, 2, 1], beta=beta, **options)
    assert torch.autograd.gradcheck(lambda x: method.losses(make_batch(x, [1, 4]))["loss"], (z,))


def test_gradients_with_mixup() -> None:
    torch.manual_seed(1)
    z = torch.randn(2, 2, 3, 5, dtype=torch.float64, requires_grad=True)
    method = make_method(z, [9, 5, 3, 2, 1], beta=0.5)
    batch = lambda x: make_batch(x, [0, 3, 2], [1, 3, 4], [0.3, 0.9, 0.5])  # noqa: E731
    assert torch.autograd.gradcheck(lambda x: method.losses(batch(x))["loss"], (z,))


@pytest.mark.parametrize("hard_set", ["own", "shared"])
def test_detached_teacher_takes_no_gradient(hard_set: str) -> None:
    """Against a double loop in which the first argument of every KL is detached by hand."""
    torch.manual_seed(2)
    z = torch.randn(3, 2, 2, 6, dtype=torch.float64, requires_grad=True)
    counts = [50, 20, 9, 4, 2, 1]
    labels = [5, 0]
    method = make_method(
        z, counts, beta=0.4, detach_teacher=True, lambda_intra=0.7, lambda_inter=1.3, hard_set=hard_set
    )
    (got,) = torch.autograd.grad(method.losses(make_batch(z, labels))["loss"], z)

    s = z + torch.tensor(counts, dtype=torch.float64).log()
    K, T, B, _ = z.shape

    def members(k: int, t: int, b: int) -> list[int]:
        return [labels[b], *hard_negatives(z[0 if hard_set == "shared" else k, t, b].tolist(), {labels[b]}, 0.4)]

    def kl_detached(a: Tensor, b: Tensor) -> Tensor:
        p = a.detach().log_softmax(-1)
        return (p.exp() * (p - b.log_softmax(-1))).sum()

    loss = z.new_zeros(())
    for b in range(B):
        for t in range(T):
            for k in range(K):
                loss = loss - s[k, t, b].log_softmax(-1)[labels[b]] / (T * B)
                loss = loss - s[k, t, b][members(k, t, b)].log_softmax(-1)[0] / (T * B)
                for q in set(range(K)) - {k}:
                    m = members(k, t, b)
                    pair = kl_detached(s[k, t, b], s[q, t, b]) + kl_detached(s[k, t, b][m], s[q, t, b][m])
                    loss = loss + 1.3 * pair * 2 / (K * (K - 1)) / (T * B)
                for u in set(range(T)) - {t}:
                    m = members(k, 0 if hard_set == "shared" else t, b)
                    pair = kl_detached(s[k, t, b], s[k, u, b]) + kl_detached(s[k, t, b][m], s[k, u, b][m])
                    loss = loss + 0.7 * pair * 2 / (T * (T - 1)) / B
    (want,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


# -- ends of ranges --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("formulation", ["paper", "official"])
@pytest.mark.parametrize("beta", [0.0, 1e-6, 0.3, 1.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("scale", [1e4, 1.0, 0.0])
def test_finite_at_the_ends(formulation: str, beta: float, classes: int, scale: float) -> None:
    g = torch.Generator().manual_seed(3)
    z = ((torch.rand(2, 3, 4, classes, generator=g) * 2 - 1).sign() * scale).requires_grad_()
    counts = [1000] + [1] * (classes - 1)
    for extra in ({"weights": "learnable"}, {"hard_select": "random"} if formulation == "paper" else {}):
        method = make_method(z, counts, precision="fp32", beta=beta, formulation=formulation, **extra)
        losses = method.losses(make_batch(z, [j % classes for j in range(4)]))
        assert all(torch.isfinite(value) for value in losses.values()), losses
        gradients = torch.autograd.grad(losses["loss"], [z, *method.parameters()], allow_unused=True)
        assert all(torch.isfinite(g).all() for g in gradients if g is not None)


def test_mixup_of_two_classes_leaves_no_negatives() -> None:
    z = torch.randn(2, 2, 3, 2, requires_grad=True)
    losses = make_method(z, [5, 1], precision="fp32", beta=1.0).losses(
        make_batch(z, [0, 1, 0], [1, 1, 0], [0.2, 0.5, 1.0])
    )
    assert torch.isfinite(losses["loss"])
    assert torch.isfinite(torch.autograd.grad(losses["loss"], z)[0]).all()


def test_beta_one_makes_the_partial_part_equal_the_global_one() -> None:
    z = torch.randn(3, 2, 4, 7, dtype=torch.float64)
    got = make_method(z, [9, 8, 7, 6, 5, 4, 3], beta=1.0).losses(make_batch(z, [0, 1, 2, 6]))
    for name in ("bil", "inter", "intra"):
        assert got[f"{name}_partial"].item() == pytest.approx(got[name].item(), rel=1e-12)


def test_beta_zero_and_nfl_off_are_the_same() -> None:
    z = torch.randn(2, 2, 4, 7, dtype=torch.float64)
    batch = make_batch(z, [0, 1, 2, 6])
    a = make_method(z, [1] * 7, beta=0.0).losses(batch)
    b = make_method(z, [1] * 7, nfl=False).losses(batch)
    assert set(a) == set(b) == {"loss", "bil", "inter", "intra"}
    assert a["loss"].item() == b["loss"].item()


def test_one_expert_and_one_copy_leave_only_bil() -> None:
    z = torch.randn(1, 1, 4, 5, dtype=torch.float64)
    got = make_method(z, [5, 4, 3, 2, 1], beta=0.4, weights="learnable")
    assert list(got.parameters()) == []
    assert set(got.losses(make_batch(z, [0, 1, 2, 3]))) == {"loss", "bil", "bil_partial"}


def test_learnable_weights_are_a_softmax_over_present_terms() -> None:
    z = torch.randn(2, 2, 4, 5, dtype=torch.float64)
    method = make_method(z, [5, 4, 3, 2, 1], weights="learnable")
    assert method.state_metrics() == {"lambda_intra": 0.5, "lambda_inter": 0.5}
    with torch.no_grad():
        method.w.copy_(torch.tensor([1.0, 0.0]))
    assert method.state_metrics()["lambda_intra"] == pytest.approx(1 / (1 + math.exp(-1)))
    only = make_method(z[:1], [5, 4, 3, 2, 1], weights="learnable")
    assert only.state_metrics() == {"lambda_intra": 1.0}
    losses = method.losses(make_batch(z, [0, 1, 2, 3]))
    (gradient,) = torch.autograd.grad(losses["loss"], [method.w])
    lam = torch.softmax(method.w, 0)
    terms = torch.stack([losses["intra"] + losses["intra_partial"], losses["inter"] + losses["inter_partial"]])
    torch.testing.assert_close(gradient, lam * (terms - (lam * terms).sum()))


def test_random_hard_categories_are_drawn_afresh_and_never_the_target() -> None:
    from trainables.methods.targets import targets_and_weight

    z = torch.randn(2, 2, 50, 10)
    method = make_method(z, [1] * 10, precision="fp32", beta=0.3, hard_select="random")
    labels = [b % 10 for b in range(50)]
    sets = []
    for epoch in (0, 1):
        batch = make_batch(z, labels, epoch=epoch)
        psi, _, _ = method._hard_sets(batch, targets_and_weight(batch)[0])
        assert psi.index.shape == (2, 2, 50, 4)
        assert (psi.index[..., 0] == torch.tensor(labels)).all()
        assert (psi.index[..., 1:] != torch.tensor(labels)[:, None]).all()
        assert (psi.index.sort(-1).values.diff(dim=-1) > 0).all()
        sets.append(psi.index)
    assert (sets[0] != sets[1]).any()
    assert (sets[0][0] != sets[0][1]).any()
    share = torch.bincount(sets[0][..., 1:].flatten(), minlength=10) / sets[0][..., 1:].numel()
    assert share.min() > 0.06 and share.max() < 0.14
