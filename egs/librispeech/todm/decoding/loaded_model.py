"""A model in memory, with the subnet in use and what its search and its SSMs need."""

import torch

from todm.config.keys import Config
from todm.decoding.search import SearchOptions
from todm.decoding.transcript import Alternative, Alternatives, Transcript, join
from todm.decoding.transducer_search import Hypothesis
from todm.model.encoder import Operators
from todm.model.transducer import Transducer
from todm.subnet import Subnet
from utils.errors import UserError
from utils.tokens import Tokenizer

FRAME_SECONDS = 0.04  # of an encoder frame


class LoadedModel:
    """A supernet, or one net of it, of which one subnet at a time is in use.

    Args:
      subnet: the one in use until :meth:`use_subnet` says otherwise.
      options: the search; ``max_symbols`` is 1, as on a device.
      chunk_frames: filterbank frames (10 ms) that a stream advances at a time.
    """

    def __init__(
        self,
        config: Config,
        model: Transducer,
        tokenizer: Tokenizer,
        subnet: Subnet,
        options: SearchOptions,
        chunk_frames: int,
    ):
        self.config, self.model, self.tokenizer = config, model, tokenizer
        self.options, self.chunk_frames = options, chunk_frames
        self.device = next(model.parameters()).device
        self._operators: dict[int, Operators] = {}
        self.use_subnet(subnet)

    @property
    def can_stream(self) -> bool:
        """Whether the subnet in use is causal, so that it can decode audio as it arrives."""
        return self.model.encoder.can_stream(self.subnet)

    def use_subnet(self, subnet: Subnet) -> None:
        """Takes a subnet for the utterances to come. Nothing is loaded or copied.

        Raises:
          UserError: the model lacks something of it.
        """
        try:
            self.model.encoder.require(subnet)
        except ValueError as error:
            raise UserError(str(error)) from None
        self.subnet = subnet

    def operators(self, block: int | None = None) -> Operators:
        """The SSMs' operators of the whole model, computed once for every block length.

        Args:
          block: frames in a block of the blockwise form; None: as in training.
        """
        key = block or 0
        if key not in self._operators:
            with torch.inference_mode():
                self._operators[key] = self.model.encoder.operators(*([block] if block else []))
        return self._operators[key]

    def transcript(self, hypothesis: Hypothesis, seconds: float) -> Transcript:
        """The tokens and frames of a hypothesis as text and times.

        Args:
          seconds: length of the audio; a word that comes in the tail of silence is at its end.
        """
        symbols = self.tokenizer.symbols
        tokens = [symbols[t] for t in hypothesis.tokens]
        times = [round(min(f * FRAME_SECONDS, seconds), 2) for f in hypothesis.frames]
        others = [
            Alternative(join([symbols[t] for t in h.tokens]), round(h.score or 0.0, 4))
            for h in hypothesis.nbest
        ]
        return Transcript(
            *(join(tokens), tokens, times, round(seconds, 3), hypothesis.probabilities[:]),
            nbest=[Alternatives(0.0, others)] if others else [],
        )
