"""The workload of exporting an encoder, in a process that has torch and writes the files for those
that have none."""

import torch

from todm.benchmark import adapter
from todm.benchmark.clock import Measured, MemoryPeak, Stopwatch
from todm.benchmark.settings import Settings

CHUNK_FRAMES = 32  # of a stream: 320 ms


class ExportedEncoder:
    """The time and the memory of stage 10's export of the largest net, with random weights; of
    streaming, that of the conf's net made causal.

    Args:
      mode: ``offline`` or ``streaming``.
    """

    def __init__(self, settings: Settings, mode: str):
        torch.set_num_threads(settings.threads)
        torch.manual_seed(1)
        self.settings, self.mode = settings, mode
        causal = ("model.direction=causal",) if mode == "streaming" else ()
        config = adapter.load_conf(settings.conf, (*settings.overrides, *causal))
        self.model = adapter.build_transducer(config).eval()

    def run(self) -> dict[str, Measured]:
        """Writes both graphs."""
        fp32, int8 = (self.settings.graph(self.mode, each) for each in ("fp32", "int8"))
        fp32.parent.mkdir(parents=True, exist_ok=True)
        with MemoryPeak() as peak, Stopwatch() as export:
            adapter.export_encoder(self.model, self.mode, fp32, CHUNK_FRAMES)
        with Stopwatch() as quantizing:
            adapter.quantize(fp32, int8)
        return {
            "export": export.measured(),
            "peak memory": peak.measured(),
            "int8": quantizing.measured(),
            "fp32 file": Measured(fp32.stat().st_size / 1e6),
            "int8 file": Measured(int8.stat().st_size / 1e6),
        }
