"""The training loop: one for the supernet, for individually trained models and for every ablation."""

import contextlib
import logging
import math
import random
import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter

from egs.librispeech.todm.config import Config
from egs.librispeech.todm.data import Batch, eval_loader, statistics_path, train_loader
from egs.librispeech.todm.experiment import checkpoint_folder, describe, rng_state, set_rng_state
from egs.librispeech.todm.learned_selection import LearnedSampler, make_selector
from egs.librispeech.todm.optimization import PRECISIONS, Window, make_optimizer
from egs.librispeech.todm.search_space import SearchSpace, SubnetSampler
from egs.librispeech.todm.selection_report import append_scores
from egs.librispeech.todm.subnet import Subnet
from egs.librispeech.todm.supernet_loss import SupernetLoss, Weights, make_targets
from egs.librispeech.todm.transducer import Transducer
from utils.checkpoint import RunningAverage, save_checkpoint
from utils.distributed import sum_over_ranks
from utils.files import atomic_path, read_json
from utils.progress import progress
from utils.scaled_adam import eden
from utils.stages import StageError
from utils.tokens import Tokenizer
from utils.transducer_loss import TransducerLoss, choose_backend


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
        self.tokenizer = Tokenizer(config.lang_dir / "bpe.model")
        self.space = SearchSpace(config, self.tokenizer.vocab_size)
        with torch.random.fork_rng(devices=[]):  # a seed gives the net the same weights, whatever scores are drawn beside it
            self.selector = make_selector(config, self.tokenizer.vocab_size)
        self.sampler = LearnedSampler(self.selector, t.seed, rank) if self.selector else SubnetSampler(self.space, t.seed, rank)
        self.model = Transducer(config, self.tokenizer.vocab_size, selector=self.selector)
        self.model.encoder.frontend.set_statistics(**read_json(statistics_path(config)))
        self.model.to(device)
        backend = choose_backend(config.loss.backend, device)
        loss = TransducerLoss(backend, config.loss.prune_range, config.loss.lm_scale, config.loss.am_scale)
        self.loss = SupernetLoss(self.model, config, loss)
        self.step_module = self.loss
        if world_size > 1:
            # The largest net runs in every step on every rank, so every parameter has a gradient.
            self.step_module = DistributedDataParallel(self.loss, device_ids=[device] if device.type == "cuda" else None)
        self.optimizer = make_optimizer(config, self.model)
        self.scaler = torch.amp.GradScaler(device.type, enabled=t.precision == "fp16")
        self.average = RunningAverage(self.model)
        self.loader, self.batches = train_loader(config, rank, world_size)
        self.update = self.epoch = self.batch_in_epoch = 0
        self.batches_per_epoch = 0  # known after the first epoch
        self.hours = self.seconds = 0.0
        self.bad_in_row = self.bad_total = 0
        self.rng_to_restore: dict | None = None
        torch.manual_seed(t.seed + rank)  # dropout and augmentation differ between ranks

    # ---- state

    def state(self) -> dict:
        """All that a resumed run needs."""
        return describe(self.config, self.tokenizer, self.batches.longest) | {
            "update": self.update, "epoch": self.epoch, "batch_in_epoch": self.batch_in_epoch,
            "batches_per_epoch": self.batches_per_epoch, "hours": self.hours, "seconds": self.seconds,
            "bad_total": self.bad_total, "world_size": self.world_size, "model": self.model.state_dict(),
            "average": self.average.state_dict(), "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(), "rng": rng_state(),
        }

    def load(self, state: dict) -> None:
        """The inverse of :meth:`state`."""
        if state["world_size"] != self.world_size:
            logging.warning("the checkpoint was made by %d processes, this run has %d: it begins the epoch anew",
                            state["world_size"], self.world_size)
            state = state | {"batch_in_epoch": 0}
        for name in ("update", "epoch", "batch_in_epoch", "batches_per_epoch", "hours", "seconds", "bad_total"):
            setattr(self, name, state[name])
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.rng_to_restore = state["rng"] if self.rank == 0 else None

    def save(self) -> None:
        if self.rank == 0:
            save_checkpoint(checkpoint_folder(self.config.exp_dir), self.update, self.state(), self.config.train.keep_last)

    # ---- the loop

    def epoch_batches(self) -> Iterator[Batch]:
        """Batches for ever, from where the last checkpoint stood; keeps count of epoch and batch."""
        while True:
            self.batches.start(self.epoch, self.batch_in_epoch)
            iterator = iter(self.loader)
            if self.rng_to_restore is not None:  # now, because a loader draws random numbers when it starts
                set_rng_state(self.rng_to_restore)
                self.rng_to_restore = None
            for batch in iterator:
                self.batch_in_epoch += 1
                yield batch
            if self.batch_in_epoch == 0:
                raise StageError("the training set gives no batch; is data.max_duration shorter than every utterance?")
            self.batches_per_epoch, self.batch_in_epoch = self.batch_in_epoch, 0
            self.epoch += 1

    def run(self) -> None:
        """Train until ``train.updates``; saves on the way, at the end and when interrupted."""
        t = self.config.train
        self.scan_largest_batches()
        writer = SummaryWriter(self.config.exp_dir / "tensorboard") if self.rank == 0 else None
        bar = progress(total=t.updates, initial=self.update, desc="train", unit="update", disable=self.rank > 0)
        batches = self.epoch_batches()
        self.model.train()
        window = Window()
        try:
            while self.update < t.updates:
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
                if self.update % t.valid_every == 0 or self.update == t.updates:
                    self.validate(writer)
                if self.update % t.save_every == 0 or self.update == t.updates:
                    self.save()
        except KeyboardInterrupt:
            self.save()
            logging.info("interrupted; saved at update %d", self.update)
            raise
        finally:
            bar.close()
            if writer:
                writer.close()
        logging.info("trained %d updates, %.1f h of audio, %.0f s, %d bad batches skipped; checkpoints in %s", self.update,
                     self.hours, self.seconds, self.bad_total, checkpoint_folder(self.config.exp_dir))

    def train_update(self, batches: Iterator[Batch]) -> tuple[list[float], float, int]:
        """One optimiser step from ``train.accumulate`` batches.

        Returns:
          Transducer loss of every net summed over all ranks, seconds of audio and encoder frames.
        """
        t = self.config.train
        subnets = self.sampler(self.update)
        weights = Weights.at(self.update, self.config.loss, self.config.distill)
        nets = 1 + len(subnets) + int(self.selector is not None and self.selector.learns(self.update))
        while True:
            totals, seconds, frames, good = [0.0] * nets, 0.0, 0, True
            group = [next(batches) for _ in range(t.accumulate)]
            for i, batch in enumerate(group):
                batch = batch.to(self.device)
                targets = make_targets(batch, self.tokenizer)
                targets.check(batch.ids)
                wait = self.world_size > 1 and i + 1 < t.accumulate
                with self.step_module.no_sync() if wait else contextlib.nullcontext():
                    with torch.autocast(self.device.type, PRECISIONS[t.precision], enabled=t.precision != "fp32"):
                        loss, losses = self.step_module(batch.features, targets, subnets, weights, self.update)
                    if not self.all_finite(loss):
                        good = False
                        break
                    # DDP takes the mean over ranks; times their number, it is the gradient of the whole batch.
                    self.scaler.scale(loss * self.world_size).backward()
                totals = [a + float(b) for a, b in zip(totals, losses)]
                seconds += batch.seconds
                frames += int(targets.frames.sum())
            if good and self.optimizer_step():
                self.bad_in_row = 0
                *totals, seconds, frames = sum_over_ranks([*totals, seconds, frames], self.device)
                return totals, seconds, int(frames)
            self.skip_bad(group)

    def all_finite(self, loss: torch.Tensor) -> bool:
        """Whether the loss is finite on every rank."""
        return sum_over_ranks([float(not torch.isfinite(loss))], self.device)[0] == 0

    def optimizer_step(self) -> bool:
        """Clip-free check of the gradients, learning rate, step. False: a gradient is not finite, nothing was changed."""
        t = self.config.train
        self.scaler.unscale_(self.optimizer)
        if self.selector is not None and not self.selector.learns(self.update):
            for scores in self.selector.parameters():
                scores.grad = None  # what stands there is the zero that DDP wants
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), math.inf)
        finite = bool(torch.isfinite(norm))
        if finite or self.scaler.is_enabled():  # fp16: the scaler itself skips the step and lowers its scale
            epoch = self.epoch + (self.batch_in_epoch / self.batches_per_epoch if self.batches_per_epoch else 0.0)
            factor = eden(self.update, epoch, t.lr_batches, t.lr_epochs, t.lr_warmup)
            for group in self.optimizer.param_groups:
                group["lr"] = t.lr * group["lr_scale"] * factor
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if finite:
            self.update += 1
            if self.selector is not None and self.selector.after_update(self.update):
                logging.info("update %d: the masks are frozen: %s", self.update,
                             "; ".join(f"{text}: {net}" for text, net in self.selector.subnets().items()))
        return finite

    def skip_bad(self, group: list[Batch]) -> None:
        """Count and keep a batch whose loss or gradient is not finite; stop after too many in a row."""
        self.optimizer.zero_grad(set_to_none=True)
        self.bad_in_row, self.bad_total = self.bad_in_row + 1, self.bad_total + 1
        folder = self.config.exp_dir / "bad-batches"
        path = folder / f"update-{self.update}-rank-{self.rank}-{self.bad_total}.pt"
        with atomic_path(path) as temporary:
            torch.save([{"ids": b.ids, "texts": b.texts, "features": b.features, "lengths": b.lengths} for b in group], temporary)
        logging.warning("update %d: loss or gradient is not finite; skipped the batch, kept in %s", self.update, path)
        if self.bad_in_row >= self.config.train.max_bad_batches:
            raise StageError(f"{self.bad_in_row} batches in a row gave a loss or gradient that is not finite (kept in {folder}). "
                             "Lower train.lr, or use train.precision=bf16 or fp32")

    # ---- around the loop

    def watched(self) -> list[Subnet]:
        """The largest, a middle and the smallest net: of the search space, or those that the learned scores would choose now."""
        if self.selector is not None:
            nets = self.selector.distinct_nets()
            return [nets[0], nets[len(nets) // 2], nets[-1]]
        return [self.space.largest, self.space.ladder(3)[1 if not self.space.fixed else 0], self.space.smallest]

    @torch.no_grad()
    def validate(self, writer: SummaryWriter | None) -> None:
        """Loss per frame on dev (transducer; CTC while it trains alone) of the largest, a middle and the smallest net, by rank 0."""
        if self.rank == 0:
            self.model.eval()
            nets = dict(zip(("largest", "middle", "smallest"), self.watched()))
            ctc_alone = Weights.at(self.update, self.config.loss, self.config.distill).ctc_alone
            weights, kind = (Weights(0.0, 0.0, 0.0), "CTC ") if ctc_alone else (Weights(1.0, 1.0, 0.0), "")
            sums, frames = [0.0] * 3, 0
            for i, batch in enumerate(eval_loader(self.config, self.config.data.dev, self.config.data.max_duration)):
                if 0 < self.config.train.valid_batches <= i:
                    break
                targets = make_targets(batch, self.tokenizer)
                keep = ((targets.lengths > 0) & (targets.lengths <= targets.frames)).nonzero()[:, 0].tolist()
                if not keep:
                    continue
                batch = batch.subset(keep).to(self.device)
                targets = make_targets(batch, self.tokenizer)
                _, losses = self.loss(batch.features, targets, [nets["middle"], nets["smallest"]], weights)
                sums = [a + float(b) for a, b in zip(sums, losses)]
                frames += int(targets.frames.sum())
            values = {name: total / max(frames, 1) for name, total in zip(nets, sums)}
            logging.info("update %d: dev %sloss per frame %s", self.update, kind, ", ".join(f"{k} {v:.3f}" for k, v in values.items()))
            for name, value in values.items():
                writer.add_scalar(f"dev {kind}loss per frame/{name}", value, self.update)
            self.model.train()
        if dist.is_initialized():
            dist.barrier()

    def log(self, writer: SummaryWriter | None, window: Window) -> None:
        if writer is None:
            return
        logging.debug("update %d: %s", self.update, window.summary())
        values = {"train loss per frame/largest": window.largest, "train loss per frame/smallest": window.smallest,
                  "learning rate": self.optimizer.param_groups[0]["lr"], "hours of audio per second": window.speed,
                  "epoch": self.epoch, "bad batches": self.bad_total}
        for name, value in values.items():
            writer.add_scalar(name, value, self.update)
        if self.selector is not None and not self.selector.frozen:
            append_scores(self.config.exp_dir, self.update, self.selector)

    def scan_largest_batches(self) -> None:
        """Forward and backward of the largest batch of every bucket, so that memory runs out now or never (GPU only)."""
        if self.device.type != "cuda" or not self.config.train.scan_batches or self.update:
            return
        from lhotse.dataset import find_pessimistic_batches

        found, _ = find_pessimistic_batches(self.batches.inner)
        self.batches.start(self.epoch, 0)
        for criterion, cuts in found.items():
            batch = self.loader.dataset[cuts].to(self.device)
            try:
                self.try_largest_steps(batch)
            except torch.cuda.OutOfMemoryError as error:
                raise StageError(f"the GPU's memory does not hold the batch with the largest {criterion} ({batch.seconds:.0f} s of audio "
                                 f"in {len(batch.ids)} utterances); lower data.max_duration") from error
        logging.info("the largest batches fit: %.1f GiB at the peak", torch.cuda.max_memory_allocated(self.device) / 2**30)

    def try_largest_steps(self, batch: Batch) -> list[int]:
        """Forward and backward of the largest steps there can be: every subnet as large as the largest; in learned selection also the gated net.

        Returns:
          How many nets ran in each.
        """
        m, precision = self.config.method, self.config.train.precision
        weights = Weights(0.0, 0.0, 1.0) if self.config.loss.objective == "ctc" else Weights(1.0, 1.0, 1.0)
        steps: list[tuple[list[Subnet], int | None]] = [([self.space.largest] * (m.subnets_per_step + m.smallest), None)]
        if self.selector is not None:
            steps.append(([], self.selector.first))
        counts = []
        for subnets, update in steps:
            with torch.autocast(self.device.type, PRECISIONS[precision], enabled=precision != "fp32"):
                loss, losses = self.loss(batch.features, make_targets(batch, self.tokenizer), subnets, weights, update)
            loss.backward()
            self.optimizer.zero_grad(set_to_none=True)
            counts.append(len(losses))
        return counts
