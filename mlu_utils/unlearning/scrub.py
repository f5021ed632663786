"""SCRUB: a student that disagrees with its teacher on what must be forgotten and agrees on the rest."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from mlu_utils.devices import at_least_float32
from mlu_utils.naming import require_at_least
from mlu_utils.requests import mean_over, retain_loss
from mlu_utils.training import descend, predict_logits, right_entries, sgd
from mlu_utils.unlearning.task import Batch, Task


def distillation_divergence(
    student: torch.Tensor,
    teacher: torch.Tensor,
    chosen: torch.Tensor,
    *,
    temperature: float,
    is_single_label: bool,
    is_bounded: bool = False,
) -> torch.Tensor:
    """Return T^2 times the mean KL(teacher || student) over the chosen entries, both softened by T; 0 for none.

    Logits (B, num_outputs) are those of one softmax for single-label data, else of a Bernoulli per label, because a
    softmax would not see a common shift; chosen is bool (B, K). Bounded, an entry counts up to KL(teacher || uniform),
    where the student says nothing, and has no gradient beyond. The divergence knows no direction: a student more
    certain than its teacher stops at the same value.
    """
    s, t = (at_least_float32(z) / temperature for z in (student, teacher))
    if is_single_label:
        log_p = t.log_softmax(1)
        negative_entropy = (log_p.exp() * log_p).sum(1, keepdim=True)
        divergence = negative_entropy - (log_p.exp() * s.log_softmax(1)).sum(1, keepdim=True)
        most = negative_entropy + math.log(t.shape[1])
    else:
        p = t.sigmoid()
        negative_entropy = p * F.logsigmoid(t) + (1 - p) * F.logsigmoid(-t)
        divergence = negative_entropy - (p * F.logsigmoid(s) + (1 - p) * F.logsigmoid(-s))
        most = negative_entropy + math.log(2)
    if is_bounded:
        divergence = torch.minimum(divergence, most)
    return temperature**2 * mean_over(divergence, chosen)


def scrub(
    task: Task,
    *,
    num_epochs: int = 3,
    msteps: int = 2,
    alpha: float = 0.001,
    gamma: float = 0.99,
    temperature: float = 4.0,
    learning_rate: float = 5e-4,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    decay_epochs: tuple[int, ...] = (3, 5, 9),
    forget_batch_size: int = 32,
    retain_batch_size: int = 128,
    is_bounded: bool = True,
    is_rewound: bool = False,
    batchnorm: str = "train",
) -> nn.Module:
    """Return a student trained in turns away from and towards the original, its teacher.

    In each of the first `msteps` epochs a pass over the images to forget climbs the divergence from the teacher on
    the entries to forget; in every epoch a pass over the rest descends gamma L_retain + alpha times the divergence
    on the entries to keep. After each of the `decay_epochs` the rate is divided by 10.

    Args:
        msteps: 0 leaves distillation on the rest, which shows what the climb adds.
        is_bounded: of the divergence that is climbed; False is the published loss.
        is_rewound: SCRUB+R: return the student of the epoch whose error on what must be forgotten is nearest to the
            last student's error on the like entries of the validation split, which nobody trained on.

    Source: Kurmanji et al. (2023), Towards Unbounded Machine Unlearning, Algorithm 1; defaults of its public code
    (large scale).

    Differs: Bernoulli divergence per label for multi-label data; bounded climb; teacher's logits are computed once.
    """
    require_at_least(1, num_epochs=num_epochs)
    require_at_least(0, msteps=msteps, alpha=alpha, gamma=gamma)
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be above 0 and finite, got {temperature}")
    like = _unseen_like(task) if is_rewound else None
    table, student = task.table, task.start()
    climbing, descending = task.batches(forget_batch_size), task.batches(retain_batch_size)
    optimizer = sgd(student.parameters(), learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay)
    # The teacher stands still and its images are never augmented: one pass over them is enough.
    rows = table.rows("train")
    of_train = predict_logits(task.model, table, rows, precision=task.precision)
    of_teacher = of_train.new_zeros(table.num_images, table.num_outputs).index_copy(0, rows, of_train).to(task.device)
    options = {"temperature": temperature, "is_single_label": not table.is_multi_label}

    def climb(batch: Batch) -> torch.Tensor:
        logits, teacher = batch.logits(student), of_teacher[batch.rows]
        return -distillation_divergence(logits, teacher, batch.mask, is_bounded=is_bounded, **options)

    def descent(batch: Batch) -> torch.Tensor:
        logits, teacher = batch.logits(student), of_teacher[batch.rows]
        keep = gamma * retain_loss(logits, batch.labels, batch.mask)
        return keep + alpha * distillation_divergence(logits, teacher, ~batch.mask, **options) if alpha else keep

    students = []
    for epoch in range(1, num_epochs + 1):
        optimizer.param_groups[0]["lr"] = learning_rate * 0.1 ** sum(epoch > e for e in decay_epochs)
        if epoch <= msteps:
            descend(student, climbing.forget(), climb, optimizer, batchnorm=batchnorm, seed=task.seed + epoch)
        descend(student, descending.retain(), descent, optimizer, batchnorm=batchnorm, seed=task.seed + epoch)
        if is_rewound:
            students.append(copy.deepcopy(student.state_dict()))
    if is_rewound:
        _rewind(task, student, students, like)
    return student


def _unseen_like(task: Task) -> torch.Tensor:
    """Return bool (validation images, K): the request's known entries there, else all known ones of its labels."""
    table, mask = task.table, task.mask
    rows = table.rows("validation")
    known = ~table.labels[rows].isnan()
    for like in (mask[rows] & known, mask.any(0) & known):
        if like.any():
            return like
    raise ValueError(f"is_rewound compares with validation images and {table.source} has none: set it to False")


def _rewind(task: Task, student: nn.Module, students: list[dict], like: torch.Tensor) -> None:
    """Load the state whose error on the entries to forget is nearest to the last one's on unseen ones."""

    def error(rows: torch.Tensor, chosen: torch.Tensor) -> float:
        return float((~right_entries(student, task.table, rows, chosen)).float().mean())

    target = error(task.table.rows("validation"), like)
    distances = []
    for state in students:
        student.load_state_dict(state)
        distances.append(abs(error(task.forget_rows, task.mask[task.forget_rows]) - target))
    student.load_state_dict(students[distances.index(min(distances))])
