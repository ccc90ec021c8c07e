"""The filterbank of stored features and of training on the fly: lhotse's, or kaldifeat's, which
gives the same."""

from lhotse import Fbank, FbankConfig, FeatureExtractor

from todm.config.keys import FeatureConfig
from todm.data.frames import NUM_MEL_BINS
from utils.errors import UserError


def make_extractor(config: FeatureConfig) -> FeatureExtractor:
    """Filterbank as sherpa-onnx computes it: 16 kHz, 25/10 ms, povey window, no dither, 20 to 7600
    Hz.

    Raises:
      UserError: kaldifeat is asked for and not installed.
    """
    if config.extractor == "lhotse":
        return Fbank(FbankConfig(num_mel_bins=NUM_MEL_BINS))
    from lhotse import KaldifeatFbank, KaldifeatFbankConfig
    from lhotse.features.kaldifeat import KaldifeatMelOptions

    try:
        return KaldifeatFbank(
            KaldifeatFbankConfig(mel_opts=KaldifeatMelOptions(num_bins=NUM_MEL_BINS))
        )
    except (AssertionError, ImportError) as error:
        raise UserError(
            f"features.extractor=kaldifeat, but kaldifeat can not be imported ({error}). "
            "Build it: local/setup.sh --kaldifeat; or use features.extractor=lhotse, which gives "
            "the same features"
        ) from error
