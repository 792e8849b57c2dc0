"""One step of DPO is TRL's: against frozen numbers, and against TRL itself where it is installed."""

import importlib.util
import json

import pytest

from ospo_cli.layout import Layout
from tests.oracle import one_update, trl_preferences
from tests.oracle.test_one_update import apart
from tests.oracle.trl_preferences import BETAS, FIXTURE

FROZEN = json.loads(FIXTURE.read_text(encoding="utf-8"))
ROWS = json.loads(one_update.FIXTURE.read_text(encoding="utf-8"))["rows"]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    found = Layout(tmp_path_factory.mktemp("preferences"))
    one_update.write_policies(found)
    one_update.write_rows(found, ROWS)
    trl_preferences.write_pairs(found)
    return found


@pytest.mark.parametrize("beta", BETAS)
def test_our_step_is_trls_step(layout, beta):
    assert FROZEN["made_with"]["trl"].startswith("1.16.")
    assert apart(trl_preferences.our_step(layout, beta), FROZEN["steps"][str(beta)]) < TOLERANCE


def test_a_step_of_another_beta_is_told_apart(layout):
    assert apart(trl_preferences.our_step(layout, BETAS[0]), FROZEN["steps"][str(BETAS[1])]) > 100 * TOLERANCE


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed (extra [oracle]; `make test-oracle` runs this)")
@pytest.mark.parametrize("beta", BETAS)
def test_trl_itself_takes_our_step(layout, beta, tmp_path):
    from tests.oracle.trl_update import gaps

    theirs = trl_preferences.trl_step(ROWS, layout.policy(1), layout.policy(0), beta, tmp_path)
    assert max(gaps(trl_preferences.our_step(layout, beta), theirs)) < TOLERANCE
