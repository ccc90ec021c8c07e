"""Starts a training from the weights of another one: what fits is taken, what does not is named."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from todm.model.transducer import Transducer
from todm.results.export_files import MODEL
from todm.supernet.exported import load_model
from todm.training.experiment import load_experiment
from utils.checkpoint import CheckpointError
from utils.errors import UserError
from utils.tokens import Tokenizer

# These are measured on the new train set, and not learnt.
STATISTICS = ("encoder.frontend.mean", "encoder.frontend.std")


@dataclass
class Taken:
    """The values of a model that came from another one, and those that did not.

    Attributes:
      whole, missing: names of values that were taken, and of those that the other model lacks or
        has in another shape.
      tokens: how many of the tokens the other model knows, too; only they were taken of the values
        that have a row for each.
      of: the number of tokens.
    """

    whole: list[str]
    missing: list[str]
    tokens: int
    of: int


def start_from(folder: Path, model: Transducer, tokenizer: Tokenizer) -> None:
    """Gives a new model the weights of a trained one, and logs which.

    Args:
      folder: of an experiment, or of an exported model.
    Raises:
      UserError: there is no model in it, or nothing of its blocks fits.
    """
    values, their_tokenizer, words = trained_values(folder)
    taken = take(model, tokenizer, values, their_tokenizer)
    if not any(name.startswith("encoder.blocks") for name in taken.whole):
        raise UserError(
            f"train.init={folder}: no block of that model's encoder fits this conf's; model.dim, "
            "model.ssm_dim, model.heads, model.modes and model.ffn_dim must be the same"
        )
    logging.info(
        "starting from %s (%s): %d of %d values, %d of %d tokens",
        folder,
        words,
        len(taken.whole),
        len(taken.whole) + len(taken.missing),
        taken.tokens,
        taken.of,
    )
    if taken.missing:
        logging.warning(
            "train.init: %s begin untrained, because the other model lacks them or has them in "
            "another shape",
            ", ".join(modules(taken.missing)),
        )


def freeze(model: Transducer, modules_to_freeze: list[str], ctc_alone: bool) -> None:
    """Makes the weights of some modules stay what they are.

    Args:
      modules_to_freeze: their names, as ``encoder.blocks.0``; a module's parts go with it.
      ctc_alone: whether CTC trains alone at any time.
    Raises:
      UserError: there is no such module, or nothing is left to train, at any time.
    """
    parameters = dict(model.named_parameters())
    for module in modules_to_freeze:
        frozen = [name for name in parameters if f"{name}.".startswith(f"{module}.")]
        if not frozen:
            known = modules([name for name in parameters if "blocks" not in name])
            blocks = len(model.full.blocks)
            raise UserError(
                f"train.freeze: the model has no {module!r}; it has {', '.join(known)}, "
                f"encoder.blocks.0 to encoder.blocks.{blocks - 1}, and their parts"
            )
        for name in frozen:
            parameters[name].requires_grad_(False)
    # CTC, which may train alone, has no more than these
    of_ctc = [p for name, p in parameters.items() if name.startswith(("encoder.", "heads.ctc."))]
    if all(not p.requires_grad for p in parameters.values()):
        raise UserError("train.freeze leaves nothing to train")
    if ctc_alone and all(not p.requires_grad for p in of_ctc):
        raise UserError(
            "train.freeze leaves nothing to train while CTC trains alone; loss.ctc_first=0 begins "
            "with the transducer"
        )
    if modules_to_freeze:
        count = sum(p.numel() for p in parameters.values() if not p.requires_grad)
        logging.info("frozen: %s, %d weights", ", ".join(modules_to_freeze), count)


def trained_values(folder: Path) -> tuple[dict[str, Tensor], Tokenizer, str]:
    """The values of a trained model, its tokenizer, and which weights they are, in words.

    Raises:
      UserError: there is no model in the folder.
    """
    cpu = torch.device("cpu")
    if (folder / MODEL).is_file():
        _, model, tokenizer, _ = load_model(folder, cpu)
        return model.state_dict(), tokenizer, "exported"
    try:
        other = load_experiment(folder, None, None, cpu)
    except CheckpointError as error:
        raise UserError(f"train.init={folder}: {error}") from error
    return other.model.state_dict(), other.tokenizer, other.weights


def take(
    model: Transducer, tokenizer: Tokenizer, values: dict[str, Tensor], theirs: Tokenizer
) -> Taken:
    """Copies into a model what fits of another one's values.

    A value with a row for every token takes the rows of the tokens that both have, by their text.
    """
    of_token = {symbol: i for i, symbol in enumerate(theirs.symbols)}
    shared = [(i, of_token[s]) for i, s in enumerate(tokenizer.symbols) if s in of_token]
    here, there = torch.tensor(shared).T
    taken = Taken([], [], len(shared), tokenizer.vocab_size)
    per_token = token_values(model)
    for name, value in model.state_dict().items():
        if name in STATISTICS:
            continue
        other = values.get(name)
        rows = name in per_token
        if other is None or other.shape[rows:] != value.shape[rows:]:
            taken.missing.append(name)
            continue
        if rows:
            value[here] = other[there].to(value.dtype)
        else:
            value.copy_(other)
        taken.whole.append(name)
    return taken


def token_values(model: Transducer) -> set[str]:
    """The names of the values that have a row for every token."""
    layers = {"predictor.embedding", "joiner.output"}
    layers |= {f"heads.{name}" for name in ("simple_am", "simple_lm", "ctc")}
    return {name for name in model.state_dict() if name.rpartition(".")[0] in layers}


def modules(names: list[str]) -> list[str]:
    """The modules that values belong to, each once: ``encoder.blocks.7``, ``heads.ctc``."""
    return list(
        dict.fromkeys(".".join(name.split(".")[: 3 if "blocks" in name else 2]) for name in names)
    )
