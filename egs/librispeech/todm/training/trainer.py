"""The training loop: one for the supernet, for individually trained models and for every
ablation."""

import contextlib
import logging
import math
import random
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from todm.config.keys import Config
from todm.data.batches import Batch, eval_loader, statistics_path
from todm.learned_selection.methods import make_selector
from todm.learned_selection.sampler import LearnedSampler
from todm.learned_selection.score_file import append_scores
from todm.model.transducer import Transducer
from todm.recipe.lineage import training_data
from todm.subnet import Subnet
from todm.supernet.search_space import SearchSpace, SubnetSampler
from todm.training.batch_stream import BatchStream
from todm.training.experiment import (
    checkpoint_folder,
    describe,
    in_present_form,
    rng_state,
    set_rng_state,
)
from todm.training.optimization import (
    PRECISIONS,
    Window,
    grow_scale,
    lower_scale,
    make_optimizer,
    make_scaler,
)
from todm.training.supernet_loss import SupernetLoss, Weights, make_targets, make_transducer_loss
from utils import conf as configuration
from utils.checkpoint import RunningAverage, checkpoint_path, save_checkpoint
from utils.distributed import barrier, gather_over_ranks, sum_over_ranks
from utils.errors import UserError
from utils.files import atomic_path, read_json
from utils.interrupts import SIGNALS, Stopped, StopRequest, gentle_stops
from utils.progress import progress
from utils.scaled_adam import eden
from utils.tokens import Tokenizer


