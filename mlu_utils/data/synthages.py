"""Procedural faces of five age groups: an ordered single-label task, as in the paper's Table 3.

An age in years changes the faces of `synthfaces` smoothly: neighbouring groups look alike and distant ones do not.
"""

import torch

from mlu_utils.data.splits import stratified_split
from mlu_utils.data.synthfaces import LABEL_NAMES, SPLIT_SEED, draw_faces, draw_factors, sample_attributes
from mlu_utils.data.table import ImageTable

# First and last year of each group, as the paper forms them from MUFAC; years between groups do not occur.
AGE_GROUPS = ((0, 6), (13, 16), (20, 30), (31, 45), (46, 60))
CLASS_NAMES = tuple(f"{first}-{last}" for first, last in AGE_GROUPS)
CLASS_POSITIONS = tuple((first + last) / 2 for first, last in AGE_GROUPS)
ADULT, OLD = 20, 60  # years between which a face turns from young to old
LOOKS_STD = 2.0  # years by which a face looks older or younger than it is


def load(
    *,
    num_images: int = 2000,
    num_people: int | None = None,
    size: int = 48,
    seed: int = 42,
    device: str | torch.device = "cpu",
) -> ImageTable:
    """Return faces with one column, the age group, all groups equally often, split 65/25/10.

    Args:
        num_images: at least 50.
        num_people: how many people the images show, five in a row the same person at the five ages, and then split by
            person, as in MUFAC; default: everybody once, and nobody known.
        size: height and width in pixels, 16 to 1024.
        seed: of everything drawn.
        device: where to paint.
    """
    if num_images < 50:
        raise ValueError(f"num_images must be at least 50, ten of each age group, got {num_images}")
    if num_people is not None and not 30 <= num_people <= num_images:
        raise ValueError(f"num_people must be in 30..{num_images}, every split has people of its own, got {num_people}")
    who = torch.arange(num_images)
    who = who if num_people is None else who // len(AGE_GROUPS) % num_people
    generator = torch.Generator().manual_seed((seed + 2**33) % 2**63)
    classes = torch.arange(num_images) % len(AGE_GROUPS)
    first, last = (torch.tensor(side, dtype=torch.float32)[classes] for side in zip(*AGE_GROUPS, strict=True))
    years = first + (last - first) * torch.rand(num_images, generator=generator)
    looks = (years + LOOKS_STD * torch.randn(num_images, generator=generator)).clamp(0, OLD)
    of_people, of_images = draw_factors(num_people or num_images, num_images, generator)
    attributes = aged(sample_attributes(num_people or num_images, seed=seed)[who], looks)
    known = None if num_people is None else who
    people = "" if num_people is None else f"{num_people=}, "
    return ImageTable(
        images=draw_faces(attributes, of_people[who], of_images, size=size, device=device).cpu(),
        labels=classes[:, None],
        label_names=("age_group",),
        identity=torch.full((num_images,), -1) if known is None else known,
        split=stratified_split(classes[:, None], seed=SPLIT_SEED, identity=known),
        source=f"synthages({num_images=}, {people}{size=}, {seed=}, device={torch.device(device).type!r})",
        class_names=CLASS_NAMES,
        class_positions=CLASS_POSITIONS,
    )


def aged(attributes: torch.Tensor, years: torch.Tensor) -> torch.Tensor:
    """Return attribute strengths (n, 10) in [0, 1] of the same people at the given ages (n,).

    A child is round-cheeked, has no beard and no grown-up's jaw or nose; between `ADULT` and `OLD` the face loses
    youth in proportion to the years. Nobody is bald: that would hide the greying of the hair.
    """
    changed = attributes.clone()
    columns = dict(zip(LABEL_NAMES, changed.T, strict=True))
    childhood = (1 - years / ADULT).clamp(0, 1)
    columns["Young"].copy_(((OLD - years) / (OLD - ADULT)).clamp(0, 1))
    columns["Double_Chin"].copy_(childhood)
    columns["Bald"].zero_()
    columns["No_Beard"][years < ADULT] = 1
    for name in ("Male", "Oval_Face", "Pointy_Nose", "Arched_Eyebrows"):
        columns[name].mul_(1 - childhood)
    return changed
