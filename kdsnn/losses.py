"""Distillation losses: plain functions of (student, teacher, labels).

The student's output is a sequence over time, (T, N, K): spikes of its output neurons or currents of
a non-firing classifier. The teacher's are logits, (N, K). Every loss is a mean over the batch.
Equation numbers are KDSNN's (Xu et al., CVPR 2023, arXiv 2304.05627); its temperature T is τ here,
because T is the number of time steps.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy, softmax


def firing_rate(student: Tensor) -> Tensor:
    """Mean over time, (T, N, K) → (N, K): spikes / T. KDSNN takes these averages as the student's logits Z_S."""
    return student.mean(0)


def hard(student: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross entropy of the student's firing rate with the labels: L = -Σ_k y_k log softmax(Z_S)_k.

    `student` (T, N, K), `labels` int64 (N,), `label_smoothing` ε makes y = (1 - ε)·onehot + ε/K.
    """
    return cross_entropy(firing_rate(student), labels, label_smoothing=label_smoothing)


def soft(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Cross entropy with the teacher's softened output, on which Eq. 5 is built.

        Q_k = exp(Z_k/τ) / Σ_j exp(Z_j/τ)        (Eq. 4)
        L = -Σ_k Q_T,k log Q_S,k

    `student` (T, N, K), `teacher` (N, K), `temperature` τ > 0. Its gradient is that of KL(Q_T ‖ Q_S).
    """
    return cross_entropy(firing_rate(student) / temperature, softmax(teacher / temperature, dim=-1))


def response(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    temperature: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Response-based distillation, Eq. 5: L = α τ² CE(Q_S, Q_T) + (1 - α) CE(softmax(Z_S), y).

    τ² keeps the gradient of the soft term on one scale when τ changes. `student` (T, N, K), `teacher`
    (N, K), `labels` int64 (N,), `alpha` α in 0…1, `temperature` τ > 0. α = 0 is training without a teacher.
    """
    softened = soft(student, teacher, temperature=temperature)
    return alpha * temperature**2 * softened + (1 - alpha) * hard(student, labels, label_smoothing=label_smoothing)