class Trainer:
    """Everything a training holds, and its loop.

    Args:
      rank, world_size: of this process; every rank draws its own batches and its own subnets.
    """

    def __init__(self, config: Config, device: torch.device, rank: int = 0, world_size: int = 1):
        self.config, self.device, self.rank, self.world_size = config, device, rank, world_size
        t = config.train
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(t.seed)  # the same weights on every rank
        self.data = training_data(config)
        self.tokenizer = Tokenizer(config.lang_dir / "bpe.model")
        self.space = SearchSpace(config, self.tokenizer.vocab_size)
        with torch.random.fork_rng(
            devices=[]
        ):  # a seed gives the net the same weights, whatever scores are drawn beside it
            self.selector = make_selector(config, self.tokenizer.vocab_size)
        self.sampler = (
            LearnedSampler(self.selector, t.seed, rank)
            if self.selector
            else SubnetSampler(self.space, t.seed, rank)
        )
        self.model = Transducer(config, self.tokenizer.vocab_size)
        self.model.encoder.frontend.set_statistics(**read_json(statistics_path(config)))
        transducer_loss = make_transducer_loss(config.loss, config.loss.backend, device)
        self.loss = SupernetLoss(self.model, config, transducer_loss, self.selector).to(device)
        self.step_module = self.loss
        if world_size > 1:
            # The largest net runs in every step on every rank, so every parameter has a gradient.
            self.step_module = DistributedDataParallel(
                self.loss, device_ids=[device] if device.type == "cuda" else None
            )
        self.optimizer = make_optimizer(config, self.model, self.selector)
        self.scaler = make_scaler(device, enabled=t.precision == "fp16")
        self.average = RunningAverage(self.model)
        self.stream = BatchStream(config, rank, world_size)
        self.update = 0
        self.hours = self.seconds = 0.0
        self.bad_in_row = self.bad_total = 0
        self.stop_request = StopRequest()  # this process's; run() listens
        # the signal that some rank has got, as all ranks have agreed on
        self.stop: int | None = None
        # the update of the interrupt's checkpoint that this training goes on from
        self.stopped_at: int | None = None
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(t.seed + rank)  # dropout and augmentation differ between ranks

    # ---- state

    def state(self) -> dict:
        """All that a resumed run needs; every rank must ask for it at once, because all ranks'
        generators are in it."""
        return (
            describe(self.config, self.tokenizer, self.stream.sampler.longest)
            | self.stream.state()
            | {
                "update": self.update,
                "hours": self.hours,
                "seconds": self.seconds,
                "bad_total": self.bad_total,
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "rng": gather_over_ranks(rng_state()),
                "data": self.data,
                "selector": self.selector.state_dict() if self.selector else None,
                "selection": self.selector.schedule() if self.selector else None,
                "stopped": self.stop is not None
                and not self.done
                and self.update % self.config.train.save_every > 0,
            }
        )

    def load(self, state: dict) -> None:
        """The inverse of :meth:`state`, also of a checkpoint of an older version."""
        state = in_present_form(state)
        for name in ("update", "hours", "seconds", "bad_total"):
            setattr(self, name, state[name])
        self.stopped_at = self.update if state.get("stopped") else None
        self.stream.load(state)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state[
            "scaler"
        ]:  # empty where the precision was another one: fp16 then begins as in a new training
            self.scaler.load_state_dict(state["scaler"])
        if self.selector is not None:
            self.selector.load_state_dict(state["selector"])
            self.selector.go_on(
                self.update,
                state.get("selection"),
                configuration.from_dict(Config, state["config"]),
            )

    def save(self) -> None:
        """Write a checkpoint, in place of the interrupt's that this training went on from."""
        state, folder, t = self.state(), checkpoint_folder(self.config.exp_dir), self.config.train
        if self.rank == 0:
            save_checkpoint(folder, self.update, state, t.keep_last, t.save_every)
            if self.stopped_at not in (None, self.update):
                checkpoint_path(folder, self.stopped_at).unlink(missing_ok=True)
        self.stopped_at = self.update if state["stopped"] else None

    # ---- for messages

    @property
    def done(self) -> bool:
        """Whether all updates are."""
        return self.update >= self.config.train.updates

    @property
    def epoch(self) -> int:
        return self.stream.epoch

    @property
    def batch_in_epoch(self) -> int:
        return self.stream.batch

    # ---- the loop

    def run(self) -> None:
        """Train until ``train.updates``; saves on the way and at the end.

        Raises:
          Stopped: some rank has got a signal; the update it was in was finished and saved. A second
          signal ends all at once.
        """
        self.scan_largest_batches()
        writer = SummaryWriter(self.config.exp_dir / "tensorboard") if self.rank == 0 else None
        bar = progress(
            total=self.config.train.updates,
            initial=self.update,
            desc="train",
            unit="update",
            disable=self.rank > 0,
        )
        try:
            with gentle_stops() as self.stop_request:
                self.loop(writer, bar)
        finally:
            bar.close()
            if writer:
                writer.close()
        logging.info(
            "trained %d updates, %.1f h of audio, %.0f s, %d bad batches skipped; checkpoints in "
            "%s",
            self.update,
            self.hours,
            self.seconds,
            self.bad_total,
            checkpoint_folder(self.config.exp_dir),
        )

    def loop(self, writer: SummaryWriter | None, bar: tqdm) -> None:
        """Updates, and what is due between them."""
        t, batches, window = self.config.train, iter(self.stream), Window()
        self.model.train()
        while not self.done:
            begin = time.monotonic()
            losses, seconds, frames = self.train_update(batches)
            self.seconds += time.monotonic() - begin
            self.hours += seconds / 3600
            window.add(losses, frames, seconds, time.monotonic() - begin)
            bar.update()
            if self.update % t.average_every == 0:
                self.average.add(self.model, t.average_every)
            if self.update % t.log_every == 0:
                bar.set_postfix_str(window.summary())
                self.log(writer, window)
                window = Window()
            if (self.update % t.valid_every == 0 or self.done) and self.stop is None:
                self.validate(writer)
            if self.update % t.save_every == 0 or self.done or self.stop is not None:
                self.save()
            if self.stop is not None:
                # a launcher ends the others when one has ended, and the first may still be writing
                barrier()
                logging.info("stopped; saved at update %d", self.update)
                raise Stopped(self.stop)

    def train_update(self, batches: Iterator[Batch]) -> tuple[list[float], float, int]:
        """One optimiser step from ``train.accumulate`` batches.

        Returns:
          Transducer loss of every net summed over all ranks, seconds of audio and encoder frames.
        """
        t = self.config.train
        subnets = self.sampler(self.update)
        weights = Weights.at(self.update, self.config.loss, self.config.distill)
        nets = (
            1 + len(subnets) + int(self.selector is not None and self.selector.learns(self.update))
        )
        while True:
            totals, seconds, frames, good = [0.0] * nets, 0.0, 0, True
            group = [next(batches) for _ in range(t.accumulate)]
            for i, batch in enumerate(group):
                batch = batch.to(self.device)
                targets = make_targets(batch, self.tokenizer, self.config.model.tail_frames)
                targets.check(batch.ids)
                wait = self.world_size > 1 and i + 1 < t.accumulate
                with self.step_module.no_sync() if wait else contextlib.nullcontext():
                    with torch.autocast(
                        self.device.type, PRECISIONS[t.precision], enabled=t.precision != "fp32"
                    ):
                        loss, losses = self.step_module(
                            batch.features, targets, subnets, weights, self.update
                        )
                    if not self.all_finite(loss):
                        good = False
                        break
                    # DDP takes the mean over ranks; times their number, it is the gradient of the
                    # whole batch.
                    self.scaler.scale(loss * self.world_size).backward()
                totals = [a + float(b) for a, b in zip(totals, losses)]
                seconds += batch.seconds
                frames += int(targets.frames.sum())
            if good and self.optimizer_step():
                self.bad_in_row = 0
                *totals, seconds, frames = self.sum_and_agree([*totals, seconds, frames])
                return totals, seconds, int(frames)
            if (
                not good or not self.scaler.is_enabled()
            ):  # else fp16's scale was too large, and not the batch bad
                self.skip_bad(group)

    def sum_and_agree(self, values: list[float]) -> list[float]:
        """Sums over all ranks, which so agree, too, on whether any of them was asked to stop
        (``self.stop``)."""
        asked = [float(self.stop_request.signal == number) for number in SIGNALS]
        sums = sum_over_ranks([*values, *asked], self.device)
        self.stop = next(
            (int(number) for number, count in zip(SIGNALS, sums[len(values) :]) if count), None
        )
        return sums[: len(values)]

    def all_finite(self, loss: torch.Tensor) -> bool:
        """Whether the loss is finite on every rank."""
        return sum_over_ranks([float(not torch.isfinite(loss))], self.device)[0] == 0

    def optimizer_step(self) -> bool:
        """Clip-free check of the gradients, learning rate, step. False: a gradient is not finite,
        nothing was changed but fp16's scale.

        Raises:
          UserError: in fp16, when gradients overflow at every scale.
        """
        t = self.config.train
        self.scaler.unscale_(self.optimizer)
        if self.selector is not None and not self.selector.learns(self.update):
            for scores in self.selector.parameters():
                scores.grad = None  # what stands there is the zero that DDP wants
        norm = torch.nn.utils.clip_grad_norm_(self.loss.parameters(), math.inf)
        finite = bool(torch.isfinite(norm))
        if finite:
            factor = eden(self.update, self.stream.passes, t.lr_batches, t.lr_epochs, t.lr_warmup)
            for group in self.optimizer.param_groups:
                group["lr"] = t.lr * group["lr_scale"] * factor
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif self.scaler.is_enabled():
            lower_scale(self.scaler, self.update)
        self.optimizer.zero_grad(set_to_none=True)
        if finite:
            self.update += 1
            grow_scale(self.scaler, self.update)
            if self.selector is not None and self.selector.after_update(self.update):
                logging.info(
                    "update %d: the masks are frozen: %s",
                    self.update,
                    "; ".join(f"{text}: {net}" for text, net in self.selector.subnets().items()),
                )
        return finite

    def skip_bad(self, group: list[Batch]) -> None:
        """Count and keep a batch whose loss or gradient is not finite; stop after too many in a
        row."""
        self.optimizer.zero_grad(set_to_none=True)
        self.bad_in_row, self.bad_total = self.bad_in_row + 1, self.bad_total + 1
        folder = self.config.exp_dir / "bad-batches"
        path = folder / f"update-{self.update}-rank-{self.rank}-{self.bad_total}.pt"
        with atomic_path(path) as temporary:
            torch.save(
                [
                    {"ids": b.ids, "texts": b.texts, "features": b.features, "lengths": b.lengths}
                    for b in group
                ],
                temporary,
            )
        logging.warning(
            "update %d: loss or gradient is not finite; skipped the batch, kept in %s",
            self.update,
            path,
        )
        if self.bad_in_row >= self.config.train.max_bad_batches:
            raise UserError(
                f"{self.bad_in_row} batches in a row gave a loss or gradient that is not finite "
                f"(kept in {folder}). "
                "Lower train.lr, or use train.precision=bf16 or fp32"
            )

    # ---- around the loop

    def watched(self) -> list[Subnet]:
        """The largest, a middle and the smallest net: of the search space, or those that the
        learned scores would choose now."""
        if self.selector is not None:
            nets = self.selector.distinct_nets()
            return [nets[0], nets[len(nets) // 2], nets[-1]]
        return self.space.three()

    @torch.no_grad()
    def validate(self, writer: SummaryWriter | None) -> None:
        """Loss per frame on dev (transducer; CTC while it trains alone) of the largest, a middle
        and the smallest net, by rank 0.

        Given up when this process is asked to stop.
        """
        if self.rank == 0:
            generators = (
                rng_state()
            )  # a loader draws from them when it starts; training is the same with any validations
            self.model.eval()
            nets = dict(zip(("largest", "middle", "smallest"), self.watched()))
            ctc_alone = Weights.at(self.update, self.config.loss, self.config.distill).ctc_alone
            weights, kind = (
                (Weights(0.0, 0.0, 0.0), "CTC ") if ctc_alone else (Weights(1.0, 1.0, 0.0), "")
            )
            sums, frames = [0.0] * 3, 0
            for i, batch in enumerate(
                eval_loader(self.config, self.config.data.dev, self.config.data.max_duration)
            ):
                if 0 < self.config.train.valid_batches <= i or self.stop_request:
                    break
                targets = make_targets(batch, self.tokenizer, self.config.model.tail_frames)
                keep = (
                    ((targets.lengths > 0) & (targets.lengths <= targets.frames))
                    .nonzero()[:, 0]
                    .tolist()
                )
                if not keep:
                    continue
                batch = batch.subset(keep).to(self.device)
                targets = make_targets(batch, self.tokenizer, self.config.model.tail_frames)
                _, losses = self.loss(
                    batch.features, targets, [nets["middle"], nets["smallest"]], weights
                )
                sums = [a + float(b) for a, b in zip(sums, losses)]
                frames += int(targets.frames.sum())
            self.model.train()
            set_rng_state(generators)
            if not self.stop_request:
                values = {name: total / max(frames, 1) for name, total in zip(nets, sums)}
                logging.info(
                    "update %d: dev %sloss per frame %s",
                    self.update,
                    kind,
                    ", ".join(f"{k} {v:.3f}" for k, v in values.items()),
                )
                for name, value in values.items():
                    writer.add_scalar(f"dev {kind}loss per frame/{name}", value, self.update)
        self.sum_and_agree([])  # every rank waits for the first

    def log(self, writer: SummaryWriter | None, window: Window) -> None:
        if writer is None:
            return
        logging.debug("update %d: %s", self.update, window.summary())
        values = {
            "train loss per frame/largest": window.largest,
            "train loss per frame/smallest": window.smallest,
            "learning rate": self.optimizer.param_groups[0]["lr"],
            "hours of audio per second": window.speed,
            "epoch": self.epoch,
            "bad batches": self.bad_total,
        }
        if self.scaler.is_enabled():
            values["fp16 gradient scale"] = self.scaler.get_scale()
        for name, value in values.items():
            writer.add_scalar(name, value, self.update)
        if self.selector is not None and not self.selector.frozen:
            append_scores(self.config.exp_dir, self.update, self.selector.importance().tolist())

    def scan_largest_batches(self) -> None:
        """Forward and backward of the largest batch of every bucket, so that memory runs out now or
        never (GPU only)."""
        if self.device.type != "cuda" or not self.config.train.scan_batches or self.update:
            return
        from lhotse.dataset import find_pessimistic_batches

        found, _ = find_pessimistic_batches(self.stream.sampler.inner)
        self.stream.sampler.start(self.epoch, 0)
        for criterion, cuts in found.items():
            batch = self.stream.loader.dataset[cuts].to(self.device)
            try:
                self.try_largest_steps(batch)
            except torch.cuda.OutOfMemoryError as error:
                raise UserError(
                    f"the GPU's memory does not hold the batch with the largest {criterion} "
                    f"({batch.seconds:.0f} s of audio "
                    f"in {len(batch.ids)} utterances); lower data.max_duration"
                ) from error
        logging.info(
            "the largest batches fit: %.1f GiB at the peak",
            torch.cuda.max_memory_allocated(self.device) / 2**30,
        )

    def try_largest_steps(self, batch: Batch) -> list[int]:
        """Forward and backward of the largest steps there can be: every subnet as large as the
        largest; in learned selection also the gated net.

        Returns:
          How many nets ran in each.
        """
        m, precision = self.config.method, self.config.train.precision
        weights = (
            Weights(0.0, 0.0, 1.0)
            if self.config.loss.objective == "ctc"
            else Weights(1.0, 1.0, 1.0)
        )
        steps: list[tuple[list[Subnet], int | None]] = [
            ([self.space.largest] * (m.subnets_per_step + m.smallest), None)
        ]
        if self.selector is not None:
            steps.append(([], self.selector.first))
        counts = []
        for subnets, update in steps:
            with torch.autocast(
                self.device.type, PRECISIONS[precision], enabled=precision != "fp32"
            ):
                loss, losses = self.loss(
                    batch.features,
                    make_targets(batch, self.tokenizer, self.config.model.tail_frames),
                    subnets,
                    weights,
                    update,
                )
            loss.backward()
            self.optimizer.zero_grad(set_to_none=True)
            counts.append(len(losses))
        return counts
