"""Templates: text is shown and does nothing, whatever page it is on; every page is one file that its policy describes."""

import dataclasses
import html
import io
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError

from ospo_cli.instruments.compare_rewards import command as compare_rewards
from ospo_cli.instruments.explain import page as explain_page
from ospo_cli.instruments.lab import command as lab
from ospo_cli.instruments.lab import page as lab_page
from ospo_cli.maths.redistribution import RULES
from ospo_cli.report import pages
from ospo_cli.report.explanation import Explanation, Interaction, Part, Product, Target
from ospo_cli.report.page import render
from ospo_cli.stages.report import report
from ospo_cli.text.visible import visible
from tests.report import small_project
from tests.report.reader import Reader, source

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg/onload=alert(1)>',
    "' onmouseover='alert(1)",
    "&lt;b&gt;",
    "\u2028\u2029",
    "<!--",
    "]]>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
]
ALL = " ".join(HOSTILE)
ENVIRONMENT = pages.environment(pages.TEMPLATES)


def shown(template, **content):
    return ENVIRONMENT.from_string(template).render(**content)


@settings(max_examples=60)
@given(st.text() | st.sampled_from(HOSTILE))
def test_a_text_in_a_template_holds_no_markup_and_reads_back_as_what_is_visible(text):
    escaped = shown("{{ text }}", text=text)
    assert not set("<>\"'") & set(escaped)
    assert html.unescape(escaped) == visible(text)


