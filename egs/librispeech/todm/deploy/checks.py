"""The checks of stage 10, subnet by subnet: graphs beside torch, int8 encoders that cost little,
and dev and test decoded by the client."""

import logging
from collections.abc import Callable

from todm.deploy.client_check import ClientCheck, Decoded
from todm.deploy.exports import Exports
from todm.deploy.findings import KeptFindings
from todm.deploy.graph_check import GraphCheck
from todm.deploy.quantize import quantizable, quantize_within
from todm.results.export_results import Findings
from todm.results.export_rows import KeptLayer
from todm.results.subnets import SubnetEntry
from utils.progress import progress


class Checks:
    """Everything that stage 10 checks of the exported subnets."""

    def __init__(self, exports: Exports):
        self.exports, self.kept = exports, KeptFindings(exports)
        self.graphs, self.clients = GraphCheck(exports), ClientCheck(exports)

    def run(self) -> dict[str, Findings]:
        """Checks what has not been checked yet, and returns the findings of all subnets by name.

        Those of a subnet are kept in a file as soon as it is done, so that a run that was ended
        goes on from there.
        """
        finished = {entry: self.kept.finished(entry) for entry in self.exports.entries}
        todo = [entry for entry, found in finished.items() if found is None]
        total = sum(len(self.exports.modes(entry)) for entry in todo)
        findings = {}
        with progress(total=total, desc="check in sherpa-onnx", unit="model") as bar:
            for entry, found in finished.items():
                if found is None:
                    found = self.check(entry, bar.update)
                    self.kept.write(entry, found)
                findings[entry.name] = found
        return findings

    def check(self, entry: SubnetEntry, done: Callable[[], object] = lambda: None) -> Findings:
        """Checks one subnet, and makes its int8 encoders.

        Args:
          done: called after each mode.
        """
        decoded: list[Decoded] = []
        graph_errors, kept = {}, {}
        dev, method = self.exports.config.data.dev[0], self.exports.methods[0]
        for mode in self.exports.modes(entry):
            graph_errors[mode] = self.graphs.difference(entry, mode)
            fp32 = self.clients.decode(entry, mode, "fp32", method, dev, "dev")
            kept[mode] = self.quantize(entry, mode, fp32.wer)
            decoded += [fp32, *self.decode_others(entry, mode)]
            done()
        return Findings(
            self.kept.key(entry),
            tuple(each.row for each in decoded),
            tuple(difference for each in decoded for difference in each.differences),
            graph_errors,
            kept,
        )

    def decode_others(self, entry: SubnetEntry, mode: str) -> list[Decoded]:
        """Decodes what is left of a subnet in one mode when the first dev split was decoded in fp32
        with the first search: dev with all searches, test and int8 with the first."""
        data, methods = self.exports.config.data, self.exports.methods
        first = (data.dev[0], methods[0])
        roles = [("dev", split) for split in data.dev] + [("test", split) for split in data.test]
        decoded = []
        for role, split in roles:
            for method in methods if role == "dev" else methods[:1]:
                if (split, method) != first:
                    decoded.append(self.clients.decode(entry, mode, "fp32", method, split, role))
            decoded.append(self.clients.decode(entry, mode, "int8", methods[0], split, role))
        return decoded

    def quantize(self, entry: SubnetEntry, mode: str, fp32_wer: float) -> tuple[KeptLayer, ...]:
        """Makes the int8 encoder, which may cost ``export.int8_tolerance`` of WER on dev.

        Args:
          fp32_wer: of the first dev split with the first search, in percent.
        Returns:
          The layers that stay in fp32.
        """
        config, method = self.exports.config, self.exports.methods[0]
        tolerance = config.export.int8_tolerance
        limit = fp32_wer * (1 + tolerance)

        def good() -> bool:
            errors = self.clients.client_errors(entry, mode, "int8", method, config.data.dev[0])
            return errors.wer <= limit

        source, target = (self.exports.encoder(entry, mode, p) for p in ("fp32", "int8"))
        kept = quantize_within(source, target, self.graphs.inputs(entry, mode), good)
        if kept:
            logging.info(
                "%s, %s: int8 cost more than %.0f %% of WER on dev; %d of %d layers stay in fp32: "
                "%s",
                *(entry.name, mode, 100 * tolerance, len(kept), len(quantizable(source))),
                ", ".join(node for node, _ in kept),
            )
        return tuple(KeptLayer(node, round(error, 5)) for node, error in kept)
