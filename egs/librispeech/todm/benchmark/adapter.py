"""The names of the recipe that the benchmark uses, in whatever revision this process runs: today's
are tried first, then older ones.

The benchmark can be asked to run a revision from before it existed, down to the one whose modules
all lay in ``egs/librispeech/todm``. Nothing else in a worker process touches the recipe's code.
Models, configurations and optimisers are therefore of type Any here.
"""

import importlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from todm.benchmark.clock import Missing

LATE = 10**9  # an update after every warm-up
FLAT = "egs.librispeech.todm."  # in front of the modules of the oldest revisions


def find(name: str, *modules: str) -> Any:
    """The first of some modules that has a name.

    Raises:
      Missing: none has it.
    """
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            # of the module itself, not of something that it imports
            if error.name is None or not (f"{module}.").startswith(f"{error.name}."):
                raise
        except AttributeError:
            continue
    raise Missing(f"this revision has no {name} in {' or '.join(modules)}")


def load_conf(path: str, overrides: tuple[str, ...]) -> Any:
    """The configuration of a conf.

    Raises:
      Missing: the revision has no such file.
    """
    if not Path(path).is_file():
        raise Missing(f"this revision has no conf {Path(path).name}")
    load = find("load", "todm.config.load", f"{FLAT}config")
    return load(path, list(overrides))


def build_transducer(config: Any) -> Any:
    """The largest net of a configuration, with random weights."""
    transducer = find("Transducer", "todm.model.transducer", f"{FLAT}transducer")
    return transducer(config, config.bpe.vocab_size)


def make_optimizer(config: Any, model: Any) -> Any:
    """The optimiser of a model, as training makes it."""
    make = find("make_optimizer", "todm.training.optimization", f"{FLAT}optimization")
    return make(config, model)


def make_supernet_loss(config: Any, model: Any, device: torch.device) -> Any:
    """The loss of a batch, largest net and subnets, as training makes it."""
    modules = "todm.training.supernet_loss", f"{FLAT}supernet_loss"
    try:
        make = find("make_transducer_loss", *modules)
    except Missing:
        transducer_loss = _old_transducer_loss(config.loss, device)
    else:
        transducer_loss = make(config.loss, config.loss.backend, device)
    return find("SupernetLoss", *modules)(model, config, transducer_loss)


def _old_transducer_loss(loss: Any, device: torch.device) -> Any:
    """The transducer loss of revisions that knew the regular lattice alone."""
    module = "utils.transducer_loss"
    backend = find("choose_backend", module)(loss.backend, device)
    return find("TransducerLoss", module)(backend, loss.prune_range, loss.lm_scale, loss.am_scale)


def late_weights(config: Any) -> Any:
    """The weights of the parts of the loss late in a training, when all of them count."""
    weights = find("Weights", "todm.training.supernet_loss", f"{FLAT}supernet_loss")
    config = in_updates(config)
    return weights.at(LATE, config.loss, config.distill)


def in_updates(config: Any) -> Any:
    """The configuration with its phases in updates; older revisions have them in no other way."""
    try:
        return find("in_updates", "todm.config.phases")(config)
    except Missing:
        return config


def make_targets(**values: Any) -> Any:
    """The transcripts of a batch; values that a revision does not know are left out.

    Args:
      values: ``symbols`` (B, S), ``lengths``, ``frames`` and ``heard`` (B,).
    """
    targets = find("Targets", "utils.pruned_rnnt", "utils.transducer_loss")
    known = {field.name for field in fields(targets)}
    return targets(**{name: value for name, value in values.items() if name in known})


def make_sampler(config: Any) -> Any:
    """The sandwich's sampler of subnets, called with the number of an update."""
    places = "todm.supernet.search_space", f"{FLAT}search_space"
    space = find("SearchSpace", *places)(config, config.bpe.vocab_size)
    return find("SubnetSampler", "todm.supernet.sandwich", *places)(space, 1)


def encoder_frames(model: Any, frames: int) -> int:
    """The encoder frames of so many filterbank frames."""
    frontend = model.encoder.frontend
    if hasattr(frontend, "length"):
        return frontend.length(frames)
    return find("subsampled_length", f"{FLAT}frontend")(frames)


def precision_type(config: Any) -> torch.dtype:
    """The type of numbers that a training computes in."""
    precisions = find("PRECISIONS", "todm.training.optimization", f"{FLAT}optimization")
    return precisions[config.train.precision]


def make_train_loader(config: Any) -> tuple[Any, Any]:
    """The loader of a training and its sampler.

    Raises:
      Missing: the data have not been made.
    """
    splits = getattr(config, "train_splits", config.data.train)
    wanted = [config.data_dir / "cuts" / f"{split}.jsonl.gz" for split in splits]
    for path in wanted:
        if not path.is_file():
            raise Missing(f"there is no {path}, which stages 0 to 3 make")
    modules = "todm.data.loaders", "todm.data.batches", f"{FLAT}data"
    loader = find("train_loader", *modules)
    return loader(config, 0, 1)


def export_encoder(model: Any, mode: str, path: Path, chunk_frames: int) -> None:
    """Writes the graph of an encoder.

    Args:
      mode: ``offline`` or ``streaming``. chunk_frames: of a stream, in filterbank frames.
    """
    modules = "todm.deploy.onnx_export", f"{FLAT}onnx_export"
    if mode == "offline":
        find("export_offline_encoder", *modules)(model, path, comment="benchmark")
    else:
        find("export_streaming_encoder", *modules)(model, path, chunk_frames, comment="benchmark")


def quantize(source: Path, target: Path) -> None:
    """Writes the int8 form of a graph."""
    find("quantize", "todm.deploy.quantize", f"{FLAT}quantize")(source, target)


def describe_machine() -> dict[str, Any]:
    """The facts about machine, versions and command that stand beside results."""
    return find("provenance", "utils.provenance")()