@settings(max_examples=60)
@given(st.recursive(st.text() | st.sampled_from(HOSTILE), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_a_data_block_cannot_end_its_script_element_and_keeps_the_data(content):
    block = shown("{{ content|tojson }}", content=content)
    assert not set("<>&\u2028\u2029") & set(block)
    assert json.loads(block) == content


def test_a_text_is_cut_to_its_own_limit_and_to_2000_characters_without_one():
    assert shown("{{ text|cut(5) }}", text="<" * 9) == "&lt;" * 5 + " … [cut: 9 characters in all]"
    assert shown("{{ text|cut(3000) }}", text="x" * 3000) == "x" * 3000
    assert shown("{{ text }}", text="x" * 3000).startswith("x" * 2000 + " … [cut: 3,000")


def test_a_name_that_is_not_there_and_a_none_are_errors_and_not_shown():
    with pytest.raises(UndefinedError, match="nowhere"):
        shown("{{ nowhere }}")
    with pytest.raises(TypeError, match="shows None"):
        shown("{{ nothing }}", nothing=None)


def test_no_template_lets_text_pass_unescaped():
    files = list(pages.TEMPLATES.parents[1].rglob("*.html"))
    assert len(files) >= 15
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"\|\s*safe|autoescape|Markup|=\{\{|\sstyle=|\son[a-z]+=", text), path


def poisoned(value, but=()):
    """Return the value with hostile text behind every string and every name in it; those in `but` stay."""
    if isinstance(value, str):
        return value if value in but else value + ALL
    if isinstance(value, dict):
        return {poisoned(name, but): poisoned(content, but) for name, content in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(poisoned(item, but) for item in value)
    if dataclasses.is_dataclass(value):
        own = {field.name: poisoned(getattr(value, field.name), but) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **own)
    return value


def texts(value, but=()):
    """Return the value with hostile text behind every string; names of mappings stay."""
    if isinstance(value, dict):
        return {name: texts(content, but) for name, content in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(texts(item, but) for item in value)
    return poisoned(value, but)


def report_page(folder):
    """Return the report of a project in which every text is hostile: names of retrievers, metrics and kept runs, parameters, ids, queries."""
    layout, values = small_project.write_project(folder, iterations=2)
    data = report(layout, values)
    summary = json.dumps(data["summary"])
    for name in ("tfidf-char", "mrr", "test"):
        summary = summary.replace(f'"{name}"', json.dumps(name + ALL))
    params = {section: texts(content) for section, content in data["params"].items()}
    cell = {"mean": 0.5, "low": 0.4, "high": 0.6, "to_own": {"mean": 0.1, "low": 0.0, "high": 0.2, "p_value": 0.5, "p_holm": 1.0}}
    over_seeds = {"deviation": 0.1, "to_own": cell["to_own"] | {"degrees": 1.0, "detectable": 0.3, "by_seed": [0.1, 0.2]}}
    way = texts({"names": ["first"], "how": "grpo"}) | {"seeds": [0, 1], "greedy": cell | over_seeds, "sampled": None}
    row = texts({"name": "first", "how": "grpo"}) | {"tokens": 10.0, "reward_calls": 20.0, "greedy": cell, "sampled": None}
    audit = {
        "changed": [],
        "metrics": {"audited": 1, "eligible": 2, "evaluated_texts": 3},
        "order": ["shapley" + ALL],
        "curves": [
            {"curve": curve, "estimator": params["attribute"]["estimator"], "part": part, "value": 0.5}
            for curve in ("deletion", "insertion")
            for part in (0.0, 1.0)
        ],
        "rows": [
            {"estimator": "shapley" + ALL, "check": "leave-one-out", "measure": "bm25" + ALL, "value": 0.5, "low": 0.1, "high": 0.9, "n": 3}
        ],
    }
    return render(
        data
        | {
            "title": "shop" + ALL,
            "summary": json.loads(summary),
            "params": params | {"retrieval" + ALL: {"k1" + ALL: [ALL]}},
            "card": poisoned(data["card"]) | {"list": [{ALL: ALL}]},
            "files": texts(data["files"]),
            "counts": data["counts"] | {"prompts": {"test" + ALL: 3}},
            "signs": [texts(sign) for sign in data["signs"]],
            "groups": texts(data["groups"]),
            "queries": [texts(found, but=("policy-000", "raw-query")) for found in data["queries"]],
            "audits": [{"iteration": 1, "audit": audit, "gradients": {"changed": [ALL] * 6}}],
            "plan": {"rows": [], "changed": [ALL]},
            "kept": {
                "tables": [{"what": "", "place": None, "rows": [row]}],
                "over_seeds": {"rows": [way]},
                "set_otherwise": [texts({"name": "first", "names": ["update.epochs"]})],
                "left_out": [texts({"name": "second", "reason": "other prompts"})],
            },
        }
    )


def explanation_page(_):
    """Return the page of an explanation in which every text is hostile."""
    return explain_page.render(
        poisoned(
            Explanation(
                query="navy wool", prompt_id="q1", value_kind="score", value="the score", unit="score", level="word", estimator="myerson",
                estimator_meaning="windows", is_efficient=False, special_case="", retriever="bm25", candidates=9, is_pool=True, retrieved=2,
                empty=0.0, grand=0.5, share_sum=0.4, efficiency_gap=0.1, coalitions=3,
                products=[Product(1, "d1", "Coat", 0.5, 1.0)], target=Target("d1", "Coat", 1.0, 1),
                parts=[Part(0, 4, "navy", 0.4, 0.1, 2, 0.1, 0.2, 1, None, ["navy"]), Part(5, 9, "wool", 0.0, 0.1, 2, 0.1, 0.2, 1, None, [])],
                interactions=[Interaction(0, 1, "navy", "wool", -0.1)], notes=["a note"],
            )
        )
    )  # fmt: skip


def comparison_page(_):
    """Return the page of two rewards in which every text is hostile."""
    measures = [
        {"measure": "order", "value": 0.5, "low": 0.1, "high": 0.9, "n": 3},
        {"measure": "none", "value": None, "low": None, "high": None, "n": 0},
    ]
    examples = [{"prompt_id": "p", "query": "coat", "kendall": -0.5, "answers": [(0.1, 0.9, "red coat")]}]
    return compare_rewards.page(
        texts({"a": "loop", "b": "other", "measures": measures, "examples": examples}) | {"groups": 3, "rollouts": 6}
    )


def lab_page_of_hostile_names(folder):
    """Return the lab's page; rules, estimators, kinds of interaction and problems have hostile names."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab, "render", lambda data: seen.append(data) or "")
        rules = {"uniform": RULES["uniform"], "signed": RULES["signed"]}
        plan = lab.Plan(
            rules=rules,
            estimators=("alone", "myerson"),
            segments=(2, 3),
            group_sizes=(4,),
            noises=(0.0, 0.5),
            problems=("independent",),
            seeds=3,
            steps=3,
        )
        lab.execute(folder, plan, io.StringIO(), command="ospo lab" + ALL)
    written = json.dumps(seen[0])
    for name in ("uniform", "signed", "alone", "myerson", "independent", "-", *seen[0]["interactions"]):
        written = written.replace(f'"{name}"', json.dumps(name + ALL))
    return lab_page.render(json.loads(written))


PAGES = {"report": report_page, "explain": explanation_page, "compare-rewards": comparison_page, "lab": lab_page_of_hostile_names}


@pytest.fixture(scope="module", params=PAGES)
def page(request, tmp_path_factory):
    """Each page, with hostile text in every field."""
    return PAGES[request.param](tmp_path_factory.mktemp(request.param))


def test_every_page_has_only_our_elements_balanced_and_no_handlers(page):
    reader = Reader(page)
    names = {name for name, _ in reader.elements}
    attributes = {key for _, own in reader.elements for key in own}
    assert reader.unbalanced == []
    assert reader.stack == []
    assert not names & {"img", "iframe", "object", "embed", "link", "base"}
    assert [key for key in attributes if key.startswith("on") or key in ("src", "style", "srcset", "action")] == []
    assert [own["href"] for _, own in reader.elements if not re.fullmatch("#[a-z]+", own.get("href", "#own"))] == []
    assert "onerror=alert(1)>" in reader.text
    assert "{{ 7 * 7 }}" in reader.text
    assert not set("\u2028\u2029\u202e") & set(page)


def test_the_policy_of_every_page_allows_its_style_and_its_script_alone(page):
    reader = Reader(page)
    kinds = [own.get("type") for name, own in reader.elements if name == "script"]
    scripts = [text for text, kind in zip(reader.scripts, kinds, strict=True) if kind is None]
    assert kinds in ([], ["application/json", None])
    allowed = "".join(f" script-src {source(text)};" for text in scripts)
    assert reader.policy() == f"default-src 'none'; style-src {source(reader.style)};{allowed} base-uri 'none'; form-action 'none'"
