"""The files of an exported folder, by name; imports no torch, so that a device needs none."""

from pathlib import Path

from utils.errors import UserError

MODEL, CONF, BPE = "model.safetensors", "conf.yaml", "bpe.model"
TOKENS, FACTS = "tokens.txt", "export.json"
VOCABULARY = "bpe.vocab"  # tokens and their scores: what sherpa-onnx reads hotwords with
HOTWORDS = "hotwords.txt"  # the lines of decode.hotwords_file, where there is one
ENCODERS = {"offline": "encoder", "streaming": "streaming-encoder"}  # by mode
CTC = "model"  # the one graph of a CTC model


def graph(part: str, precision: str) -> str:
    """The file name of a graph: ``encoder``, ``streaming-encoder``, ``decoder``, ``joiner``, or the
    ``model`` of CTC, in ``fp32`` or ``int8``."""
    return f"{part}.onnx" if precision == "fp32" else f"{part}.{precision}.onnx"


def holds_ctc(folder: Path) -> bool:
    """Whether an exported folder holds a CTC model."""
    return any((folder / graph(CTC, precision)).is_file() for precision in ("fp32", "int8"))


def parts(mode: str, ctc: bool) -> list[str]:
    """The graphs that a client needs for ``offline`` or ``streaming``, the encoder first."""
    return [CTC] if ctc else [ENCODERS[mode], "decoder", "joiner"]


def require(folder: Path, names: list[str]) -> None:
    """Refuses an exported folder that lacks some of these files.

    Raises:
      UserError: it names the files.
    """
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} lacks {', '.join(missing)}; stage 10 writes exported folders: ./run.sh "
            "--stage 10 --stop-stage 10"
        )
