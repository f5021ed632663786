"""Where and how code runs: device, precision, seeds, seconds, memory, and a record of the machine."""

import contextlib
import ctypes
import platform
import re
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

# glibc shall reuse large freed blocks: each fresh one over 32 MiB costs one page fault per 4 KiB. The process keeps its
# peak memory until it ends. Another C library has nothing to be told.
with contextlib.suppress(OSError, AttributeError):
    _libc = ctypes.CDLL("libc.so.6")
    if _libc.mallopt(-3, 2**30):  # M_MMAP_THRESHOLD of <malloc.h>
        _libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


@dataclass(frozen=True)
class Precision:
    """Number format of the forward and backward pass; weights, losses and gradients stay float32."""

    name: str
    autocast_dtype: torch.dtype | None
    memory_format: torch.memory_format = torch.channels_last

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager:
        """Return the context in which the forward pass runs."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=self.autocast_dtype)


FP32 = Precision("fp32", None)
BF16 = Precision("bf16", torch.bfloat16)


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Return float64 as it is and everything else as float32: half precision is for the network only."""
    return values if values.dtype == torch.float64 else values.float()


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda` or `cuda:N`, or refuse the name with a ValueError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d\d?)?", name):
        raise ValueError(f"unknown device {name!r}: choose auto, cpu, cuda or cuda:N")
    if name != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for but this machine has no CUDA device: choose auto or cpu")
    return torch.device(name)


def resolve_precision(name: str, device: torch.device) -> Precision:
    """Return the precision for `auto`, `fp32` or `bf16`, or refuse the name with a ValueError.

    `auto` is bf16 where the hardware multiplies it; elsewhere bf16 is slower. The choice follows the hardware's
    features, so that it never flips between two runs.
    """
    if name in ("fp32", "bf16"):
        return FP32 if name == "fp32" else BF16
    if name != "auto":
        raise ValueError(f"unknown precision {name!r}: choose auto, fp32 or bf16")
    if device.type == "cuda":
        return BF16 if torch.cuda.get_device_capability(device) >= (8, 0) else FP32
    # Private and newer than some supported releases of torch: absent means fp32.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return BF16 if any(getattr(torch.cpu, check, lambda: False)() for check in checks) else FP32


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block under a seed of torch's global generators and put their state back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def now(device: torch.device) -> float:
    """Return the time in seconds, once the device has done what it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory_mib(device: torch.device) -> float:
    """Return the peak memory of this process so far in MiB: on CUDA the allocator's, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # KiB on Linux


def environment_record(device: torch.device) -> dict[str, str | int]:
    """Return what a reader needs to judge a timing: device, threads and versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    return {
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "system": platform.platform(),
    }
