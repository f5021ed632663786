"""Batches on the device: the whole table as uint8 when it fits, else pinned and prefetched, which looks the same.

Augmentation runs on the device and draws its numbers from a CPU generator, so that every device sees the same.
"""

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from mlu_utils.data.table import ImageTable

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's: right for pretrained weights
_RESIDENT_SHARE_OF_FREE_MEMORY = 0.5  # the network and its gradients need the rest


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image, each drawn per image, uniform in +- the value or 1 +- it; 0 turns it off."""

    flip: float = 0.5  # a probability
    degrees: float = 5.0
    translate: float = 0.05  # share of width and height
    scale: float = 0.1  # this one and those below `shear` are factors
    shear: float = 5.0  # horizontal, in degrees
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Turn uint8 (B, 3, H, W) into the float32 network input."""
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    return (images.float() - 255 * mean) / (255 * std)


def augment(images: torch.Tensor, augmentation: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Return uint8 images (B, 3, H, W) changed at random, float in [0, 255], each by its own numbers drawn on the CPU.

    What a turned or shifted picture leaves empty is filled with its border.
    """
    a, n, device = augmentation, len(images), images.device
    # (9, B) in [-1, 1): one row a kind of change, drawn even where it is off, so that rows never shift.
    u = (torch.rand(9, n, generator=generator) * 2 - 1).to(device, non_blocking=True)
    angle, shear = u[1] * math.radians(a.degrees), torch.tan(u[5] * math.radians(a.shear))
    zoom = 1 / (1 + u[4] * a.scale)
    mirror = torch.where(u[0].abs() < a.flip, -1.0, 1.0)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    # affine_grid maps output to input coordinates: the inverse of what happens to the picture.
    # Its coordinates run from -1 to 1 along both sides: an oblong picture would be sheared without `aspect`.
    aspect = images.shape[2] / images.shape[3]
    theta = torch.stack(
        [mirror * cos, mirror * (shear * cos - sin) * aspect, u[2] * a.translate * 2]
        + [sin / aspect, shear * sin + cos, u[3] * a.translate * 2],
        1,
    ).view(n, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    x = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    strengths = (a.brightness, a.contrast, a.saturation)
    bright, contrast, saturation = ((1 + u[6 + i] * strengths[i]).view(n, 1, 1, 1) for i in range(3))
    x = x * bright
    x = (x - (mean := x.mean((1, 2, 3), keepdim=True))) * contrast + mean
    grey = x.mean(1, keepdim=True)
    return ((x - grey) * saturation + grey).clamp_(0, 255)


class Batches:
    """Iterate over rows of a table in batches (images, labels, rows) that lie on the device.

    Images come normalised, float32 (B, 3, H, W); labels (B, K) as in the table; rows int64 (B,).

    Args:
        table, rows: the data, and which rows to visit, int64.
        batch_size: images a batch; the last one may be smaller, or larger by one where one would be left over.
        device, memory_format: of the batches.
        generator: CPU generator; when given, each pass visits the rows in a new random order.
        augmentation: random changes, or None; needs a generator.
        resident: keep the table's images on the device; default: when they take at most half of the free memory.
    """

    def __init__(
        self,
        table: ImageTable,
        rows: torch.Tensor,
        *,
        batch_size: int,
        device: torch.device,
        generator: torch.Generator | None = None,
        augmentation: Augmentation | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
        resident: bool | None = None,
    ) -> None:
        if len(rows) == 0:
            raise ValueError(f"no rows to visit in {table.source}: the split or request left nothing")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if augmentation is not None and generator is None:
            raise ValueError("an augmentation draws random numbers: pass a generator")
        self._table, self._rows, self._batch_size, self._generator = table, rows.cpu(), batch_size, generator
        self._device, self._augmentation, self._memory_format = device, augmentation, memory_format
        is_resident = _fits(table, device) if resident is None else resident
        self._images = table.images.to(device) if is_resident else None
        self._labels = table.labels.to(device)

    def __len__(self) -> int:
        """Return the number of batches in one pass."""
        return len(self._chunks(self._rows))

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Yield one pass over the rows."""
        order = self._rows
        if self._generator is not None:
            order = order[torch.randperm(len(order), generator=self._generator)]
        chunks = self._chunks(order)
        for raw, rows in self._prefetch(chunks) if self._images is None else map(self._read, chunks):
            if self._augmentation is not None:
                raw = augment(raw, self._augmentation, self._generator)
            yield normalise(raw).to(memory_format=self._memory_format), self._labels[rows], rows

    def _chunks(self, order: torch.Tensor) -> tuple[torch.Tensor, ...]:
        chunks = order.split(self._batch_size)
        if len(chunks) > 1 and len(chunks[-1]) == 1 and self._batch_size > 1:
            # BatchNorm in train mode has no variance for one image: it joins the batch before.
            chunks = (*chunks[:-2], torch.cat(chunks[-2:]))
        return chunks

    def _read(self, chunk: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images and rows of a batch on the device."""
        rows = chunk.to(self._device, non_blocking=True)
        if self._images is not None:
            return self._images[rows], rows
        raw = self._table.images[chunk]
        if self._device.type == "cuda":
            raw = raw.pin_memory()
        return raw.to(self._device, non_blocking=True), rows

    def _prefetch(self, chunks: tuple[torch.Tensor, ...]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Read and copy batches in a thread, two ahead of the one in use."""
        with ThreadPoolExecutor(1) as reader:
            ahead = deque()
            for chunk in chunks:
                ahead.append(reader.submit(self._read, chunk))
                if len(ahead) > 2:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()


def _fits(table: ImageTable, device: torch.device) -> bool:
    if device.type != "cuda":
        return True  # already in memory, or a memory map that the system pages in
    free, _ = torch.cuda.mem_get_info(device)
    return table.images.numel() <= free * _RESIDENT_SHARE_OF_FREE_MEMORY
