"""ONNX graphs of a stand-alone model, as stock sherpa-onnx wants them: encoder (offline,
streaming), decoder and joiner of a transducer, or one graph of a CTC model.

sherpa-onnx takes inputs and outputs by position.  The joiner's two input projections are folded
into encoder and decoder; the mean and deviation of the features are inside the encoder.  *Decoder*
is sherpa-onnx's name for the predictor.
"""

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from todm.data.frames import LOG_EPSILON, LOOK_AHEAD, NUM_MEL_BINS, RECEPTIVE_FIELD, SUBSAMPLING
from todm.decoding.ctc_search import FIRST_TOKEN
from todm.deploy.graph_ssm import RealState, graph_operators
from todm.deploy.onnx_graph import write_graph
from todm.model.encoder import Operators, States
from todm.model.transducer import Transducer

# The log-probability of what a client must not choose; the best token's is at least -log V.
NEVER = -100.0


class CtcOutput(nn.Module):
    """Log-probabilities (..., V) of encoder output (..., dim), for a client that knows blank alone.

    <unk> and <sos/eos>, which count as blank in :mod:`~todm.decoding.ctc_search`, can not win:
    blank has the best value of the three.
    """

    def __init__(self, model: Transducer):
        super().__init__()
        self.model = model

    def forward(self, encoded: Tensor) -> Tensor:
        """Encoder output (..., dim) -> log-probabilities (..., V)."""
        log_probs = self.model.ctc_log_probs(encoded)
        special, tokens = log_probs[..., :FIRST_TOKEN], log_probs[..., FIRST_TOKEN:]
        blank = special.amax(-1, keepdim=True)
        never = torch.full_like(special[..., 1:], NEVER)
        return torch.cat([blank, never, tokens], dim=-1)


def output_layer(model: Transducer) -> nn.Module:
    """The module that follows the encoder in its graph: the joiner's projection, or the whole
    output of a CTC model."""
    return CtcOutput(model) if model.is_ctc else model.joiner.encoder_proj


class OfflineEncoder(nn.Module):
    """The encoder over whole utterances of any length, also 0.

    x (N, T, 80), x_lens (N,) -> encoder_out (N, T', joiner_dim), or log_probs (N, T', V) of a CTC
    model, and lengths (N,).
    """

    padding: Tensor

    def __init__(self, model: Transducer):
        super().__init__()
        self.encoder, self.project = model.encoder, output_layer(model)
        self.operators = graph_operators(model.encoder)
        self.register_buffer("padding", torch.full((1, RECEPTIVE_FIELD, NUM_MEL_BINS), LOG_EPSILON))

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Whole utterances, as the class says."""
        # Padded, so that at least one frame comes out of any length; lengths say which of them
        # count.
        encoded, lengths = self.encoder(
            torch.cat([x, self.padding.expand(x.shape[0], -1, -1)], dim=1),
            x_lens,
            operators=cast(Operators, self.operators),
        )
        return self.project(encoded), lengths


class StreamingEncoder(nn.Module):
    """The encoder over one chunk of a stream.

    x (N, T, 80), state0, state1 (1, N, S) -> encoder_out (N, Q, joiner_dim) and the states after
    it, where T is chunk_frames + 3 and Q is chunk_frames / 4.

    sherpa-onnx has two slots for an LSTM's states and does not look inside: state0 holds the real
    and state1 the imaginary parts of all SSMs' states, one SSM after the other.
    """

    def __init__(self, model: Transducer, chunk_frames: int):
        super().__init__()
        self.encoder, self.project = model.encoder, model.joiner.encoder_proj
        self.chunk_frames = chunk_frames
        self.operators = graph_operators(model.encoder, chunk_frames // SUBSAMPLING)
        self.shapes = [[s.shape for s in of_block] for of_block in model.encoder.initial_states(1)]

    @property
    def state_size(self) -> int:
        """The size S of a slot; 1 where a net has no SSM at all, because a slot can not be
        empty."""
        return max(1, self.remembered)

    @property
    def remembered(self) -> int:
        """The number of complex numbers in the states of all SSMs."""
        return sum(c * n for of_block in self.shapes for c, _, n in of_block)

    def unflatten(self, real: Tensor, imag: Tensor) -> States:
        """The states of the SSMs, real and imaginary parts (C, N, modes) each, out of all of them,
        (1, N, S) each."""
        sizes = [c * n for of_block in self.shapes for c, _, n in of_block]
        parts = iter(
            zip(real[0].split(sizes, dim=-1), imag[0].split(sizes, dim=-1)) if sizes else ()
        )

        def channels_first(x: Tensor, channels: int) -> Tensor:
            return x.unflatten(-1, (channels, -1)).transpose(0, 1)

        return [
            [
                (channels_first(re, c), channels_first(im, c))
                for (c, _, _), (re, im) in zip(of_block, parts)
            ]
            for of_block in self.shapes
        ]

    def flatten(self, states: States) -> RealState:
        """The inverse of :meth:`unflatten`."""
        real, imag = (
            torch.cat([x.transpose(0, 1).flatten(1) for x in side], dim=-1)
            for side in zip(*(state for of_block in states for state in of_block))
        )
        return real[None], imag[None]

    def forward(self, x: Tensor, state0: Tensor, state1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One chunk, as the class says."""
        encoded, states = self.encoder.step(
            x, self.unflatten(state0, state1), self.encoder.full, cast(Operators, self.operators)
        )
        return self.project(encoded), *(
            self.flatten(states) if self.remembered else (1 * state0, 1 * state1)
        )


