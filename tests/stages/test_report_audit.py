"""The audits on the page: shown as long as what they were computed from stands, named as stale after, never needed."""

import json
import re
import shutil

import polars as pl
import pytest

from ospo_cli import presets
from ospo_cli.graph.nodes import node
from ospo_cli.graph.records import Records
from ospo_cli.instruments.audit import estimators as audit
from ospo_cli.layout import Layout
from ospo_cli.stages import report
from ospo_cli.tables import parquet, reference
from ospo_cli.tables.audit import AUDIT, AUDIT_CURVES, GRADIENT_AUDIT
from tests.report import small_project


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    layout, values = small_project.write_project(tmp_path_factory.mktemp("audited"), iterations=2)
    audit.execute(layout, values, 1, 6, ["myerson", "shapley", "leave-one-out"])
    write_gradients(layout, values)
    return layout, values


@pytest.fixture
def project(audited, tmp_path):
    return Layout(shutil.copytree(audited[0].root, tmp_path / "project")), audited[1]


def write_gradients(layout, values):
    """Write a gradient audit of made-up numbers, as the command does."""
    from ospo_cli.params.whole import to_mapping
    from ospo_cli.report import staleness

    plain, of_step = ("signal", "squared length", "noise scale", "direction", "floor"), ("progress", "saving")
    rows = [
        (estimator, rule, "std", "all", measure, groups, value, 0.125, 8)
        for estimator, rule, value in (("any", "uniform", 0.5), ("myerson", "<b>group-additive", 0.75))
        for measure, groups in [*((name, 0) for name in plain), *((name, 16) for name in of_step)]
    ]
    path = layout.iteration(1, "gradient_audit.parquet")
    parquet.write(pl.DataFrame(rows, schema=GRADIENT_AUDIT.schema, orient="row"), path, GRADIENT_AUDIT)
    metrics = {
        "prompts": 8,
        "group_size": 8,
        "groups_per_step": 16,
        "trained_weights": 1000,
        "tables": staleness.fingerprints(layout, to_mapping(values), [path], []),
        "inputs": staleness.fingerprints(layout, to_mapping(values), [layout.prepared("qrels.parquet")], ["attribute"]),
    }
    layout.iteration(1, "gradient_audit_metrics.json").write_text(json.dumps(metrics))


def section(layout, values):
    report.execute(layout, values)
    found = re.search('<section id="audit">.*?</section>', layout.report().read_text(), re.DOTALL)
    return "" if found is None else found.group()


def test_a_project_without_audits_has_no_such_section(tmp_path):
    layout, values = small_project.write_project(tmp_path, iterations=1)
    assert section(layout, values) == ""


def test_both_curves_and_all_estimators_are_shown(project):
    found = section(*project)
    assert found.count("<svg") == 2
    assert "deletion curves" in found
    assert "insertion curves" in found
    for name in ("myerson", "shapley", "leave-one-out", "random orders"):
        assert f"<span>{name}</span>" in found
    assert found.count("<polyline") == 2 * 4
    assert "stale" not in found
    assert found.count('scope="row"') == 3 + 2


def test_the_curves_begin_and_end_where_no_order_matters(project):
    layout, _ = project
    curves = parquet.read(layout.iteration(1, "audit_curves.parquet"), AUDIT_CURVES)
    ends = curves.filter(pl.col("part").is_in([0.0, 1.0])).group_by("curve", "part").agg(pl.col("value").max() - pl.col("value").min())
    assert ends["value"].to_list() == pytest.approx([0] * 4, abs=1e-12)
    whole = curves.filter(estimator="shapley", curve="deletion", part=0.0)["value"].item()
    assert whole == pytest.approx(curves.filter(estimator="shapley", curve="insertion", part=1.0)["value"].item())
    assert curves.height == 4 * 2 * 11


def test_the_area_under_a_curve_of_steps_is_the_audits_number(project):
    layout, _ = project
    curves = parquet.read(layout.iteration(1, "audit_curves.parquet"), AUDIT_CURVES)
    table = parquet.read(layout.iteration(1, "audit.parquet"), AUDIT)
    for curve in ("deletion", "insertion"):
        values = curves.filter(estimator="shapley", curve=curve).sort("part")["value"].to_numpy()
        area = table.filter(estimator="shapley", check=curve, measure="area")["value"].item()
        assert float((values[1:] + values[:-1]).mean() / 2) == pytest.approx(area, abs=0.02)


@pytest.mark.parametrize("name", ["rewards.parquet", "audit.parquet"])
def test_an_audit_of_other_tables_is_named_as_stale_and_not_shown(project, name):
    layout, values = project
    path = layout.iteration(1, name)
    table = reference.TABLES[path.stem]
    parquet.write(parquet.read(path, table).head(5), path, table)
    found = section(layout, values)
    assert "The audit is stale" in found
    assert f"data/iterations/001/{name}" in found
    assert "ospo audit --iter 1</code>" in found
    assert "<svg" not in found
    assert "The gradient audit is stale" not in found


def test_other_parameters_make_it_stale_by_their_name(project):
    layout, _ = project
    found = section(layout, small_project.make_params(iterations=2, retrieval={"k1": 0.9}))
    assert "params.yaml: retrieval" in found
    assert "<svg" not in found


def test_a_missing_table_makes_it_stale(project):
    layout, values = project
    layout.iteration(1, "audit_curves.parquet").unlink()
    assert "audit_curves.parquet" in section(layout, values)


def test_metrics_that_name_no_inputs_are_stale(project):
    layout, values = project
    layout.iteration(1, "audit_metrics.json").write_text("{}")
    found = section(layout, values)
    assert "does not say what it was computed from" in found
    assert "Gradients of 8 prompts" in found


def test_a_stale_gradient_audit_names_its_own_command(project):
    layout, values = project
    found = section(layout, small_project.make_params(iterations=2, attribute={"beta": 0.25}))
    assert "The gradient audit is stale" in found
    assert "ospo audit --iter 1 --gradients" in found
    assert values.attribute.beta != 0.25


def test_names_from_tables_are_escaped(project):
    found = section(*project)
    assert "&lt;b&gt;group-additive" in found
    assert "<b>group-additive" not in found


def test_the_loop_needs_no_audit_and_writes_the_page_anew_after_one(project):
    layout, values = project
    wanted = node("report", None, values)
    assert not set(wanted.optional) & set(wanted.inputs)
    layout.params.write_text(presets.render(values), encoding="utf-8")

    def key():
        return Records(layout, values).key(wanted)

    before = key()
    assert key() == before
    layout.iteration(1, "audit_metrics.json").unlink()
    assert key() != before
