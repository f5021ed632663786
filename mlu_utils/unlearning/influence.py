"""Which training images matter for what must be forgotten: influence functions with a perturbed copy."""

import math

import torch
from curvlinops import CGInverseLinearOperator, GGNLinearOperator
from curvlinops.examples import IdentityLinearOperator
from torch import nn

from mlu_utils.data.batches import Batches
from mlu_utils.models import head
from mlu_utils.naming import require_at_least, require_choice, require_share
from mlu_utils.requests import entry_losses
from mlu_utils.training import in_eval_mode
from mlu_utils.unlearning.curvature import output_gradient
from mlu_utils.unlearning.task import Pair, Task

SOLVERS = ("last_layer", "conjugate_gradient")
MOST_ITERATIONS = 50  # of conjugate gradients


def image_influence(
    task: Task, rows: torch.Tensor, *, solver: str = "last_layer", damping: float = 1e-3, noise_std: float = 0.1
) -> torch.Tensor:
    """Return the influence of each row, float64 (len(rows),): I(x) = - grad l(x')^T (H + damping I)^-1 grad l(x).

    l is the forget loss summed over the image's entries, x' a noisy copy of x (by the task's seed), H the Hessian of
    the mean forget loss over the rows, of which some must have an entry to forget. Large |I|: a small change of the
    image moves the model's view of the forgotten entries a lot.

    Args:
        solver: "last_layer": weights of the head only, inverted in closed form; "conjugate_gradient": all weights,
            Gauss-Newton matrix (positive, so that the solver converges), one solve an image: for small networks.
        damping: > 0.
        noise_std: standard deviation of the Gaussian noise, in units of the network input.

    Source: Hossain et al. (2025), Algorithm 1; Koh and Liang (2017) for the inverse Hessian.

    Differs: the paper's perturbation, damping and inverse are not given; here Gaussian noise, explicit damping, and the
    Gauss-Newton matrix or the last layer in place of the full Hessian, which is indefinite.
    """
    require_choice("solver", solver, SOLVERS)
    require_at_least(0, noise_std=noise_std)
    if not 0 < damping < math.inf:
        raise ValueError(f"damping must be positive (H may be singular), got {damping}")
    model, device = task.model, task.device
    [(images, labels, _)] = Batches(task.table, rows, batch_size=len(rows), device=device)
    chosen = task.mask.to(device)[rows.to(device)] & ~labels.isnan()
    if not chosen.any():
        raise ValueError(f"nothing to forget among the {len(rows)} rows: choose rows that the request touches")
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(task.seed))
    solve = _last_layer if solver == "last_layer" else _conjugate_gradient
    with in_eval_mode(model):
        return solve(model, (images, images + noise_std * noise.to(device)), labels, chosen, damping).cpu()


def most_influential(influence: torch.Tensor, rows: torch.Tensor, share: float) -> torch.Tensor:
    """Return the `share` of rows, in (0, 1], with the largest |influence|, at least one, ascending."""
    require_share(share=share)
    count = max(1, round(share * len(rows)))
    return rows[influence.abs().argsort(descending=True, stable=True)[:count]].sort().values


@torch.no_grad()
def _last_layer(
    model: nn.Module, pair: Pair, labels: torch.Tensor, chosen: torch.Tensor, damping: float
) -> torch.Tensor:
    features = []
    with head(model).register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].double())):
        logits, noisy_logits = (torch.cat([model(b).double() for b in images.split(256)]) for images in pair)
    features = torch.cat(features)
    ones = torch.ones(len(labels), 1, dtype=features.dtype, device=features.device)
    phi, noisy_phi = (torch.cat([f, ones], 1) for f in features.split(len(labels)))  # (B, d + 1), bias last
    with torch.enable_grad():
        g, noisy_g = (output_gradient(z, labels, chosen) for z in (logits, noisy_logits))  # (B, C)
    if labels.dtype != torch.int64:
        # Labels do not share a block: one (d + 1)^2 system for each label with entries to forget.
        s, influence = logits.sigmoid(), torch.zeros(len(phi), dtype=phi.dtype, device=phi.device)
        curvature = s * (1 - s) * chosen / chosen.sum()  # (B, K)
        identity = damping * torch.eye(phi.shape[1], dtype=phi.dtype, device=phi.device)
        for k in torch.nonzero(chosen.any(0)).flatten():
            hessian = (phi * curvature[:, k, None]).T @ phi + identity
            influence -= noisy_g[:, k] * g[:, k] * (noisy_phi * torch.linalg.solve(hessian, phi.T).T).sum(1)
        return influence
    p, size = logits.softmax(1), g.shape[1] * phi.shape[1]
    of_logits = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) * chosen[:, :, None]
    curvature = of_logits / chosen.sum()  # (B, C, C)
    hessian = torch.einsum("ncd,ni,nj->cidj", curvature, phi, phi).reshape(size, size)
    hessian += damping * torch.eye(size, dtype=phi.dtype, device=phi.device)
    gradients, noisy_gradients = (
        torch.einsum("nc,ni->nci", a, b).flatten(1) for a, b in ((g, phi), (noisy_g, noisy_phi))
    )
    return -(noisy_gradients * torch.linalg.solve(hessian, gradients.T).T).sum(1)


class _SummedChosenLoss(nn.Module):
    """Loss of a batch whose targets are the labels and, beside them, 0 or 1 for the entries that count."""

    reduction = "sum"

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        labels, chosen = target.chunk(2, dim=1)
        losses, _ = entry_losses(logits, labels if labels.shape == logits.shape else labels.long())
        return (losses * chosen).sum()


def _conjugate_gradient(
    model: nn.Module, pair: Pair, labels: torch.Tensor, chosen: torch.Tensor, damping: float
) -> torch.Tensor:
    parameters, images = list(model.parameters()), pair[0]
    loss = _SummedChosenLoss()
    target = torch.cat([labels.nan_to_num(0).to(images.dtype), chosen.to(images.dtype)], 1)
    data = [(images, target)]
    ggn = GGNLinearOperator(model, loss, parameters, data, check_deterministic=False, num_data=len(images))
    identity = IdentityLinearOperator([p.shape for p in parameters], images.device, parameters[0].dtype)
    damped = ggn * (1 / int(chosen.sum())) + damping * identity
    inverse = CGInverseLinearOperator(damped, max_iter=MOST_ITERATIONS, tolerance=1e-5, eps=1e-20)

    def gradient(x: torch.Tensor, n: int) -> torch.Tensor:
        value = loss(model(x[n : n + 1]), target[n : n + 1])
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, parameters)])

    # One column an image, so that all solves share their products with the matrix.
    gradients, noisy_gradients = (torch.stack([gradient(x, n) for n in range(len(x))], 1) for x in pair)
    return -(noisy_gradients * (inverse @ gradients)).sum(0).detach().double()
