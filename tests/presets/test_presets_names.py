"""Names of presets."""

import pytest

from ospo_cli import presets
from ospo_cli.errors import ParameterError


def test_a_preset_named_the_wrong_way_round_is_told_the_right_way():
    with pytest.raises(ParameterError, match="no such preset") as raised:
        presets.load("dapo+tables")
    assert "tables+dapo" in raised.value.line()
    with pytest.raises(ParameterError) as raised:
        presets.load("dapo+nothing")
    assert "comes first" not in raised.value.line()