class Decoder(nn.Module):
    """The predictor with the joiner's projection of it: ids y (N, context_size) -> decoder_out
    (N, joiner_dim). Negative ids embed as zero."""

    def __init__(self, model: Transducer):
        super().__init__()
        self.predictor, self.project = model.predictor, model.joiner.predictor_proj

    def forward(self, y: Tensor) -> Tensor:
        """Ids (N, context_size) -> (N, joiner_dim)."""
        # a product of three dimensions becomes a MatMul, which int8 knows
        return self.project(self.predictor(y))[:, 0]


class Joiner(nn.Module):
    """The joiner: encoder_out (N, J), decoder_out (N, J) -> logit (N, V)."""

    def __init__(self, model: Transducer):
        super().__init__()
        self.joiner = model.joiner

    def forward(self, encoder_out: Tensor, decoder_out: Tensor) -> Tensor:
        """Two of (N, J) -> logits (N, V)."""
        return self.joiner(encoder_out[:, None], decoder_out[:, None])[:, 0]


def export_offline_encoder(model: Transducer, path: Path, comment: str) -> None:
    """Writes the graph for whole utterances, of any length and in padded batches, which is all of a
    CTC model.

    Args:
      comment: goes into the metadata.
    """
    example = torch.zeros(2, 100, NUM_MEL_BINS), torch.tensor([100, 80])
    output = "log_probs" if model.is_ctc else "encoder_out"
    axes = {
        "x": {0: "N", 1: "T"},
        "x_lens": {0: "N"},
        output: {0: "N", 1: "T2"},
        f"{output}_lens": {0: "N"},
    }
    # The client knows a handful of model types; of them these ask for nothing but features and
    # lengths.
    kind = "zipformer2_ctc" if model.is_ctc else "conformer"
    write_graph(
        OfflineEncoder(model),
        example,
        axes,
        path,
        {"model_type": kind, "version": "1", "comment": comment},
        of_blocks=True,
    )


def export_streaming_encoder(
    model: Transducer, path: Path, chunk_frames: int, comment: str
) -> None:
    """Writes the graph for streams.

    Args:
      chunk_frames: filterbank frames that it advances at a time.
      comment: goes into the metadata.
    Raises:
      ValueError: the model is bidirectional, or the chunk is not a multiple of the subsampling,
        at lower rates of as many times that.
    """
    multiple = SUBSAMPLING * model.encoder.multiple
    if chunk_frames < multiple or chunk_frames % multiple:
        raise ValueError(f"a chunk of {chunk_frames} frames is not a multiple of {multiple}")
    encoder = StreamingEncoder(model, chunk_frames)
    size = encoder.state_size
    example = (
        torch.zeros(2, chunk_frames + LOOK_AHEAD, NUM_MEL_BINS),
        torch.zeros(1, 2, size),
        torch.zeros(1, 2, size),
    )
    axes = {
        "x": {0: "N"},
        "state0": {1: "N"},
        "state1": {1: "N"},
        "encoder_out": {0: "N"},
        "new_state0": {1: "N"},
        "new_state1": {1: "N"},
    }
    write_graph(
        encoder,
        example,
        axes,
        path,
        {
            "model_type": "lstm",
            "version": "1",
            "comment": comment,
            "num_encoder_layers": "1",
            "d_model": str(size),
            "rnn_hidden_size": str(size),
            "T": str(chunk_frames + LOOK_AHEAD),
            "decode_chunk_len": str(chunk_frames),
        },
    )


def export_decoder(model: Transducer, path: Path) -> None:
    """Writes the graph of the predictor, with the joiner's projection of it."""
    context = model.predictor.context_size
    write_graph(
        Decoder(model),
        (torch.zeros(2, context, dtype=torch.int64),),
        {"y": {0: "N"}, "decoder_out": {0: "N"}},
        path,
        {"context_size": str(context), "vocab_size": str(model.vocab_size)},
    )


def export_joiner(model: Transducer, path: Path) -> None:
    """Writes the graph of the joiner: tanh of the sum of its inputs, and the output layer."""
    dim = model.joiner.output.in_features
    axes = {"encoder_out": {0: "N"}, "decoder_out": {0: "N"}, "logit": {0: "N"}}
    write_graph(
        Joiner(model),
        (torch.zeros(2, dim), torch.zeros(2, dim)),
        axes,
        path,
        {"joiner_dim": str(dim)},
    )
