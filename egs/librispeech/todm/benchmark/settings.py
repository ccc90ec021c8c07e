"""The settings of a worker process, which travel to it as JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The settings of one worker process.

    Attributes:
      conf: the file of the conf. overrides: ``key=value`` each.
      device: ``cpu`` or ``cuda``. threads: of torch and onnxruntime.
      graphs: the folder of the exported encoders, of this conf and revision alone.
    """

    conf: str
    overrides: tuple[str, ...]
    device: str
    threads: int
    graphs: str

    def as_json(self) -> str:
        """The settings as a line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """The inverse of :meth:`as_json`."""
        values = json.loads(text)
        return cls(**values | {"overrides": tuple(values["overrides"])})

    def graph(self, mode: str, precision: str) -> Path:
        """The file of an exported encoder.

        Args:
          mode: ``offline`` or ``streaming``. precision: ``fp32`` or ``int8``.
        """
        return Path(self.graphs) / f"{mode}.{precision}.onnx"
