"""The workloads of training: the encoder's step, a whole update, its memory, the optimiser and the
loader of data. Features are noise, and no data is needed but by the loader."""

from functools import lru_cache
from itertools import islice
from typing import Any

import torch

from todm.benchmark import adapter
from todm.benchmark.clock import MIB, Measured, MemoryPeak, Missing, Stopwatch
from todm.benchmark.settings import Settings

TOKENS_PER_SECOND = 7
BINS = 80
FRAMES = 100  # of features in a second
LARGE = 20e6  # weights above which long utterances are measured in half as many
LEARNING_RATE = 1e-6  # a step is timed, not taken far: weights stay those of the start
OPTIMIZER_SECONDS = 0.2  # of steps in a round, of which one takes milliseconds


class Net:
    """The largest net of a conf in training mode, which the workloads of a process share."""

    def __init__(self, settings: Settings):
        torch.set_num_threads(settings.threads)
        torch.manual_seed(1)
        self.device = torch.device(settings.device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise Missing("there is no GPU that torch could use")
        # A CPU without instructions for bf16 would take many times as long.
        precision = ("train.precision=fp32",) if self.device.type == "cpu" else ()
        self.config = adapter.load_conf(settings.conf, (*precision, *settings.overrides))
        self.model = adapter.build_transducer(self.config).to(self.device).train()
        self.weights = sum(p.numel() for p in self.model.parameters())

    def stopwatch(self) -> Stopwatch:
        """A stopwatch for work on the device of the net."""
        return Stopwatch(torch.cuda.synchronize if self.device.type == "cuda" else None)

    def autocast(self) -> torch.autocast:
        """The context of a forward pass, in the precision of the conf."""
        precision = self.config.train.precision
        number_type = adapter.precision_type(self.config)
        return torch.autocast(self.device.type, number_type, enabled=precision != "fp32")

    def noise(self, utterances: int, seconds: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (B, T, 80) of a batch of equally long utterances, and their lengths (B,)."""
        frames = round(seconds * FRAMES)
        features = torch.randn(utterances, frames, BINS, device=self.device)
        return features, torch.full((utterances,), frames, device=self.device)

    def encoder_step(self, features: torch.Tensor, lengths: torch.Tensor) -> None:
        """A forward and backward pass through frontend and encoder."""
        with self.autocast():
            encoded, _ = self.model.encoder(features, lengths)
        encoded.float().square().mean().backward()


@lru_cache(maxsize=1)
def shared_net(settings: Settings) -> Net:
    """The net of this process."""
    return Net(settings)


class EncoderTraining:
    """The time of a forward and backward pass through frontend and encoder.

    Args:
      utterances, seconds: of the batch; of long utterances a large net gets half as many.
    """

    def __init__(self, settings: Settings, utterances: int, seconds: int):
        self.net = shared_net(settings)
        if self.net.weights > LARGE and seconds > 3:
            utterances = max(1, utterances // 2)
        self.batch = self.net.noise(utterances, seconds)
        self.audio_seconds = utterances * seconds

    def warm_up(self) -> None:
        """A pass over the first utterance."""
        features, lengths = self.batch
        self.net.encoder_step(features[:1], lengths[:1])
        self.net.model.zero_grad(set_to_none=True)

    def run(self) -> dict[str, Measured]:
        """A pass over the batch."""
        with self.net.stopwatch() as watch:
            self.net.encoder_step(*self.batch)
        self.net.model.zero_grad(set_to_none=True)
        return {"step": watch.measured(1000 / self.audio_seconds)}


class Update:
    """The time of a whole update, of the largest net alone and of the sandwich, on the same batch.

    Args:
      utterances, seconds: of the batch.
    """

    def __init__(self, settings: Settings, utterances: int, seconds: int):
        self.net = net = shared_net(settings)
        self.loss = adapter.make_supernet_loss(net.config, net.model, net.device)
        self.optimizer = adapter.make_optimizer(net.config, net.model)
        self.sampler = adapter.make_sampler(net.config)
        self.weights = adapter.late_weights(net.config)
        self.update = round(adapter.in_updates(net.config).method.subnets_from)
        self.features, heard = net.noise(utterances, seconds)
        self.audio_seconds = utterances * seconds
        tokens = seconds * TOKENS_PER_SECOND
        vocabulary = net.config.bpe.vocab_size
        frames = adapter.encoder_frames(net.model, self.features.shape[1])
        self.targets = adapter.make_targets(
            symbols=torch.randint(3, vocabulary, (utterances, tokens), device=net.device),
            lengths=torch.full((utterances,), tokens, device=net.device),
            frames=torch.full((utterances,), frames, device=net.device),
            heard=heard,
        )

    def step(self, subnets: list[Any]) -> Stopwatch:
        """Carries out an update with some subnets beside the largest net."""
        with self.net.stopwatch() as watch:
            with self.net.autocast():
                loss, _ = self.loss(self.features, self.targets, subnets, self.weights, self.update)
            loss.backward()
            optimizer_step(self.optimizer)
            self.optimizer.zero_grad(set_to_none=True)
        return watch

    def warm_up(self) -> None:
        """An update of the largest net alone."""
        self.step([])

    def run(self) -> dict[str, Measured]:
        """An update of each kind, with the subnets that training would draw."""
        alone = self.step([])
        together = self.step(self.sampler(self.update))
        self.update += 1
        factor = 1000 / self.audio_seconds
        return {
            "largest": alone.measured(factor),
            "sandwich": together.measured(factor),
            "sandwich / largest": Measured(
                together.seconds / alone.seconds, together.wall / alone.wall
            ),
        }


def optimizer_step(optimizer: Any) -> None:
    """A step that moves the weights by next to nothing."""
    for group in optimizer.param_groups:
        group["lr"] = LEARNING_RATE
    optimizer.step()


class OptimizerStep:
    """The time of a step of the optimiser alone, with gradients that stay."""

    def __init__(self, settings: Settings):
        self.net = shared_net(settings)
        self.optimizer = adapter.make_optimizer(self.net.config, self.net.model)
        self.steps = 1

    def warm_up(self) -> None:
        """Steps that set up the state of the optimiser, and say how many make a round."""
        for parameter in self.net.model.parameters():
            parameter.grad = torch.randn_like(parameter) * 1e-3
        optimizer_step(self.optimizer)
        with self.net.stopwatch() as watch:
            optimizer_step(self.optimizer)
        self.steps = max(1, round(OPTIMIZER_SECONDS / max(watch.seconds, 1e-6)))

    def run(self) -> dict[str, Measured]:
        """A few steps."""
        with self.net.stopwatch() as watch:
            for _ in range(self.steps):
                optimizer_step(self.optimizer)
        return {"step": watch.measured(1000 / self.steps)}

    def close(self) -> None:
        """Takes the gradients away, which other workloads do not expect."""
        self.net.model.zero_grad(set_to_none=True)


class TrainingMemory:
    """The peak of memory in a forward and backward pass, above weights and gradients.

    Args:
      utterances, seconds: of the batch.
    """

    def __init__(self, settings: Settings, utterances: int, seconds: int):
        self.net = shared_net(settings)
        self.batch = self.net.noise(utterances, seconds)

    def run(self) -> dict[str, Measured]:
        """A pass over a second, after which there are gradients, then one over the batch."""
        self.net.encoder_step(*self.net.noise(1, 1))
        if self.net.device.type == "cuda":
            return {"peak": Measured(self._peak_on_gpu())}
        with MemoryPeak() as peak:
            self.net.encoder_step(*self.batch)
        return {"peak": peak.measured()}

    def _peak_on_gpu(self) -> float:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.net.encoder_step(*self.batch)
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MIB


class Loading:
    """The batches that the training loader makes in a second, in the process itself."""

    BATCHES = 20  # of a round, of whatever lengths the sampler draws

    def __init__(self, settings: Settings):
        torch.set_num_threads(settings.threads)
        overrides = *settings.overrides, "data.num_workers=0"
        self.config = adapter.load_conf(settings.conf, overrides)
        self.loader, self.sampler = adapter.make_train_loader(self.config)

    def warm_up(self) -> None:
        """Reads a batch, so that files are open."""
        self._read(1)

    def run(self) -> dict[str, Measured]:
        """Reads the first batches of the first epoch, the same ones in every round."""
        with Stopwatch() as watch:
            count = self._read(self.BATCHES)
        return {"batches": Measured(count / watch.processor, count / watch.wall)}

    def _read(self, most: int) -> int:
        self.sampler.start(0, 0)
        count = sum(1 for _ in islice(iter(self.loader), most))
        if not count:
            raise Missing("the training set gives no batch")
        return count
