"""The little that training needs to know of torch.distributed, whether or not it is used."""

import os
from typing import Any

import torch
import torch.distributed as dist


def setup() -> tuple[int, int]:
    """Join the process group when torchrun started us. Returns (rank, world size)."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), dist.get_world_size()


def local_device() -> torch.device:
    """This process's GPU when CUDA is present, else the CPU.

    Raises:
      RuntimeError: more processes than GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    index, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= count:
        raise RuntimeError(
            f"this machine has {count} GPU(s), and more processes were asked for: use "
            f"--world-size {count}"
        )
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def sum_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """The sums of a few numbers over all processes, element by element."""
    if not dist.is_initialized():
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def gather_over_ranks(value: Any) -> list[Any]:
    """The values of all processes by rank, in every process; any object that can be pickled."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait for every process."""
    if dist.is_initialized():
        dist.barrier()


def cleanup() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()
