"""Which policy rewrites, and how it is asked."""

import json
import shutil

import pytest

from ospo_cli.errors import OspoError
from ospo_cli.params import written
from ospo_cli.rewriting import chosen, setup
from ospo_cli.text.prompt_template import user_message
from tests.policies.tiny import tiny_params, write_project


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    made = write_project(tmp_path_factory.mktemp("rewriting") / "shop")
    made.params.write_text(written.render(tiny_params(score_coalitions={"composition": "append"})))
    shutil.copytree(made.policy(0), made.policy(2))
    return made


def test_without_a_name_the_last_policy_is_taken_with_the_projects_parameters(layout):
    found = chosen.choose(layout.root, "")
    assert found.folder == layout.policy(2)
    assert (found.setup.composition, found.setup.max_new_tokens, found.setup.template) == ("append", 12, "{query}\nbought: {history}")
    assert chosen.choose(layout.root, "0", threads=3).setup.threads == 3
    assert chosen.choose(layout.root, "0").folder == layout.policy(0)


def test_a_folder_with_its_card_needs_no_project_and_its_card_counts_before_params(layout, tmp_path):
    folder = tmp_path / "bare"
    shutil.copytree(layout.policy(0), folder)
    card = setup.Setup("find {query}", "replace", 7, 3)
    setup.write_card(folder, card)
    alone = chosen.choose(tmp_path, str(folder))
    assert (alone.setup, alone.project, alone.params) == (card, None, None)
    within = chosen.choose(layout.root, str(folder))
    assert within.setup.card == card.card
    assert within.setup.batch_size == 8


def test_what_cannot_be_chosen_is_one_line_with_a_remedy(layout, tmp_path):
    with pytest.raises(OspoError, match=r"has no ospo_rewrite.json, and there is no params.yaml.*ospo merge"):
        chosen.choose(tmp_path, str(layout.policy(0)))
    (tmp_path / "params.yaml").write_text(layout.params.read_text())
    with pytest.raises(OspoError, match="no policy"):
        chosen.choose(tmp_path, "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "x"}, "of another format"),
        ({"template": 3}, "template is no str"),
        ({"template": "no place"}, "is no template"),
        ({"composition": "prepend"}, "unknown composition"),
        ({"max_new_tokens": 0}, "out of range"),
        ({"max_new_tokens": True}, "is no int"),
        ({"seed": None}, "is no int"),
    ],
)
def test_a_card_that_is_wrong_is_refused_by_its_field(tmp_path, change, message):
    card = setup.Setup("{query}", "replace", 7).card | change
    (tmp_path / setup.CARD).write_text(json.dumps(card))
    with pytest.raises(OspoError, match=message):
        setup.of_card(tmp_path)


def test_braces_of_a_hostile_card_are_plain_text(tmp_path):
    (tmp_path / setup.CARD).write_text(json.dumps(setup.Setup("{query.__class__} {query}", "replace", 7).card))
    assert user_message(setup.of_card(tmp_path).template, "coat", []) == "{query.__class__} coat"
