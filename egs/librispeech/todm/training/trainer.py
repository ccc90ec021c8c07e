"""The training loop: one for the supernet, for individually trained models and for every
ablation."""

import logging
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from todm.config.keys import Config
from todm.config.phases import in_updates
from todm.data.batches import Batch
from todm.data.loaders import statistics_path
from todm.model.transducer import Transducer
from todm.recipe.lineage import training_data
from todm.subnet import Subnet
from todm.supernet.search_space import SearchSpace
from todm.training import experiment, optimization
from todm.training.bad_batches import ADVICE, BadBatches, require_finite
from todm.training.batch_stream import BatchStream
from todm.training.initial import freeze, start_from
from todm.training.memory_check import check_memory
from todm.training.step_nets import make_step_nets
from todm.training.step_sums import StepSums, UpdateSums
from todm.training.supernet_loss import SupernetLoss, Weights, make_targets, make_transducer_loss
from todm.training.validation import dev_losses
from utils.checkpoint import RunningAverage, checkpoint_path, save_checkpoint
from utils.distributed import barrier, gather_over_ranks, sum_over_ranks
from utils.errors import UserError
from utils.files import read_json
from utils.interrupts import SIGNALS, Stopped, StopRequest, gentle_stops
from utils.progress import progress
from utils.tokens import Tokenizer


