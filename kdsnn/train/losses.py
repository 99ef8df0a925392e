"""Distillation losses: plain functions of (student, teacher, labels).

Labels are classes, int64 (N,), or the shares that mixed samples have in them, float32 (N, K).

The student's output is a sequence over time, (T, N, K): spikes of its output neurons or currents of
a non-firing classifier. The teacher's are logits, (N, K). Every loss is a mean over the batch.
Equation numbers are KDSNN's (Xu et al., CVPR 2023, arXiv 2304.05627); its temperature T is τ here,
because T is the number of time steps. A teacher is a constant: no gradient flows into it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, normalize, softmax


def firing_rate(student: Tensor) -> Tensor:
    """Average over time, (T, N, K) → (N, K): spikes / T. KDSNN takes these averages as the student's logits Z_S."""
    return student.mean(0)


def hard(student: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, every_step: bool = False) -> Tensor:
    """Compute the cross entropy of the student's firing rate with the labels: L = -Σ_k y_k log softmax(Z_S)_k.

    `student` (T, N, K), `labels` int64 (N,) or float32 (N, K) of samples that are mixed, whose rows sum to 1;
    `label_smoothing` ε makes y = (1 - ε)·onehot + ε/K. `every_step`: the mean over the steps t of the same with z_t in the
    place of their mean Z_S (TET, Deng et al., ICLR 2022).
    """
    if every_step:
        repeated = labels.expand(len(student), *labels.shape).flatten(0, 1)
        return cross_entropy(student.flatten(0, 1), repeated, label_smoothing=label_smoothing)
    return cross_entropy(firing_rate(student), labels, label_smoothing=label_smoothing)


