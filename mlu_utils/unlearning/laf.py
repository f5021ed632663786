"""Label-Agnostic Forgetting: features of what must go leave the place where an autoencoder of theirs knows them.

Neither loss looks at a label: people who ask to be forgotten need not say what they are called. Shapes: B images in a
batch, D penultimate features.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from mlu_utils.devices import at_least_float32, seeded
from mlu_utils.models import head
from mlu_utils.naming import require_at_least, require_choice
from mlu_utils.training import descend, predict
from mlu_utils.unlearning.task import Batch, Task

FORMS = ("corrected", "published")
HIDDEN = (128, 32)  # widths of the encoder, and in reverse of the decoder
KL_WEIGHT, VAE_EPOCHS, VAE_LEARNING_RATE = 0.025, 10, 1e-3  # fixed in the public code


class VAE(nn.Module):
    """A variational autoencoder of features.

    Args:
        dims: width of the features, first and second hidden layer, and number of latent variables.
        is_bounded: end in a sigmoid, as published, which cannot reach features outside (0, 1).
    """

    def __init__(self, dims: Sequence[int], *, is_bounded: bool, seed: int) -> None:
        super().__init__()
        width, first, second, latent = dims
        with seeded(seed):
            self.encoder = nn.Sequential(nn.Linear(width, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU())
            self.mean, self.log_variance = nn.Linear(second, latent), nn.Linear(second, latent)
            self.decoder = nn.Sequential(
                *(nn.Linear(latent, second), nn.ReLU(), nn.Linear(second, first), nn.ReLU(), nn.Linear(first, width)),
                nn.Sigmoid() if is_bounded else nn.Identity(),
            )

    def forward(self, features: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the reconstruction (B, D) of features (B, D) under noise (B, latent), and mu and sigma."""
        hidden = self.encoder(features)
        mu, sigma = self.mean(hidden), (0.5 * self.log_variance(hidden)).exp()
        return self.decoder(mu + sigma * noise), mu, sigma

    def errors(self, features: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return the squared error of each reconstruction, summed over the features, (B,)."""
        return (self(features, noise)[0] - features).square().sum(1)


def vae_loss(vae: VAE, features: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return the mean over images of the squared error plus .025 times the divergence from a standard normal."""
    made, mu, sigma = vae(features, noise)
    divergence = -0.5 * ((sigma.square() + 1e-8).log() + 1 - mu.square() - sigma.square()).sum(1)
    return ((made - features).square().sum(1) + KL_WEIGHT * divergence).mean()


def saturated(errors: torch.Tensor) -> torch.Tensor:
    """Return exp(m / (m + 1)) of reconstruction errors m, in [1, e): flat where m is far above 1."""
    return (errors / (errors + 1)).exp()


def alignment_loss(
    retain: torch.Tensor,
    forget: torch.Tensor,
    of_retain: torch.Tensor,
    of_forget: torch.Tensor,
    *,
    temperature: float,
    is_summed: bool = True,
) -> torch.Tensor:
    """Return how far features to keep (|s|, D) lie from the original's, less how far those to forget (|u|, D) do.

    sum over s of c_s - |s| log sum over u of exp(c_u / temperature), where c = 1 - cosine with the original's features.
    It is `is_summed` as published, where a model that has not changed has the loss -|s| log |u|; else it has means
    instead of sums, whose value is then 0 and which does not grow with the batch.
    """
    keep, away = (1 - F.cosine_similarity(a, b, eps=1e-12) for a, b in ((retain, of_retain), (forget, of_forget)))
    if is_summed:
        return keep.sum() - len(keep) * torch.logsumexp(away / temperature, 0)
    return keep.mean() - (away / temperature).exp().mean().log()


@dataclass(frozen=True)
class Extraction:
    """The extraction loss of a pair of features: two autoencoders, their scale, and where their noise comes from."""

    knows_all: VAE  # h, of all training images
    knows_forgotten: VAE  # h_f, of those to forget
    draw: Callable[[torch.Tensor], torch.Tensor]  # features (B, D) -> noise (B, latent), first of h, then of h_f
    center: torch.Tensor | float = 0.0
    scale: torch.Tensor | float = 1.0
    is_summed: bool = True  # as published; False: means over the batch

    def loss(self, retain: torch.Tensor, forget: torch.Tensor) -> torch.Tensor:
        """Return how badly `h` reconstructs features to keep, less how badly `h_f` does those to forget."""
        retain, forget = ((x - self.center) / self.scale for x in (retain, forget))
        keep = saturated(self.knows_all.errors(retain, self.draw(retain)))
        go = saturated(self.knows_forgotten.errors(forget, self.draw(forget)))
        return keep.sum() - go.sum() if self.is_summed else keep.mean() - go.mean()


@contextlib.contextmanager
def features_of(model: nn.Module) -> Iterator[Callable[[Batch], torch.Tensor]]:
    """Give a function that returns the penultimate features (B, D) of a batch, with their gradients."""
    seen: list[torch.Tensor] = []

    def features(batch: Batch) -> torch.Tensor:
        batch.logits(model)
        return at_least_float32(seen.pop())

    with head(model).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        yield features


class InTurns:
    """Two optimisers of the same weights, each with moments of its own, that step in turns."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.param_groups = optimizers[0].param_groups
        self.zero_grad = optimizers[0].zero_grad
        self._next = itertools.cycle(optimizers)

    def step(self) -> None:
        """Take a step of whose turn it is."""
        next(self._next).step()


def laf(
    task: Task,
    *,
    form: str = "corrected",
    num_epochs: int = 20,
    extraction_learning_rate: float = 5e-5,
    alignment_learning_rate: float = 1e-4,
    alignment_weight: float = 30.0,
    temperature: float = 20.0,
    num_latent: int = 8,
    repair_epochs: int = 0,
    repair_learning_rate: float = 1e-3,
    batch_size: int = 32,
) -> nn.Module:
    """Return a copy whose features of the images to forget no longer fit what the original's features of them were.

    Two autoencoders learn the original's features, `h` of all training images and `h_f` of those to forget. Then the
    network is trained so that `h` reconstructs what is kept and `h_f` does not reconstruct what is forgotten, while
    what is kept stays where the original had it (`alignment_loss`). A pass pairs batches to forget with batches to keep
    and ends with the shorter side. BatchNorm stays in eval mode, the head stays as it is.

    Args:
        form: "published": a bounded decoder, sums over the batch, and two steps of Adam for each pair. "corrected":
            features scaled to unit variance, so that their errors do not saturate; an unbounded decoder; means; one
            step a pair, on the extraction loss + `alignment_weight` times the alignment loss.
        num_epochs: passes over the pairs.
        extraction_learning_rate, alignment_learning_rate: of Adam; the corrected form uses the first alone.
        temperature: of the features to forget in the alignment loss.
        repair_epochs: LAF+R: passes over the images to keep in which the head alone learns their labels.

    Source: Shen et al. (2024), Label-Agnostic Forgetting, equations 5 to 9; its public code for MNIST, class removal.

    Differs: both forms compute the original's features once, where the public code runs the network again for every
    batch of every pass, and the teacher with gradients. The learning rate of the repair is not published.
    """
    require_choice("form", form, FORMS)
    require_at_least(1, num_epochs=num_epochs, num_latent=num_latent, batch_size=batch_size)
    require_at_least(0, repair_epochs=repair_epochs, alignment_weight=alignment_weight)
    require_at_least(0, extraction_learning_rate=extraction_learning_rate, repair_learning_rate=repair_learning_rate)
    require_at_least(0, alignment_learning_rate=alignment_learning_rate)
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be above 0 and finite, got {temperature}")
    is_published = form == "published"
    unlearned, batches = task.start(), task.batches(batch_size)
    teacher = _teacher_features(task)
    of_train = teacher[task.table.rows("train").to(task.device)]
    center, scale = (0.0, 1.0) if is_published else (of_train.mean(0), of_train.std() * of_train.shape[1] ** 0.5)
    generator = torch.Generator().manual_seed(task.seed)

    def draw(features: torch.Tensor) -> torch.Tensor:
        return torch.randn(len(features), num_latent, generator=generator).to(features)

    knows_all, knows_forgotten = (
        fit_vae(
            VAE((teacher.shape[1], *HIDDEN, num_latent), is_bounded=is_published, seed=task.seed).to(teacher),
            (teacher[rows.to(task.device)] - center) / scale,
            draw,
            batch_size=batch_size,
            seed=task.seed,
        )
        for rows in (task.table.rows("train"), task.forget_rows)
    )
    extraction = Extraction(knows_all, knows_forgotten, draw, center, scale, is_summed=is_published)

    def alignment(retain: torch.Tensor, forget: torch.Tensor, pair: tuple[Batch, Batch]) -> torch.Tensor:
        before = (teacher[batch.rows] for batch in pair)
        return alignment_loss(retain, forget, *before, temperature=temperature, is_summed=is_published)

    pairs = (
        (retain, forget)
        for _ in range(num_epochs)
        for forget, retain in zip(batches.forget(), batches.retain(), strict=False)
    )
    rates = extraction_learning_rate, alignment_learning_rate
    with features_of(unlearned) as features:
        if is_published:
            train_in_turns(unlearned, pairs, features, extraction, alignment, rates=rates, seed=task.seed)
        else:

            def joint(pair: tuple[Batch, Batch]) -> torch.Tensor:
                retain, forget = map(features, pair)
                return extraction.loss(retain, forget) + alignment_weight * alignment(retain, forget, pair)

            optimizer = torch.optim.Adam(unlearned.parameters(), lr=rates[0])
            descend(unlearned, pairs, joint, optimizer, batchnorm="eval", seed=task.seed)
    if repair_epochs:
        optimizer = torch.optim.Adam(head(unlearned).parameters(), lr=repair_learning_rate)
        repairing = batches.retain(repair_epochs)
        descend(unlearned, repairing, lambda b: b.retain_loss(unlearned), optimizer, batchnorm="eval", seed=task.seed)
    return unlearned


def train_in_turns(
    model: nn.Module,
    pairs: Iterable[tuple[Batch, Batch]],
    features: Callable[[Batch], torch.Tensor],
    extraction: Extraction,
    alignment: Callable[[torch.Tensor, torch.Tensor, tuple[Batch, Batch]], torch.Tensor],
    *,
    rates: tuple[float, float],
    seed: int,
) -> list[float]:
    """Take two steps of Adam for each pair, as published: on the extraction loss, then on the alignment loss."""

    def objective(turn: tuple[bool, tuple[Batch, Batch]]) -> torch.Tensor:
        is_extraction, pair = turn
        retain, forget = map(features, pair)
        return extraction.loss(retain, forget) if is_extraction else alignment(retain, forget, pair)

    optimizer = InTurns(*(torch.optim.Adam(model.parameters(), lr=rate) for rate in rates))
    turns = ((is_extraction, pair) for pair in pairs for is_extraction in (True, False))
    return descend(model, turns, objective, optimizer, batchnorm="eval", seed=seed)


def fit_vae(
    vae: VAE,
    features: torch.Tensor,
    draw: Callable[[torch.Tensor], torch.Tensor],
    *,
    batch_size: int,
    seed: int,
) -> VAE:
    """Train an autoencoder on features (n, D), in a random order that starts from the seed, and return it frozen."""
    order = torch.Generator().manual_seed(seed)
    batches = (
        features[chosen.to(features.device)]
        for _ in range(VAE_EPOCHS)
        for chosen in torch.randperm(len(features), generator=order).split(batch_size)
    )
    optimizer = torch.optim.Adam(vae.parameters(), lr=VAE_LEARNING_RATE)
    descend(vae, batches, lambda x: vae_loss(vae, x, draw(x)), optimizer, seed=seed)
    return vae.requires_grad_(False)


def _teacher_features(task: Task) -> torch.Tensor:
    """Return the original's features of each training image, (N, D) on the device, 0 for all other images."""
    rows = task.table.rows("train")
    _, of_train = predict(task.model, task.table, rows, precision=task.precision)
    features = of_train.new_zeros(task.table.num_images, of_train.shape[1])
    features[rows] = of_train
    return features.to(task.device)
