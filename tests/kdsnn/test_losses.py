"""Each loss against numpy float64 code written from the paper's equations, and its gradient."""

import numpy as np
import pytest
import torch

from kdsnn.train import losses

T, N, K = 4, 6, 5


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    student = torch.randn(T, N, K, generator=rng, dtype=torch.float64, requires_grad=True)
    teacher = 4 * torch.randn(N, K, generator=rng, dtype=torch.float64)
    return student, teacher, torch.randint(0, K, (N,), generator=rng)


def log_softmax(z: np.ndarray) -> np.ndarray:
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def reference_hard(student: np.ndarray, labels: np.ndarray, epsilon: float = 0.0) -> float:
    target = (1 - epsilon) * np.eye(K)[labels] + epsilon / K
    return float(-(target * log_softmax(student.sum(0) / T)).sum(1).mean())


def reference_soft(student: np.ndarray, teacher: np.ndarray, tau: float) -> float:
    target = np.exp(log_softmax(teacher / tau))
    return float(-(target * log_softmax(student.sum(0) / T / tau)).sum(1).mean())


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_hard(case, epsilon):
    student, _, labels = case
    expected = reference_hard(student.detach().numpy(), labels.numpy(), epsilon)
    assert losses.hard(student, labels, label_smoothing=epsilon).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_soft(case, tau):
    student, teacher, _ = case
    expected = reference_soft(student.detach().numpy(), teacher.numpy(), tau)
    assert losses.soft(student, teacher, temperature=tau).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("alpha", "tau", "epsilon"), [(0.9, 4.0, 0.0), (0.3, 2.0, 0.1), (0.0, 4.0, 0.0), (1.0, 1.0, 0.0)]
)
def test_response(case, alpha, tau, epsilon):
    student, teacher, labels = case
    z, t, y = student.detach().numpy(), teacher.numpy(), labels.numpy()
    expected = alpha * tau**2 * reference_soft(z, t, tau) + (1 - alpha) * reference_hard(z, y, epsilon)
    actual = losses.response(student, teacher, labels, alpha=alpha, temperature=tau, label_smoothing=epsilon)
    assert actual.item() == pytest.approx(expected, rel=1e-12)


def test_every_step_is_told_the_labels(case):
    student, teacher, labels = case
    z, y = student.detach().numpy(), labels.numpy()
    each = np.mean([reference_hard(np.stack([step] * T), y, 0.1) for step in z])
    told = {"label_smoothing": 0.1, "every_step": True}
    assert losses.hard(student, labels, **told).item() == pytest.approx(each, rel=1e-12)
    expected = 0.3 * 4 * reference_soft(z, teacher.numpy(), 2.0) + 0.7 * each
    actual = losses.response(student, teacher, labels, alpha=0.3, temperature=2.0, **told)
    assert actual.item() == pytest.approx(expected, rel=1e-12)
    actual = losses.feature(student, labels, [torch.zeros(1, 1, 1, 1)], [torch.zeros(1, 1, 1, 1)], weight=1.0, **told)
    assert actual.item() == pytest.approx(each, rel=1e-12)


def test_gradients(case):
    student, teacher, labels = case
    assert torch.autograd.gradcheck(lambda s: losses.response(s, teacher, labels, alpha=0.7, temperature=3.0), student)


def test_the_soft_term_pulls_as_kl_does(case):
    student, teacher, _ = case
    (ours,) = torch.autograd.grad(losses.soft(student, teacher, temperature=2.0), student)
    log_q = torch.log_softmax(student.mean(0) / 2, dim=-1)
    kl = torch.nn.functional.kl_div(log_q, torch.softmax(teacher / 2, dim=-1), reduction="batchmean")
    (theirs,) = torch.autograd.grad(kl, student)
    torch.testing.assert_close(ours, theirs)


def test_hot_logits_stay_finite():
    student = torch.ones(T, 2, K, requires_grad=True)
    loss = losses.response(student, torch.full((2, K), 1e4), torch.tensor([0, 1]), alpha=0.9, temperature=0.5)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * (np.log(p) - np.log(q))).sum())


