from ospo_cli.text.close_names import closest, did_you_mean, unknown_name


def test_the_closest_names_come_best_first():
    assert closest("shaply", ["owen", "shapley2", "shapley"]) == ["shapley", "shapley2"]


def test_a_far_name_gets_no_hint():
    assert did_you_mean("xyz", ["owen", "shapley"]) is None
    assert str(unknown_name("here", "rule", "xyz", ["owen"])) == "here: unknown rule: found xyz, expected owen"


def test_a_close_name_is_the_remedy():
    assert str(unknown_name("here", "rule", "own", ["owen"])) == "here: unknown rule: found own, expected owen; did you mean owen?"
