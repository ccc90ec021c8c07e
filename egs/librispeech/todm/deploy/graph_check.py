"""The encoders' ONNX graphs beside torch, over real frames."""

import logging
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from todm.data.frames import LOG_EPSILON, LOOK_AHEAD, NUM_MEL_BINS
from todm.data.online_features import filterbank
from todm.deploy.exports import Exports
from todm.deploy.onnx_export import output_layer
from todm.deploy.quantize import session
from todm.deploy.split_audio import speech
from todm.model.frontend import subsampled_length
from todm.results.subnets import SubnetEntry
from utils.audio import SAMPLE_RATE

# Seconds of audio that graphs are held to torch on, in one padded batch.
CHECKED_SECONDS = (0.3, 1.0, 5.0, 13.0, 40.0)
TOLERANCE = 1e-4  # of an encoder's outputs


class GraphCheck:
    """Holds the graphs of exported encoders to torch."""

    def __init__(self, exports: Exports):
        self.exports = exports

    @cached_property
    def features(self) -> list[torch.Tensor]:
        """Filterbank frames (T, 80) of speech of dev, strung together to the lengths that are
        checked."""
        longest = max(CHECKED_SECONDS)
        samples = np.concatenate(speech(self.exports.config, longest))
        samples = np.resize(samples, round(longest * SAMPLE_RATE))
        return [filterbank(samples[: round(s * SAMPLE_RATE)]) for s in CHECKED_SECONDS]

    @torch.inference_mode()
    def difference(self, entry: SubnetEntry, mode: str) -> float:
        """The largest difference between the outputs of an encoder's graph and torch's."""
        model, path = self.exports.experiment.model, self.exports.encoder(entry, mode, "fp32")
        lengths = torch.tensor([len(f) for f in self.features])
        x = pad_sequence(self.features, batch_first=True, padding_value=LOG_EPSILON)
        encoded, out_lengths = model.encoder(x, lengths, entry.subnet)
        expected = output_layer(model)(encoded).numpy()
        if mode == "offline":
            got = session(path).run(None, {"x": x.numpy(), "x_lens": lengths.numpy()})[0]
        else:
            got = run_streaming_graph(path, x.numpy(), self.exports.config.export.chunk_frames)
            # The client brings its own silence, not the model's tail; so in the last frame of a
            # lower rate it has silence where torch knows that the utterance has ended.
            multiple = model.encoder.multiple
            out_lengths = subsampled_length(lengths) // multiple * multiple
        worst = max(
            float(np.abs(got[i, :n] - expected[i, :n]).max(initial=0))
            for i, n in enumerate(out_lengths.tolist())
        )
        if worst > TOLERANCE:
            message = "%s, %s: the graph's outputs differ from torch's by up to %.1e"
            logging.warning(message, entry.name, mode, worst)
        return worst

    def inputs(self, entry: SubnetEntry, mode: str) -> dict[str, np.ndarray]:
        """Real inputs of an encoder's graph, by name: one long utterance, or unrelated chunks of it
        from the zero state."""
        x = self.features[-2][None].numpy()
        if mode == "offline":
            return {"x": x, "x_lens": np.array([x.shape[1]])}
        chunk = self.exports.config.export.chunk_frames + LOOK_AHEAD
        pieces = x[0, : x.shape[1] // chunk * chunk].reshape(-1, chunk, NUM_MEL_BINS)
        return {"x": pieces} | zero_states(
            self.exports.encoder(entry, mode, "fp32"), batch=len(pieces)
        )


def zero_states(path: Path, batch: int) -> dict[str, np.ndarray]:
    """The states of a streaming encoder before an utterance, (1, N, S) each, by name."""
    shapes = {value.name: value.shape for value in session(path).get_inputs()}
    return {
        name: np.zeros((1, batch, shapes[name][2]), np.float32) for name in ("state0", "state1")
    }


def run_streaming_graph(path: Path, x: np.ndarray, chunk: int) -> np.ndarray:
    """Feeds (N, T, 80) in chunks through a streaming encoder: (N, T', J), at least as many frames
    as T has."""
    run, states = session(path), list(zero_states(path, batch=len(x)).values())
    x = np.pad(x, ((0, 0), (0, chunk + LOOK_AHEAD), (0, 0)), constant_values=LOG_EPSILON)
    outputs = []
    for start in range(0, x.shape[1] - chunk - LOOK_AHEAD + 1, chunk):
        piece = x[:, start : start + chunk + LOOK_AHEAD]
        out, *states = run.run(None, {"x": piece, "state0": states[0], "state1": states[1]})
        outputs.append(out)
    return np.concatenate(outputs, axis=1)