def reference_temporal(z, teacher, labels, *, tau, a, b, epsilon=0.0) -> float:
    """Sample by sample and step by step, as the paper writes it."""
    total = 0.0
    for n in range(N):
        right = [z[t, n] for t in range(T) if z[t, n].argmax() == labels[n]]
        kept = np.mean(right, axis=0) if right else np.zeros(K)
        for t in range(T):
            target = (1 - epsilon) * np.eye(K)[labels[n]] + epsilon / K
            total -= (target * log_softmax(z[t, n][None])[0]).sum()
            q = np.exp(log_softmax(z[t, n][None] / tau)[0])
            for weight, guide in ((a, teacher[n]), (b, kept)):
                total += weight * tau**2 * kl(np.exp(log_softmax(guide[None] / tau)[0]), q)
    return total / (T * N)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_temporal(case, epsilon):
    student, teacher, labels = case
    labels[0] = student[:, 0].argmax(-1)[1]  # right at least once
    wrong = set(range(K)) - set(student[:, 1].argmax(-1).tolist())
    labels[1] = wrong.pop()  # never right
    expected = reference_temporal(
        student.detach().numpy(), teacher.numpy(), labels.numpy(), tau=3.0, a=0.2, b=0.5, epsilon=epsilon
    )
    actual = losses.temporal(
        student, teacher, labels, temperature=3.0, teacher_weight=0.2, self_weight=0.5, label_smoothing=epsilon
    )
    assert actual.item() == pytest.approx(expected, rel=1e-12)


def test_temporal_gradients(case):
    student, teacher, labels = case
    weights = {"temperature": 3.0, "teacher_weight": 0.2}
    # the mean of the correct steps is a constant for the gradient, which finite differences would move: without it
    assert torch.autograd.gradcheck(lambda s: losses.temporal(s, teacher, labels, self_weight=0.0, **weights), student)
    kept = losses.correct_mean(student, labels)
    assert not kept.requires_grad
    full = losses.temporal(student, teacher, labels, self_weight=0.5, **weights)
    with_constant = losses.temporal(student, teacher, labels, self_weight=0.0, **weights) + 0.5 * 9 * sum(
        torch.nn.functional.kl_div(torch.log_softmax(z / 3, -1), torch.softmax(kept / 3, -1), reduction="batchmean")
        for z in student
    ) / len(student)
    torch.testing.assert_close(full, with_constant)
    torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in (full, with_constant)))


def test_temporal_with_spikes_and_extreme_teachers():
    spikes = torch.zeros(T, 2, K, requires_grad=True)
    weights = {"temperature": 0.5, "teacher_weight": 0.2, "self_weight": 0.5}
    loss = losses.temporal(spikes, torch.tensor([[1e4, 0, 0, 0, 0], [0.0] * 5]), torch.tensor([0, 1]), **weights)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(spikes.grad).all()


def reference_selective(z, teacher, labels, *, tau, a, b, epsilon=0.0) -> float:
    """Sample by sample and step by step, from the equations of SeAl-KD."""
    total = 0.0
    for n in range(N):
        y = labels[n]
        p = [np.exp(log_softmax(z[t, n][None])[0]) for t in range(T)]
        sure = [1 + (q * np.log(q)).sum() / np.log(K) for q in p]
        for t in range(T):
            total -= (((1 - epsilon) * np.eye(K)[y] + epsilon / K) * np.log(p[t])).sum()
            student, guide, w = z[t, n].copy(), teacher[n].copy(), z[t, n].argmax()
            if w != y:
                student[w] = student[y]
                guide[[y, w]] = min(guide[y], guide[w])
            soft = [np.exp(log_softmax(v[None] / tau)[0]) for v in (guide, student, z[t, n])]
            total += a * tau**2 * kl(soft[0], soft[1])
            others = [s for s in range(T) if s != t]
            cosine = [z[t, n] @ z[s, n] / np.linalg.norm(z[t, n]) / np.linalg.norm(z[s, n]) for s in others]
            share = np.exp([sure[s] * c for s, c in zip(others, cosine, strict=True)])
            target = (share / share.sum()) @ z[others, n]
            total += b * tau**2 * kl(np.exp(log_softmax(target[None] / tau)[0]), soft[2])
    return total / (T * N)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_selective(case, epsilon):
    student, teacher, labels = case
    labels[0] = student[:, 0].argmax(-1)[1]  # right at least once
    expected = reference_selective(
        student.detach().numpy(), teacher.numpy(), labels.numpy(), tau=3.0, a=0.6, b=0.15, epsilon=epsilon
    )
    actual = losses.selective(
        student, teacher, labels, temperature=3.0, teacher_weight=0.6, self_weight=0.15, label_smoothing=epsilon
    )
    assert actual.item() == pytest.approx(expected, rel=1e-12)


def test_selective_gradients(case):
    student, teacher, labels = case
    weights = {"temperature": 3.0, "teacher_weight": 0.6}
    assert torch.autograd.gradcheck(lambda s: losses.selective(s, teacher, labels, self_weight=0.0, **weights), student)
    target = losses.other_steps(student)
    assert not target.requires_grad
    full = losses.selective(student, teacher, labels, self_weight=0.15, **weights)
    with_constant = losses.selective(student, teacher, labels, self_weight=0.0, **weights) + 0.15 * 9 * sum(
        torch.nn.functional.kl_div(torch.log_softmax(z / 3, -1), torch.softmax(goal / 3, -1), reduction="batchmean")
        for z, goal in zip(student, target, strict=True)
    ) / len(student)
    torch.testing.assert_close(full, with_constant)
    torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in (full, with_constant)))


