"""The one bound of a request's parameters that concerns two of them and a device: what a GPU's row can keep back."""

import pytest

from octavo import SamplingParams
from octavo.sampling_params import MOST_BARRED
from octavo_api.errors import InvalidSetting


def test_stop_tokens_are_bounded_only_where_min_tokens_bars_them():
    assert len(SamplingParams(stop_token_ids=range(100)).stop_token_ids) == 100
    assert len(SamplingParams(stop_token_ids=range(MOST_BARRED), min_tokens=2).stop_token_ids) == MOST_BARRED
    with pytest.raises(InvalidSetting, match=r"stop_token_ids.*at most 16 tokens together with min_tokens"):
        SamplingParams(stop_token_ids=range(MOST_BARRED + 1), min_tokens=2)
