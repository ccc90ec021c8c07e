"""What the training loop optimises with, and what it shows of its progress."""

import math
import time

import torch

from egs.librispeech.todm.config import Config
from utils.scaled_adam import ScaledAdam

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DYNAMICS = ("log_dt", "log_a_real", "a_imag")  # SSM parameters that learn more slowly


def make_optimizer(config: Config, model: torch.nn.Module) -> torch.optim.Optimizer:
    """ScaledAdam or AdamW; the SSMs' dynamics in a group of their own, slower and without weight decay, and learned scores in another."""
    groups: dict[bool, list] = {False: [], True: []}
    scores = []
    for name, p in model.named_parameters():
        if name.startswith("selector."):
            scores.append(p)
        else:
            groups[name.rpartition(".")[2] in DYNAMICS].append(p)
    t = config.train
    params = [
        {"params": groups[False], "lr_scale": 1.0, "weight_decay": t.adam_weight_decay},
        {"params": groups[True], "lr_scale": t.ssm_lr_scale, "weight_decay": 0.0},
    ]
    if scores:
        params.append({"params": scores, "lr_scale": config.learn.lr_scale, "weight_decay": 0.0})
    if config.method.optimizer == "adam":
        return torch.optim.AdamW(params, lr=t.lr, betas=(0.9, 0.98))
    for group in params:
        del group["weight_decay"]
    params[1]["param_max_rms"] = math.inf  # the imaginary parts of A start at pi n, far above ScaledAdam's usual bound
    if scores:  # their size is no scale to learn by: they move by the learning rate itself, as with Adam
        params[2] |= {"scaled": False}
    return ScaledAdam(params, lr=t.lr)


def slower_than_fp32(precision: str) -> float:
    """How many times longer a matrix product takes in a precision than in fp32 on this CPU: above 1 where it has no such instructions."""
    seconds = {}
    for dtype in (torch.float32, PRECISIONS[precision]):
        a, b = torch.ones(256, 144, dtype=dtype), torch.ones(144, 576, dtype=dtype)
        a @ b  # the first one sets things up
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - begin)
        seconds[dtype] = min(times)  # the others waited for other programs
    return seconds[PRECISIONS[precision]] / seconds[torch.float32]


class Window:
    """Losses and speed since the last log line."""

    def __init__(self) -> None:
        self.losses: list[list[float]] = []
        self.frames, self.audio, self.wall = 0, 0.0, 0.0

    def add(self, losses: list[float], frames: int, audio: float, wall: float) -> None:
        self.losses.append([losses[0], losses[-1]])
        self.frames, self.audio, self.wall = self.frames + frames, self.audio + audio, self.wall + wall

    @property
    def largest(self) -> float:
        return sum(x[0] for x in self.losses) / max(self.frames, 1)

    @property
    def smallest(self) -> float:
        return sum(x[1] for x in self.losses) / max(self.frames, 1)

    @property
    def speed(self) -> float:
        """Hours of audio per second."""
        return self.audio / 3600 / max(self.wall, 1e-9)

    def summary(self) -> str:
        return f"loss/frame largest {self.largest:.3f} smallest {self.smallest:.3f}, {self.speed:.4f} h audio/s"
