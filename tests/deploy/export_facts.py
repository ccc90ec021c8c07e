"""What stage 10 could have found of made-up subnets, with figures that are all different."""

from typing import Any

SPLITS = [("dev", "dev"), ("test", "test")]
SEARCHED = [("dev", "greedy"), ("dev", "beam"), ("test", "greedy")]  # splits and methods
OFFLINE = [("2M", "offline"), ("1M", "offline")]
STREAMING = [("2M", "offline"), ("2M", "streaming"), ("1M", "offline"), ("1M", "streaming")]


def facts(nets: list[tuple[str, str]] = STREAMING) -> dict[str, Any]:
    """The content of export/results.json.

    Args:
      nets: names and modes of the exported subnets.
    """
    return {
        "name": "toy",
        "corpus": "made up",
        "weights": "all of them",
        "updates": 77,
        "audio_hours_trained": 1.5,
        "training_seconds": 99.9,
        "seed": 1,
        "largest": "h0-2f0-3 h0-2f0-3 h0-2f0-3",
        "machine": "an abacus",
        "torch": "2",
        "commit": "abc123",
        "command": "./run.sh --stage 10",
        "torch_results": {"2M/dev/greedy": 9.87, "2M/test/greedy": 8.76, "1M/test/greedy": 7.65},
        "pieces": 28,
        "rows": client_rows(nets),
        "differences": [DIFFERENCE] if ("1M", "streaming") in nets else [],
        "graph_errors": by_net(
            nets, {"offline": 1e-6, "streaming": 5e-6}, {"offline": 3e-5, "streaming": 2e-6}
        ),
        "int8_kept_in_fp32": by_net(
            nets, {"offline": [], "streaming": KEPT}, {"offline": [], "streaming": []}
        ),
        "benchmark": benchmark_rows(nets),
    }


DIFFERENCE = {
    "name": "1M",
    "mode": "streaming",
    "method": "greedy",
    "split": "test",
    "id": "61-70968-0001",
    "reference": "A CAT",
    "torch": "A CAT SAT",
    "client": "A CAP",
}
KEPT = [["/project/MatMul", 0.0321], ["/ffn/MatMul", 0.01]]


def by_net(nets: list[tuple[str, str]], first: dict, second: dict) -> dict[str, dict]:
    """Values of the two subnets by mode, without those of modes that there are none of."""
    values = {"2M": first, "1M": second}
    return {
        name: {mode: values[name][mode] for other, mode in nets if other == name} for name in values
    }


def client_rows(nets: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """A row for every net, precision, split and method; int8 is searched greedily alone."""
    rows: list[dict[str, Any]] = []
    for i, (name, mode) in enumerate(nets):
        for j, precision in enumerate(("fp32", "int8")):
            for k, (split, method) in enumerate(SEARCHED):
                row = {
                    "name": name,
                    "mode": mode,
                    "precision": precision,
                    "method": method,
                    "split": split,
                    "role": split,
                    "wer": 10 + i + j / 10 + k / 100,
                    "substitutions": 5,
                    "insertions": 1,
                    "deletions": 2,
                    "words": 80,
                    "utterances": 4 + 2 * (split == "test"),
                }
                if precision == "fp32":
                    equal = row["utterances"] - (i == 3 and split == "test")
                    rows.append(row | {"equal": equal, "torch_wer": row["wer"]})
                elif method == "greedy":
                    rows.append(row)
    return rows


def benchmark_rows(nets: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """A row for every net and precision."""
    rows: list[dict[str, Any]] = []
    for i, (name, mode) in enumerate(nets):
        for j, precision in enumerate(("fp32", "int8")):
            row = {
                "name": name,
                "mode": mode,
                "precision": precision,
                "bytes": 1_000_000 * (i + 1) + 230_000 * j,
                "real_time_factor": 0.01 * (i + 1) + 0.001 * j,
            }
            if mode == "streaming":
                row["first_token_ms"] = 400.0 + i + j
            row |= {
                "latency_ms": 20.0 + i + j / 2,
                "load_seconds": 0.5,
                "model_mib": 40.0,
                "peak_mib": 50.0 + 2 * i + j,
                "spread": [0.01, 0.02],
                "rounds": 3,
                "audio_seconds": 12.3,
            }
            rows.append(row | ({"algorithmic_ms": 362.5} if mode == "streaming" else {}))
    return rows
