"""Stage 3, BPE: trains SentencePiece on the train transcripts, writes tokens.txt, and drops what
has too few frames for its tokens."""

import io
import logging
import re
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import sentencepiece
from lhotse import CutSet, MonoCut

from local.dropped import Dropped, report, write_dropped
from todm.config.keys import BpeConfig, Config
from todm.data.frames import FRAMES_PER_SECOND
from todm.model.frontend import subsampled_length
from todm.recipe.stage_main import stage_main
from utils import channels  # noqa: F401, so that lhotse knows the mean of channels in manifests
from utils.errors import UserError
from utils.files import atomic_path, read_json, write_json_atomic, write_text_atomic
from utils.tokens import SPECIAL, UNK, Tokenizer

RESERVED = "\u2585"  # SentencePiece's own sign for what it does not know


def train_bpe(texts: list[str], config: BpeConfig, lang: Path) -> Tokenizer:
    """Trains SentencePiece with icefall's ids: <blk> 0, <sos/eos> 1, <unk> 2, and writes bpe.model,
    tokens.txt and transcript.txt.

    Texts are taken as they are: stage 1 has normalised them.  Where they do not allow as many
    pieces as ``bpe.vocab_size``, there are as many as they allow, with a warning.

    Raises:
      UserError: the vocabulary has not even room for every character.
    """
    write_text_atomic(lang / "transcript.txt", "\n".join(texts) + "\n")
    config = with_room_for_characters(texts, config)
    try:
        model = sentencepiece_model(texts, config, hard_vocab_limit=True)
    except (RuntimeError, OSError) as first:
        try:
            model = sentencepiece_model(texts, config, hard_vocab_limit=False)
        except (RuntimeError, OSError) as error:
            limit = re.search(r"(?:<=|at least|least|\d vs) (\d+)", str(error))
            hint = f" (SentencePiece's bound is {limit.group(1)})" if limit else ""
            raise UserError(
                f"bpe.vocab_size={config.vocab_size} does not fit the {len(texts)} train "
                f"transcripts{hint}; change it. "
                f"SentencePiece said: {error}"
            ) from first
        logging.warning(
            "bpe.vocab_size=%d is more than the %d train transcripts allow: SentencePiece has "
            "made %d tokens, and the model will "
            "have as many",
            config.vocab_size,
            len(texts),
            Tokenizer(model).vocab_size,
        )
    with atomic_path(lang / "bpe.model") as path:
        path.write_bytes(model)
    tokenizer = Tokenizer(model)
    write_text_atomic(
        lang / "tokens.txt", "".join(f"{s} {i}\n" for i, s in enumerate(tokenizer.symbols))
    )
    return tokenizer


def with_room_for_characters(texts: list[str], config: BpeConfig) -> BpeConfig:
    """The configuration, or where ``bpe.vocab_size`` has no room for every character of train one
    that makes each of them a token, as is usual for Chinese."""
    characters = {c for text in texts for c in text if not c.isspace()}
    needed = len(characters) + len(SPECIAL) + 1  # and the sign of a word's beginning
    if needed <= config.vocab_size:
        return config
    logging.warning(
        "train has %d different characters, more than bpe.vocab_size=%d has room for: every "
        "character becomes a token (as bpe.model_type=char, bpe.vocab_size=%d)",
        len(characters),
        config.vocab_size,
        needed,
    )
    return replace(config, model_type="char", vocab_size=needed)


def sentencepiece_model(texts: list[str], config: BpeConfig, hard_vocab_limit: bool) -> bytes:
    """Trains a model in memory, since SentencePiece does not say when a disk is full; returns the
    content of its file."""
    model = io.BytesIO()
    texts = [trainable(text) for text in texts]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=config.vocab_size,
        hard_vocab_limit=hard_vocab_limit,
        model_type=config.model_type,
        character_coverage=1.0,
        input_sentence_size=100_000_000,
        normalization_rule_name="identity",
        # a longer text would be left out
        max_sentence_length=max([4192, *(len(text.encode()) for text in texts)]),
        control_symbols=SPECIAL[:2],
        unk_id=2,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def trainable(text: str) -> str:
    """The text as SentencePiece may see it when it trains.

    It would take ``<blk>`` in a text for the symbol and leave its characters out of the vocabulary;
    a text with U+2585 it would leave out as a whole. Encoding has no such exceptions: control
    symbols are never found in a text.
    """
    for symbol in SPECIAL:
        text = text.replace(symbol, f"{symbol[0]} {symbol[1:]}")
    return text.replace(RESERVED, " ")