@pytest.mark.parametrize("steps", [1, 4])
def test_selective_with_silence_and_extreme_teachers(steps):
    spikes = torch.zeros(steps, 2, K, requires_grad=True)
    weights = {"temperature": 0.5, "teacher_weight": 0.6, "self_weight": 0.15}
    loss = losses.selective(spikes, torch.tensor([[1e4, 0, 0, 0, 0], [0.0] * 5]), torch.tensor([0, 1]), **weights)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(spikes.grad).all()


@pytest.fixture
def stages() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Three pairs of features, (student, teacher)."""
    rng = torch.Generator().manual_seed(5)
    shapes = [(N, 2, 4, 4), (N, 3, 2, 2), (N, 4, 1, 1)]
    students, teachers = ([torch.randn(s, generator=rng, dtype=torch.float64) for s in shapes] for _ in range(2))
    return [s.requires_grad_() for s in students], teachers


def reference_partial(student: np.ndarray, teacher: np.ndarray) -> float:
    pairs = zip(student.ravel(), teacher.ravel(), strict=True)
    return sum(0.0 if s <= t <= 0 else (t - s) ** 2 for s, t in pairs) / len(student)


def test_feature(case, stages):
    output, _, labels = case
    students, teachers = stages
    distance = sum(
        weight * reference_partial(s.detach().numpy(), t.numpy())
        for weight, s, t in zip((0.25, 0.5, 1.0), students, teachers, strict=True)
    )
    assert losses.overhaul(students, teachers).item() == pytest.approx(distance, rel=1e-12)
    expected = reference_hard(output.detach().numpy(), labels.numpy()) + 1e-3 * distance
    assert losses.feature(output, labels, students, teachers, weight=1e-3).item() == pytest.approx(expected, rel=1e-12)


def test_feature_gradients(stages):
    students, teachers = stages
    assert torch.autograd.gradcheck(lambda *s: losses.overhaul(s, teachers), tuple(students))


def test_no_loss_teaches_the_teacher(case, stages):
    student, teacher, labels = case
    teacher = teacher.clone().requires_grad_()
    features = [t.clone().requires_grad_() for t in stages[1]]
    total = (
        losses.response(student, teacher, labels, alpha=0.5, temperature=2.0)
        + losses.temporal(student, teacher, labels, temperature=2.0, teacher_weight=0.2, self_weight=0.5)
        + losses.selective(student, teacher, labels, temperature=2.0, teacher_weight=0.6, self_weight=0.15)
        + losses.feature(student, labels, stages[0], features, weight=1.0)
    )
    total.backward()
    assert teacher.grad is None and all(f.grad is None for f in features)


LOSSES = {
    "hard": lambda z, t, y: losses.hard(z, y, label_smoothing=0.1),
    "every step": lambda z, t, y: losses.hard(z, y, label_smoothing=0.1, every_step=True),
    "response": lambda z, t, y: losses.response(z, t, y, alpha=0.3, temperature=2.0),
    "feature": lambda z, t, y: losses.feature(z, y, [z[0, :, :, None, None]], [t[:, :, None, None]], weight=0.1),
    "temporal": lambda z, t, y: losses.temporal(z, t, y, temperature=2.0, teacher_weight=0.2, self_weight=0.5),
    "selective": lambda z, t, y: losses.selective(z, t, y, temperature=2.0, teacher_weight=0.6, self_weight=0.1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_labels_of_mixed_samples(case, name):
    """A label of one class is that class; of two, the cross entropy is the mean weighted by their shares."""
    student, teacher, labels = case
    one = torch.nn.functional.one_hot(labels, K).double()
    whole = LOSSES[name](student, teacher, labels).item()
    assert LOSSES[name](student, teacher, one).item() == pytest.approx(whole, rel=1e-12)
    other = (labels + 1) % K
    mix = 0.7 * one + 0.3 * torch.nn.functional.one_hot(other, K).double()
    told = [
        losses.hard(student, y, every_step=name in ("every step", "temporal", "selective")) for y in (labels, other)
    ]
    smoothing = name in ("hard", "every step")
    share = (0.9 if smoothing else 0.7 if name == "response" else 1.0) * 0.3
    expected = whole + share * (told[1] - told[0]).item()
    assert LOSSES[name](student, teacher, mix).item() == pytest.approx(expected, rel=1e-10)
