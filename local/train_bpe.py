"""Stage 3: trains SentencePiece on the train transcripts, writes tokens.txt, and drops what has too few frames for its tokens."""

import logging
import re
import shutil
from argparse import Namespace
from pathlib import Path

import sentencepiece
from lhotse import CutSet, MonoCut

from egs.librispeech.todm.config import BpeConfig, Config
from egs.librispeech.todm.frontend import subsampled_length
from egs.librispeech.todm.stages import stage_main
from local.prepare_manifests import Dropped, report, write_dropped
from utils.files import atomic_path, write_text_atomic
from utils.stages import StageError
from utils.tokens import Tokenizer

FRAMES_PER_SECOND = 100


def train_bpe(texts: list[str], config: BpeConfig, lang: Path) -> Tokenizer:
    """Train SentencePiece with icefall's ids: <blk> 0, <sos/eos> 1, <unk> 2.

    Raises:
      StageError: the transcripts are too few for the vocabulary.
    """
    lang.mkdir(parents=True, exist_ok=True)
    with atomic_path(lang / "transcript.txt") as path:
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    prefix = lang / "unfinished"
    try:
        sentencepiece.SentencePieceTrainer.train(
            input=str(lang / "transcript.txt"), model_prefix=str(prefix), vocab_size=config.vocab_size,
            model_type=config.model_type, character_coverage=1.0, input_sentence_size=100_000_000,
            user_defined_symbols=["<blk>", "<sos/eos>"], unk_id=2, bos_id=-1, eos_id=-1, minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        limit = re.search(r"(?:<=|at least|least) (\d+)", str(error))
        hint = f" (SentencePiece's bound is {limit.group(1)})" if limit else ""
        raise StageError(
            f"bpe.vocab_size={config.vocab_size} does not fit the {len(texts)} train transcripts{hint}; change it. SentencePiece said: {error}"
        ) from error
    prefix.with_suffix(".vocab").unlink()
    prefix.with_suffix(".model").replace(lang / "bpe.model")
    tokenizer = Tokenizer(lang / "bpe.model")
    write_text_atomic(lang / "tokens.txt", "".join(f"{s} {i}\n" for i, s in enumerate(tokenizer.symbols)))
    return tokenizer


def token_problem(cut: MonoCut, tokenizer: Tokenizer) -> Dropped | None:
    """Too few encoder frames for the tokens; a repeated token needs one more frame (the blank of CTC)."""
    tokens = tokenizer.encode(cut.supervisions[0].text)
    needed = len(tokens) + sum(a == b for a, b in zip(tokens, tokens[1:]))
    frames = subsampled_length(cut.num_frames if cut.has_features else round(cut.duration * FRAMES_PER_SECOND))
    if frames < needed:
        return Dropped(cut.id, "too few frames for its tokens", f"{frames} encoder frames, {needed} needed for {len(tokens)} tokens")
    return None


def main(config: Config, arguments: Namespace) -> None:
    features = config.data_dir / "features"
    cuts = {name: CutSet.from_file(features / f"{name}.jsonl.gz") for name in config.splits}
    # Speed perturbation repeats every transcript; each counts once.
    texts = list(dict.fromkeys(c.supervisions[0].text for split in config.data.train for c in cuts[split]))
    tokenizer = train_bpe(texts, config.bpe, config.lang_dir)
    logging.info("BPE: %d tokens from %d distinct transcripts", tokenizer.vocab_size, len(texts))
    listing = config.data_dir / "dropped-tokens.tsv"
    dropped: dict[str, list[Dropped]] = {}
    for split, split_cuts in cuts.items():
        everything = list(split_cuts)
        dropped[split] = []
        if split in config.data.train:  # dev and test are scored whole: greedy search needs no such minimum
            problems = {c.id: p for c in everything if (p := token_problem(c, tokenizer))}
            dropped[split] = list(problems.values())
            everything = [c for c in everything if c.id not in problems]
            if not everything:
                raise StageError(f"every utterance of {split} has too few frames for its tokens: a smaller bpe.vocab_size makes more tokens")
        report(split, everything, dropped[split], listing)
        with atomic_path(config.data_dir / "cuts" / f"{split}.jsonl.gz") as path:
            CutSet.from_cuts(everything).to_file(path)
    write_dropped(listing, dropped)
    # Training reads one folder, so that an experiment can be moved to another machine with it.
    shutil.copyfile(features / "statistics.json", config.data_dir / "cuts" / "statistics.json")


if __name__ == "__main__":
    stage_main(3, main, __doc__)
