"""What stage 10 found of a subnet stays in its folder, and is good until something changes that it
depends on."""

from functools import cached_property
from typing import Any

from todm.deploy.exports import Exports
from todm.recipe.lineage import split_digest, weights_digest
from todm.recipe.stages import STAGES
from todm.results.export_files import BPE, CONF, MODEL, TOKENS, VOCABULARY
from todm.results.export_results import FINDINGS, Findings, read_file
from todm.results.subnets import SubnetEntry
from utils.errors import UserError
from utils.files import write_json_atomic

STAGE = STAGES[10]


class KeptFindings:
    """The findings in the folders of exported subnets."""

    def __init__(self, exports: Exports):
        self.exports = exports

    @cached_property
    def weights_digest(self) -> str:
        """A digest of the supernet's weights."""
        return weights_digest(self.exports.experiment.model)

    @cached_property
    def data_digests(self) -> dict[str, str]:
        """Digests of the utterances of dev and test, by split."""
        config = self.exports.config
        splits = [*config.data.dev, *config.data.test]
        return {split: split_digest(config, [split]) for split in splits}

    def sources(self, entry: SubnetEntry) -> dict[str, Any]:
        """The sources that a subnet's files and findings are made from, beside the values of the
        conf."""
        trained = self.exports.experiment
        return {
            "architecture": str(entry.subnet),
            "model": self.weights_digest,
            "update": trained.update,
            "weights": trained.weights,
            "data": self.data_digests,
        }

    def key(self, entry: SubnetEntry) -> dict[str, Any]:
        """All that a subnet's files and findings depend on; which subnets are exported changes none
        of them, which is what the stage's ``content_keys`` say."""
        values = STAGE.values(self.exports.config)
        return self.sources(entry) | {
            key: value for key, value in values.items() if key not in STAGE.content_keys
        }

    def finished(self, entry: SubnetEntry) -> Findings | None:
        """The findings of an earlier run that went through all of a subnet; None where there are
        none, where they are of something else, or where a file is missing."""
        folder = self.exports.folder(entry)
        needed = [FINDINGS, MODEL, CONF, BPE, TOKENS, VOCABULARY, *self.exports.graphs(entry)]
        if not all((folder / name).is_file() for name in needed):
            return None
        try:
            found = read_file(folder / FINDINGS, Findings.from_dict)
        except UserError:
            return None  # damaged: the subnet is exported again
        sources = self.sources(entry)
        if any(found.key.get(name) != value for name, value in sources.items()):
            return None
        changes = STAGE.changes(found.key, self.exports.config, STAGE.content_keys)
        return None if changes else found

    def write(self, entry: SubnetEntry, found: Findings) -> None:
        """Keeps what was found of a subnet in its folder."""
        write_json_atomic(self.exports.folder(entry) / FINDINGS, found.as_dict())