def soft(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Compute the cross entropy with the teacher's softened output, on which Eq. 5 is built.

        Q_k = exp(Z_k/τ) / Σ_j exp(Z_j/τ)        (Eq. 4)
        L = -Σ_k Q_T,k log Q_S,k

    `student` (T, N, K), `teacher` (N, K), `temperature` τ > 0. Its gradient is that of KL(Q_T ‖ Q_S).
    """
    return cross_entropy(firing_rate(student) / temperature, softmax(teacher.detach() / temperature, dim=-1))


def response(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    temperature: float,
    label_smoothing: float = 0.0,
    every_step: bool = False,
) -> Tensor:
    """Response-based distillation is Eq. 5: L = α τ² CE(Q_S, Q_T) + (1 - α) CE(softmax(Z_S), y).

    τ² keeps the gradient of the soft term on one scale when τ changes. `student` (T, N, K), `teacher`
    (N, K), `labels` int64 (N,), `alpha` α in 0…1, `temperature` τ > 0. α = 0 is training without a teacher. The second
    term is as `hard` says.
    """
    softened = soft(student, teacher, temperature=temperature)
    told = hard(student, labels, label_smoothing=label_smoothing, every_step=every_step)
    return alpha * temperature**2 * softened + (1 - alpha) * told


def partial_l2(student: Tensor, teacher: Tensor) -> Tensor:
    """The partial L2 distance, Eq. 6 (Heo et al., ICCV 2019), is summed over a feature and averaged over the batch.

        d_p(T, S) = Σ 0 where S ≤ T ≤ 0, else (T - S)²

    A student below a negative teacher is left alone: behind a ReLU both are silent. `student` S and
    `teacher` T (N, C, H, W), the teacher's behind its margin ReLU. The prose under Eq. 6 swaps S and T;
    this is Heo's formula.
    """
    teacher = teacher.detach()
    wanted = (student > teacher) | (teacher > 0)
    return ((teacher - student).square() * wanted).sum() / len(student)


def overhaul(students: Sequence[Tensor], teachers: Sequence[Tensor]) -> Tensor:
    """The features' share of Eq. 7 is Σ_i d_p(T_i, S_i) / 2^(n-i-1), i = 0…n-1 from the first stage to the last.

    Weights as in clovaai/overhaul-distillation: 1 for the last stage, half of the next one's for each before.
    `students` and `teachers`: n ≥ 1 pairs of equal shapes (N, C_i, H_i, W_i), see `partial_l2`.
    """
    last = len(students) - 1
    pairs = enumerate(zip(students, teachers, strict=True))
    terms = [partial_l2(student, teacher) / 2 ** (last - i) for i, (student, teacher) in pairs]
    return torch.stack(terms).sum()


def feature(
    student: Tensor,
    labels: Tensor,
    students: Sequence[Tensor],
    teachers: Sequence[Tensor],
    *,
    weight: float,
    label_smoothing: float = 0.0,
    every_step: bool = False,
) -> Tensor:
    """Feature-based distillation is Eq. 7: L = CE(softmax(Z_S), y) + α Σ_i d_p(T_i, S_i) / 2^(n-i-1).

    `student` (T, N, K) output, `labels` int64 (N,), `students` and `teachers` as in `overhaul`, `weight`
    α ≥ 0 (Heo et al. use 1e-3 on images of 32×32).
    """
    told = hard(student, labels, label_smoothing=label_smoothing, every_step=every_step)
    return told + weight * overhaul(students, teachers)


def temporal(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    teacher_weight: float,
    self_weight: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Temporal distillation teaches every time step by itself ("Efficient logit KD", ICML 2025), good at any t ≤ T.

        L = mean_t CE(z_t, y) + a mean_t KL_τ(z_t, z_ANN) + b mean_t KL_τ(z_t, z̄)
        KL_τ(z, z') = τ² Σ_k softmax(z'/τ)_k log(softmax(z'/τ)_k / softmax(z/τ)_k)

    z̄ is the mean of z_t over the steps whose largest logit is the label, and 0 (a uniform target) for an
    image that no step gets right; no gradient flows through it. The authors' weights are a = 0.2, b = 0.5, τ = 3.

    `student` z (T, N, K), spikes or currents; `teacher` z_ANN (N, K); `labels` int64 (N,); `temperature` τ > 0;
    `teacher_weight` a ≥ 0; `self_weight` b ≥ 0.
    """
    ce = hard(student, labels, label_smoothing=label_smoothing, every_step=True)
    kept = correct_mean(student, labels)
    return (
        ce
        + teacher_weight * _kl_at_every_step(student, teacher, temperature)
        + self_weight * _kl_at_every_step(student, kept, temperature)
    )


def selective(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    teacher_weight: float,
    self_weight: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Selective distillation aligns every time step with care (SeAl-KD, arXiv 2605.14252).

        L = mean_t CE(z_t, y) + a mean_t KL_τ(z̃_t, z̃_ANN,t) + b mean_t KL_τ(z_t, ẑ_t)

    with KL_τ as in `temporal`. A step whose largest logit w is not the label y is told nothing about w against
    y but by the label itself: z̃_t is z_t with z_t,y in the place of z_t,w, and z̃_ANN,t is z_ANN with
    min(z_ANN,y, z_ANN,w) in both places. At a step that is right both are unchanged. Each step also follows
    the others, the more the surer and the more alike they are; no gradient flows through its target:

        ẑ_t = Σ_{s≠t} p_ts z_s,   p_ts = softmax_{s≠t}(c_s cos(z_t, z_s)),   c_s = 1 - H(softmax(z_s)) / log K

    With T = 1 there is no other step, and the last term is 0. The authors' weights are a = 0.6, b = 0.15, τ = 3.
    Arguments as in `temporal`.
    """
    loss = hard(student, labels, label_smoothing=label_smoothing, every_step=True)
    loss = loss + teacher_weight * _kl_at_every_step(*_without_mistakes(student, teacher, labels), temperature)
    if len(student) > 1:
        loss = loss + self_weight * _kl_at_every_step(student, other_steps(student), temperature)
    return loss


def _without_mistakes(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Compute z̃_t and z̃_ANN,t of `selective`, both (T, N, K). At a right step w = y, so that both stay as they
    are."""
    right = _foremost(labels).expand(len(student), -1).unsqueeze(-1)
    chosen = student.argmax(-1, keepdim=True)
    teacher = teacher.detach().expand_as(student)
    lower = torch.minimum(teacher.gather(-1, right), teacher.gather(-1, chosen))
    return (
        student.scatter(-1, chosen, student.gather(-1, right)),
        teacher.scatter(-1, right, lower).scatter(-1, chosen, lower),
    )


def other_steps(student: Tensor) -> Tensor:
    """Compute ẑ_t of `selective`, what the other steps say: (T, N, K) → (T, N, K) without gradient, T ≥ 2."""
    z = student.detach().transpose(0, 1)
    log_p = log_softmax(z, dim=-1)
    confidence = 1 + (log_p.exp() * log_p).sum(-1) / math.log(z.shape[-1])
    unit = normalize(z, dim=-1)
    scores = confidence.unsqueeze(1) * (unit @ unit.transpose(1, 2))
    itself = torch.eye(len(student), dtype=torch.bool, device=student.device)
    weights = softmax(scores.masked_fill(itself, -math.inf), dim=-1)
    return (weights @ z).transpose(0, 1)


def correct_mean(student: Tensor, labels: Tensor) -> Tensor:
    """Average the steps whose largest logit is the label, (T, N, K) → (N, K) without gradient; 0 where there is
    none."""
    z = student.detach()
    correct = (z.argmax(-1) == _foremost(labels)).to(z.dtype)
    total: Tensor = (z * correct.unsqueeze(-1)).sum(0)
    return total / correct.sum(0).clamp_min(1).unsqueeze(-1)


def _foremost(labels: Tensor) -> Tensor:
    """Which class a label says, int64 (N,); of a mixed sample, float32 (N, K), the one that most of it belongs to."""
    return labels if labels.dim() == 1 else labels.argmax(-1)


def _kl_at_every_step(student: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Compute mean_t KL_τ(z_t, target) of `student` (T, N, K) and `target` (N, K) or (T, N, K), see `temporal`."""
    log_q = log_softmax(student / temperature, dim=-1)
    log_p = log_softmax(target.detach() / temperature, dim=-1).expand_as(log_q)
    divergence = kl_div(log_q, log_p, reduction="sum", log_target=True) / (len(student) * student.shape[1])
    return temperature**2 * divergence
