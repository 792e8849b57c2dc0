"""Parameters of credit by deletion, for tests of estimators of shares and of rules: the defaults are a group game."""

import dataclasses

from ospo_cli.params.attribute import Attribute
from ospo_cli.params.score_coalitions import ScoreCoalitions
from ospo_cli.params.whole import Params

MYERSON = Attribute(estimator="myerson", rule="group-additive", normalize="std")


def by_deletion(**scoring) -> Params:
    """Return the defaults but for Myerson shares under rule group-additive; `scoring` replaces values of score_coalitions."""
    values = ScoreCoalitions(**{"estimators": ["myerson", "leave-one-out"]} | scoring)
    return dataclasses.replace(Params(), score_coalitions=values, attribute=MYERSON)
