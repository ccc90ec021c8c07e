"""The stand-alone model in an exported folder: written by stage 10, loaded without the supernet."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from todm.config.keys import Config
from todm.model.transducer import Transducer, require_no_larger
from todm.results.export_files import BPE, CONF, FACTS, MODEL, TOKENS, VOCABULARY, require
from todm.results.export_results import ExportFacts
from todm.results.subnets import SubnetEntry
from todm.supernet.extract import extracted_config
from utils import conf as configuration
from utils.errors import ConfigError, UserError
from utils.files import atomic_path, write_text_atomic
from utils.text import first_line
from utils.tokens import Tokenizer


def write_model(
    folder: Path,
    model: Transducer,
    config: Config,
    tokenizer: Tokenizer,
    chunk_frames: int,
    entry: SubnetEntry,
    longest_seconds: float | None = None,
) -> None:
    """Writes the weights, conf, BPE model, tokens, vocabulary and facts of an extracted model.

    Args:
      config: the conf that the supernet was trained with.
      chunk_frames: filterbank frames that a stream advances at a time.
      entry: the subnet as subnets.json has it.
      longest_seconds: of speech that the net has learnt to recognise at once; None: not known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = replace(
        extracted_config(config, entry.subnet),
        export=replace(config.export, chunk_frames=chunk_frames),
        # one net has nothing to learn a selection from
        select=replace(config.select, method="uniform"),
    )
    with atomic_path(folder / MODEL) as temporary:
        metadata = {"format": "pt", "architecture": str(entry.subnet.packed())}
        save_file(model.state_dict(), temporary, metadata=metadata)
    configuration.save(config, folder / CONF)
    with atomic_path(folder / BPE) as temporary:
        temporary.write_bytes(tokenizer.proto)
    write_text_atomic(
        folder / TOKENS, "".join(f"{symbol} {i}\n" for i, symbol in enumerate(tokenizer.symbols))
    )
    write_text_atomic(
        folder / VOCABULARY,
        "".join(f"{s}\t{x}\n" for s, x in zip(tokenizer.symbols, tokenizer.scores)),
    )
    ExportFacts(entry, longest_seconds).write(folder)


def load_model(
    folder: Path, device: torch.device
) -> tuple[Config, Transducer, Tokenizer, ExportFacts]:
    """The model of an exported folder, with its conf, tokenizer and facts.

    Raises:
      UserError: a file is missing or damaged, or the weights are not of the conf's model.
    """
    require(folder, [MODEL, CONF, BPE, FACTS])
    config = load_conf(folder)
    try:
        tokenizer = Tokenizer(folder / BPE)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{folder / BPE} is damaged: {first_line(error)}; export it again"
        ) from error
    facts = ExportFacts.read(folder)
    try:
        weights = load_file(folder / MODEL)
        require_no_larger(config, tokenizer.vocab_size, weights, training_heads=False)
        model = Transducer(config, tokenizer.vocab_size, training_heads=False)
        model.load_state_dict(weights)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{folder / MODEL} is damaged: {first_line(error)}; export it again"
        ) from error
    except (RuntimeError, ValueError, ArithmeticError) as error:
        raise UserError(
            f"{folder / MODEL} does not hold the model of {folder / CONF}: {first_line(error)}"
        ) from error
    return config, model.to(device).eval(), tokenizer, facts


def load_conf(folder: Path) -> Config:
    """The conf of an exported model.

    Raises:
      UserError: it is damaged, or not a conf of this recipe.
    """
    try:
        return configuration.read_saved(Config, folder / CONF)
    except ConfigError as error:
        raise UserError(f"{error}; export it again") from error