def unknown_characters(cuts: list[MonoCut], tokenizer: Tokenizer) -> tuple[list[str], list[str]]:
    """The characters of some utterances that the tokenizer lacks, and the ids of the utterances
    that have any."""
    characters, utterances = set(), []
    known: dict[str, bool] = {}
    for cut in cuts:
        text = set(cut.supervisions[0].text)
        for c in text - known.keys():
            known[c] = UNK not in tokenizer.encode(c)
        if lacking := {c for c in text if not known[c]}:
            characters |= lacking
            utterances.append(cut.id)
    return sorted(characters), utterances


def warn_of_unknown(split: str, cuts: list[MonoCut], tokenizer: Tokenizer) -> None:
    """Warns of characters that can never be recognised, because no transcript of train has them."""
    characters, utterances = unknown_characters(cuts, tokenizer)
    if characters:
        text = next(c.supervisions[0].text for c in cuts if c.id == utterances[0])
        shown = " ".join(f"{c} (U+{ord(c):04X})" for c in characters[:20]) + (
            " ..." if len(characters) > 20 else ""
        )
        logging.warning(
            "%s: the BPE model has no token for %d characters (train lacks them), so that they "
            "can not be recognised: %s. "
            "They are in %d of %d utterances and count as errors there, for example %s: %s",
            split,
            len(characters),
            shown,
            len(utterances),
            len(cuts),
            utterances[0],
            text,
        )


def token_problem(cut: MonoCut, tokenizer: Tokenizer) -> Dropped | None:
    """Says whether an utterance has too few encoder frames for its tokens; None: it has enough.

    A repeated token needs one more frame, the blank of CTC.
    """
    tokens = tokenizer.encode(cut.supervisions[0].text)
    needed = len(tokens) + sum(a == b for a, b in zip(tokens, tokens[1:]))
    frames = subsampled_length(
        cut.num_frames if cut.has_features else round(cut.duration * FRAMES_PER_SECOND)
    )
    if frames < needed:
        return Dropped(
            cut.id,
            "too few frames for its tokens",
            f"{frames} encoder frames, {needed} needed for {len(tokens)} tokens",
        )
    return None


def train(config: Config, arguments: Namespace) -> None:
    """Trains the BPE model and writes the final cuts.

    Raises:
      UserError: nothing is left of a split of train.
    """
    features = config.data_dir / "features"
    cuts = {
        name: CutSet.from_file(features / f"{name}.jsonl.gz") for name in config.prepared_splits
    }
    # Speed perturbation repeats every transcript; each counts once.
    texts = list(
        dict.fromkeys(c.supervisions[0].text for split in config.train_splits for c in cuts[split])
    )
    tokenizer = train_bpe(texts, config.bpe, config.lang_dir)
    logging.info("BPE: %d tokens from %d distinct transcripts", tokenizer.vocab_size, len(texts))
    listing = config.data_dir / "dropped-tokens.tsv"
    dropped: dict[str, list[Dropped]] = {}
    for split, split_cuts in cuts.items():
        everything = list(split_cuts)
        dropped[split] = []
        # dev and test are scored whole: greedy search needs no such minimum
        if split in config.train_splits:
            problems = {c.id: p for c in everything if (p := token_problem(c, tokenizer))}
            dropped[split] = list(problems.values())
            everything = [c for c in everything if c.id not in problems]
            if not everything:
                raise UserError(
                    f"every utterance of {split} has too few frames for its tokens: a smaller "
                    "bpe.vocab_size makes more tokens"
                )
        report(split, everything, dropped[split], listing)
        warn_of_unknown(split, everything, tokenizer)
        with atomic_path(config.data_dir / "cuts" / f"{split}.jsonl.gz") as path:
            CutSet.from_cuts(everything).to_file(path)
    write_dropped(listing, dropped)
    # Training reads one folder, so that an experiment can be moved to another machine with it.
    write_json_atomic(
        config.data_dir / "cuts" / "statistics.json", read_json(features / "statistics.json")
    )


def main() -> None:
    """Runs stage 3 from the command line."""
    stage_main(3, train, __doc__)


if __name__ == "__main__":
    main()