class Trainer:
    """A training: its loop, and everything it needs.

    Args:
      rank, world_size: of this process; every rank draws its own batches and its own subnets.
      planned: the updates that the shares in the conf are of, where the training began with another
        number; None: ``train.updates``.
    Attributes:
      config: the conf with its phases in updates. given: as the user gave it, for checkpoints.
    """

    def __init__(
        self,
        config: Config,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        planned: int | None = None,
    ):
        self.planned = planned or config.train.updates
        self.given, config = config, in_updates(config, self.planned)
        self.config, self.device, self.rank, self.world_size = config, device, rank, world_size
        t = config.train
        experiment.set_seeds(t.seed)  # the same weights on every rank
        self.data = training_data(config)
        self.tokenizer = Tokenizer(config.lang_dir / "bpe.model")
        self.space = SearchSpace(config, self.tokenizer.vocab_size)
        self.nets = make_step_nets(self.space, rank)
        self.model = Transducer(config, self.tokenizer.vocab_size)
        self.model.encoder.frontend.set_statistics(**read_json(statistics_path(config)))
        freeze(self.model, t.freeze, self.model.is_ctc or config.loss.ctc_first > 0)
        if t.freeze and not t.init and rank == 0:
            logging.warning("train.freeze without train.init keeps random weights")
        transducer_loss = make_transducer_loss(config.loss, config.loss.backend, device)
        self.loss = SupernetLoss(self.model, config, transducer_loss, self.nets.selector).to(device)
        self.parallel: DistributedDataParallel | None = None
        if world_size > 1:
            # The largest net runs in every step on every rank, so every parameter has a gradient.
            devices = [device] if device.type == "cuda" else None
            self.parallel = DistributedDataParallel(self.loss, device_ids=devices)
        self.optimizer = optimization.make_optimizer(config, self.model, self.nets.selector)
        self.scaler = optimization.make_scaler(device, enabled=t.precision == "fp16")
        self.average = RunningAverage(self.model)
        self.stream = BatchStream(config, rank, world_size, device)
        self.bad_batches = BadBatches(config, rank)
        self.update = 0
        self.hours = self.seconds = 0.0
        self.stop_request = StopRequest()  # of this process; run() listens
        self.stop: int | None = None  # the signal that some rank has got, as all ranks have agreed
        # The update of the interrupt's checkpoint that this training goes on from.
        self.stopped_at: int | None = None
        experiment.set_seeds(t.seed + rank)  # dropout and augmentation differ between ranks

    # ---- state

    def state(self) -> dict:
        """The checkpoint, with all that a resumed run needs; every rank must ask for it at once,
        because the generators of all ranks are in it."""
        unplanned = self.update % self.config.train.save_every > 0 and not self.done
        return {
            **experiment.describe(self.given, self.tokenizer, self.stream.sampler.longest),
            **self.stream.state(),
            "update": self.update,
            "planned": self.planned,
            "hours": self.hours,
            "seconds": self.seconds,
            "bad_total": self.bad_batches.total,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": gather_over_ranks(experiment.rng_state()),
            "data": self.data,
            **self.nets.state(),
            "stopped": self.stop is not None and unplanned,
        }

    def load(self, state: dict) -> None:
        """The inverse of :meth:`state`, also of a checkpoint of an older version."""
        state = experiment.in_present_form(state)
        self.update, self.hours, self.seconds = state["update"], state["hours"], state["seconds"]
        self.bad_batches.total = state["bad_total"]
        self.stopped_at = self.update if state.get("stopped") else None
        self.stream.load(state)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        # Empty where the precision was another one: fp16 then begins as in a new training.
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.nets.load(state)

    def save(self) -> None:
        """Write a checkpoint, in place of the interrupt's that this training went on from.

        Raises:
          UserError: the weights, or what else is learnt, are not finite.
        """
        state, t = self.state(), self.config.train
        require_finite(state, self.update)
        folder = experiment.checkpoint_folder(self.config.exp_dir)
        if self.rank == 0:
            save_checkpoint(folder, self.update, state, t.keep_last, t.save_every)
            if self.stopped_at not in (None, self.update):
                checkpoint_path(folder, self.stopped_at).unlink(missing_ok=True)
        self.stopped_at = self.update if state["stopped"] else None

    def start_from(self, folder: Path) -> None:
        """Begin with the weights of another training, as far as they fit
        (:func:`todm.training.initial.start_from`)."""
        start_from(folder, self.model, self.tokenizer)
        self.average = RunningAverage(self.model)

    @property
    def done(self) -> bool:
        """True when all updates have been made."""
        return self.update >= self.config.train.updates

    # ---- the loop

    def run(self) -> None:
        """Train until ``train.updates``; saves on the way and at the end.

        Raises:
          Stopped: some rank has got a signal; the update it was in was finished and saved. A second
          signal ends all at once.
        """
        t = self.config.train
        if self.device.type == "cuda" and t.scan_batches and self.update == 0:
            check_memory(self.loss, self.stream, self.tokenizer, self.nets.largest_steps())
        writer = SummaryWriter(self.config.exp_dir / "tensorboard") if self.rank == 0 else None
        shown = {"total": t.updates, "initial": self.update, "disable": self.rank > 0}
        bar = progress(desc="train", unit="update", **shown)
        try:
            with gentle_stops() as self.stop_request:
                self.loop(writer, bar)
        finally:
            bar.close()
            if writer:
                writer.close()
        done = f"{self.update} updates, {self.hours:.1f} h of audio, {self.seconds:.0f} s"
        bad = f"{self.bad_batches.total} bad batches skipped"
        folder = experiment.checkpoint_folder(self.config.exp_dir)
        logging.info("trained %s, %s; checkpoints in %s", done, bad, folder)

    def loop(self, writer: SummaryWriter | None, bar: tqdm) -> None:
        """Make updates, and do what is due between them."""
        t, batches, window = self.config.train, iter(self.stream), optimization.Window()
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
                window = optimization.Window()
            saved = self.update % t.save_every == 0 or self.done or self.stop is not None
            if saved:
                self.save()  # before validation: where dev can not be read, nothing is lost
            if (self.update % t.valid_every == 0 or self.done) and self.stop is None:
                self.validate(writer)
            if self.stop is not None:
                if not saved:
                    self.save()
                # A launcher ends the others when one has ended, and the first may still be writing.
                barrier()
                logging.info("stopped; saved at update %d", self.update)
                raise Stopped(self.stop)

    def train_update(self, batches: Iterator[Batch]) -> tuple[list[float], float, int]:
        """One optimiser step from ``train.accumulate`` batches; bad ones are replaced by the next.

        Returns:
          Transducer loss of every net summed over all ranks, seconds of audio and encoder frames.
        Raises:
          UserError: too many batches in a row were bad, in fp16 gradients overflow at every scale,
            or the weights are not finite any more.
        """
        subnets = self.nets.subnets(self.update)
        weights = Weights.at(self.update, self.config.loss, self.config.distill)
        while True:
            group = [next(batches) for _ in range(self.config.train.accumulate)]
            sums = self.read(self.backward(group, subnets, weights))
            if sums.finite:
                self.optimizer_step()
                self.bad_batches.in_row = 0
                return sums.losses, sums.seconds, sums.frames
            self.optimizer.zero_grad(set_to_none=True)
            require_finite({"model": self.model.state_dict()}, self.update)
            # In fp16 a gradient that is not finite means too large a scale, and no bad batch.
            if self.scaler.is_enabled() and not sums.bad_losses:
                optimization.lower_scale(self.scaler, self.update)
            else:
                self.scaler.update(self.scaler.get_scale())  # the same: it forgets the gradients
                self.bad_batches.keep(self.update, group)

    def backward(self, group: list[Batch], subnets: list[Subnet], weights: Weights) -> StepSums:
        """The gradient of the loss over a group of batches; it ends with a batch whose loss is not
        finite on some rank.

        Returns:
          This rank's sums over the group.
        """
        sums: StepSums | None = None
        step = self.parallel or self.loss
        dtype = optimization.PRECISIONS[self.config.train.precision]
        for i, batch in enumerate(group):
            if sums is not None and not self.all_finite(sums.values[0]):
                return sums
            # What is checked and counted is read on the host, before it is copied.
            targets = make_targets(batch, self.tokenizer, self.config.model.tail_frames)
            targets.check(batch.ids)
            features, targets = batch.to(self.device).features, targets.to(self.device)
            wait = self.parallel.no_sync if self.parallel and i + 1 < len(group) else nullcontext
            with wait():
                with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                    loss, losses = step(features, targets, subnets, weights, self.update)
                # DDP takes the mean over ranks; times their number, it is the gradient of the
                # whole batch.
                self.scaler.scale(loss * self.world_size).backward()
            frames = int(targets.host.frames.sum())
            of_batch = StepSums.of_batch(loss, losses, batch.seconds, frames)
            sums = of_batch if sums is None else sums + of_batch
        assert sums is not None, "a group has at least one batch"
        return sums

    def read(self, sums: StepSums) -> UpdateSums:
        """The sums over all ranks, which so agree on whether loss and gradients are finite and
        whether any rank was asked to stop.  fp16's gradients are unscaled."""
        self.scaler.unscale_(self.optimizer)
        self.nets.before_step(self.update)
        gradients = [p.grad for p in self.loss.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        return UpdateSums.of_ranks(self.sum_and_agree(sums.read(norm)))

    def sum_and_agree(self, values: list[float]) -> list[float]:
        """Sum values over all ranks, which so agree, too, on whether any of them was asked to stop
        (``self.stop``)."""
        asked = [float(self.stop_request.signal == number) for number in SIGNALS]
        sums = sum_over_ranks([*values, *asked], self.device)
        self.stop = next(
            (int(number) for number, count in zip(SIGNALS, sums[len(values) :]) if count), None
        )
        return sums[: len(values)]

    def all_finite(self, loss: torch.Tensor) -> bool:
        """Tells whether the loss is finite on every rank."""
        return sum_over_ranks([float(not torch.isfinite(loss))], self.device)[0] == 0

    def optimizer_step(self) -> None:
        """Set the learning rate, and step with gradients that are finite."""
        optimization.set_learning_rate(self.optimizer, self.config, self.update, self.stream.passes)
        try:
            self.scaler.step(self.optimizer)
        except FloatingPointError as error:  # from ScaledAdam, whose norms are weighted
            raise UserError(f"update {self.update}: {error}. {ADVICE}") from error
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.update += 1
        optimization.grow_scale(self.scaler, self.update)
        self.nets.after_update(self.update)

    def validate(self, writer: SummaryWriter | None) -> None:
        """The losses of the watched nets on dev, by rank 0; the other ranks wait for it."""
        if self.rank == 0:
            nets = self.nets.watched()
            values = dev_losses(self.loss, self.tokenizer, nets, self.update, self.stop_request)
            self.write(writer, values)
        self.sum_and_agree([])

    def log(self, writer: SummaryWriter | None, window: optimization.Window) -> None:
        """Losses, speed and state of the updates of a window, by rank 0."""
        if self.rank > 0:
            return
        logging.debug("update %d: %s", self.update, window.summary())
        values = window.scalars() | {
            "learning rate": self.optimizer.param_groups[0]["lr"],
            "epoch": self.stream.epoch,
            "bad batches": self.bad_batches.total,
        }
        if self.scaler.is_enabled():
            values["fp16 gradient scale"] = self.scaler.get_scale()
        self.write(writer, values)
        self.nets.log(self.config.exp_dir, self.update)

    def write(self, writer: SummaryWriter | None, values: dict[str, float]) -> None:
        """Add values to TensorBoard's curves, by their names."""
        for name, value in values.items():
            assert writer is not None, "the first rank alone writes, and has a writer"
            writer.add_scalar(name, value, self.update)
