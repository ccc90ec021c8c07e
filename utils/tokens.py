"""Turns text into token ids and back."""

from pathlib import Path

import sentencepiece

BLANK, SOS_EOS, UNK = 0, 1, 2
SPECIAL = ["<blk>", "<sos/eos>", "<unk>"]


class Tokenizer:
    """A SentencePiece model with icefall's special ids: <blk> 0, <sos/eos> 1, <unk> 2."""

    def __init__(self, model: str | Path | bytes):
        """Loads a model.

        Args:
          model: a file, or the file's content.
        Raises:
          ValueError: its first tokens are not icefall's.
        """
        self._processor = sentencepiece.SentencePieceProcessor()
        self._processor.Load(
            model_proto=model if isinstance(model, bytes) else Path(model).read_bytes()
        )
        symbols = [self._processor.IdToPiece(i) for i in range(3)]
        if symbols != SPECIAL:
            raise ValueError(
                f"the BPE model's first tokens are {symbols}, not <blk>, <sos/eos>, <unk>; stage "
                "3 makes one that fits"
            )

    @property
    def vocab_size(self) -> int:
        """The number of tokens, the special ones included."""
        return self._processor.GetPieceSize()

    @property
    def symbols(self) -> list[str]:
        """The tokens as text, in the order of their ids."""
        return [self._processor.IdToPiece(i) for i in range(self.vocab_size)]

    @property
    def scores(self) -> list[float]:
        """SentencePiece's scores of the tokens, by which it prefers some."""
        return [self._processor.GetScore(i) for i in range(self.vocab_size)]

    @property
    def proto(self) -> bytes:
        """The model file's content, to keep in a checkpoint."""
        return self._processor.serialized_model_proto()

    def encode(self, text: str) -> list[int]:
        """The ids of a text, none of them of <blk> or <sos/eos>: models of earlier versions find
        those in texts that spell them."""
        return [t if t > SOS_EOS else UNK for t in self._processor.EncodeAsIds(text)]

    def decode(self, tokens: list[int]) -> str:
        """The text of some ids; <blk> and <sos/eos> are left out."""
        return self._processor.DecodeIds([t for t in tokens if t > SOS_EOS])
