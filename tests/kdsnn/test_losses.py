"""Each loss against numpy float64 code written from the paper's equations, and its gradient."""

import numpy as np
import pytest
import torch

from kdsnn import losses

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
