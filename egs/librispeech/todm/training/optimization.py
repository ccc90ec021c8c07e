"""What the training loop optimises with, and what it shows of its progress."""

import logging
import math
import time

import torch

from todm.config.keys import Config
from utils.eden import eden
from utils.errors import UserError
from utils.scaled_adam import ScaledAdam

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FIRST_SCALE = 1.0  # of fp16's gradients, as icefall's, because the loss is a sum over frames
SMALLEST_SCALE = 1e-5  # of fp16's gradients: below it icefall, too, gives up
DYNAMICS = ("log_dt", "log_a_real", "a_imag")  # SSM parameters that learn more slowly


def make_optimizer(
    config: Config, model: torch.nn.Module, selector: torch.nn.Module | None = None
) -> torch.optim.Optimizer:
    """ScaledAdam or AdamW; the SSMs' dynamics in a group of their own, slower and without weight
    decay, and the scores of learned selection in another. What is frozen is in none.

    Checkpoints hold the optimiser's state by the number of the parameter: the order of groups and
    of the parameters in them must stay.
    """
    groups: dict[bool, list] = {False: [], True: []}
    for name, p in model.named_parameters():
        if p.requires_grad:
            groups[name.rpartition(".")[2] in DYNAMICS].append(p)
    scores = [] if selector is None else list(selector.parameters())
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
    # The imaginary parts of A start at pi n, far above ScaledAdam's usual bound.
    params[1]["param_max_rms"] = math.inf
    # The size of scores is no scale to learn by: they move by the learning rate itself, as with
    # Adam.
    if scores:
        params[2] |= {"scaled": False}
    return ScaledAdam(params, lr=t.lr)


def set_learning_rate(
    optimizer: torch.optim.Optimizer, config: Config, update: int, passes: float
) -> None:
    """Set every group's learning rate to ``train.lr`` times Eden's factor and its own scale.

    Args:
      passes: over the training data so far.
    """
    t = config.train
    factor = eden(update, passes, t.lr_batches, t.lr_epochs, t.lr_warmup)
    for group in optimizer.param_groups:
        group["lr"] = t.lr * group["lr_scale"] * factor


def make_scaler(device: torch.device, enabled: bool) -> torch.amp.GradScaler:
    """fp16's gradient scaler."""
    return torch.amp.GradScaler(device.type, init_scale=FIRST_SCALE, enabled=enabled)


def grow_scale(scaler: torch.amp.GradScaler, update: int) -> None:
    """Double a small scale sooner than the scaler itself does (after 2000 good steps), as icefall
    does: below 8 every 100 updates, below 32 every 400.

    Called after every good update; the scale is on the device and is not looked at otherwise.
    """
    if scaler.is_enabled() and update % 100 == 0:
        scale = scaler.get_scale()
        if scale < (32.0 if update % 400 == 0 else 8.0):
            scaler.update(2.0 * scale)


def lower_scale(scaler: torch.amp.GradScaler, update: int) -> None:
    """Lower the scale, instead of a step whose gradients are not finite. A scale that is itself
    not finite begins anew at 1: half of it would be no smaller.

    Raises:
      UserError: the scale has become so small that gradients overflow at any.
    """
    before = scaler.get_scale()
    scale = before * scaler.get_backoff_factor() if math.isfinite(before) else FIRST_SCALE
    if scale < SMALLEST_SCALE:
        raise UserError(
            f"update {update}: the gradients overflow in fp16 at every scale down to {scale:.0e}, "
            "so the model diverges or "
            "fp16 does not hold its values. Use train.precision=bf16 or fp32, or lower train.lr"
        )
    logging.info(
        "update %d: gradients overflow in fp16; skipped the batch, their scale is %g, was %g",
        update,
        scale,
        before,
    )
    scaler.update(scale)


def slower_than_fp32(precision: str) -> float:
    """The time of a matrix product in a precision over that in fp32 on this CPU: above 1 where it
    has no such instructions."""
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
        """Count one update.

        Args:
          losses: of every net, summed over the batch, largest first. frames: encoder frames.
          audio, wall: seconds of audio, and of time.
        """
        self.losses.append([losses[0], losses[-1]])
        self.frames, self.audio, self.wall = (
            self.frames + frames,
            self.audio + audio,
            self.wall + wall,
        )

    @property
    def largest(self) -> float:
        """Loss per encoder frame of the largest net."""
        return sum(x[0] for x in self.losses) / max(self.frames, 1)

    @property
    def smallest(self) -> float:
        """Loss per encoder frame of the last net of every update."""
        return sum(x[1] for x in self.losses) / max(self.frames, 1)

    @property
    def speed(self) -> float:
        """Hours of audio per second."""
        return self.audio / 3600 / max(self.wall, 1e-9)

    def scalars(self) -> dict[str, float]:
        """Losses and speed by the names of TensorBoard's curves."""
        return {
            "train loss per frame/largest": self.largest,
            "train loss per frame/smallest": self.smallest,
            "hours of audio per second": self.speed,
        }

    def summary(self) -> str:
        """Losses and speed as text, for the progress bar."""
        return (
            f"loss/frame largest {self.largest:.3f} smallest {self.smallest:.3f}, "
            f"{self.speed:.4f} h audio/s"
        )
