"""What an edit of the code makes stale: the exact stages, for edits on a copy of the package; no stage is run."""

import ast
import dataclasses
import functools
import inspect
import shutil
import subprocess
import sys

import pytest

from ospo_cli import presets
from ospo_cli.errors import OspoError
from ospo_cli.graph.code import MEANINGS, PACKAGE, Code
from ospo_cli.graph.nodes import node, plan
from ospo_cli.params.declare import parameter
from ospo_cli.tables.declare import Column, Table

DEMO = presets.load("demo")
NODES = {wanted.stage: wanted for wanted in plan(DEMO)}
ALL = set(NODES)


@pytest.fixture
def package(tmp_path):
    """A copy of the package that may be edited."""
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", "presets", "cli"))
    return tmp_path / PACKAGE.name


@functools.cache
def before() -> dict[str, str]:
    return hashes(PACKAGE)


def hashes(package, nodes=NODES) -> dict[str, str]:
    code = Code(package)
    return {stage: code.hash(wanted) for stage, wanted in nodes.items()}


def stale(package) -> set[str]:
    now = hashes(package)
    return {stage for stage in now if now[stage] != before()[stage]}


def put(path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path.name} holds {old!r} {text.count(old)} times"
    path.write_text(text.replace(old, new), encoding="utf-8")


def splice(path, node: ast.expr, new: str) -> None:
    """Put other code in the place of an expression."""
    lines = path.read_bytes().splitlines(keepends=True)
    first, last = lines[node.lineno - 1][: node.col_offset], lines[node.end_lineno - 1][node.end_col_offset :]
    lines[node.lineno - 1 : node.end_lineno] = [first + new.encode() + last]
    path.write_bytes(b"".join(lines))


def calls(path, name: str) -> list[ast.Call]:
    found = [item for item in ast.walk(ast.parse(path.read_bytes())) if isinstance(item, ast.Call)]
    return [item for item in found if isinstance(item.func, ast.Name) and item.func.id == name]


def test_a_copy_is_stale_nowhere(package):
    assert stale(package) == set()


# Edits that change nothing, in every module of the package at once


class Docstrings(ast.NodeTransformer):
    def visit_Expr(self, node):
        return (
            ast.Expr(ast.Constant("Said otherwise."))
            if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
            else node
        )


class Texts(ast.NodeTransformer):
    def visit_Constant(self, node):
        return ast.Constant("said otherwise") if isinstance(node.value, str) and not node.value.startswith("ospo_cli.") else node

    def visit_FormattedValue(self, node):
        return ast.FormattedValue(node.value, node.conversion, node.format_spec)


class Messages(ast.NodeTransformer):
    def visit_Raise(self, node):
        return Texts().visit(node)

    def visit_Call(self, node):
        is_error = isinstance(node.func, ast.Name) and node.func.id.endswith("Error")
        is_said = ast.unparse(node.func) in ("sys.stderr.write", "print")
        return Texts().visit(node) if is_error or is_said else self.generic_visit(node)


class Meanings(ast.NodeTransformer):
    def visit_Call(self, node):
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        position = {"parameter": 1, "Table": 1, "Column": 2}.get(name, len(node.args))
        node.args[position : position + 1] = [ast.Constant("meant otherwise") for _ in node.args[position : position + 1]]
        return self.generic_visit(node)


def test_docstrings_messages_meanings_and_formatting_make_no_stage_stale(package):
    edited = dict.fromkeys(("Said otherwise.", "said otherwise", "meant otherwise"), 0)
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for edit in (Docstrings, Messages, Meanings):
            tree = edit().visit(tree)
        text = ast.unparse(ast.fix_missing_locations(tree))  # other line breaks and quotes, no comments but this
        path.write_text(text + "\n# A comment.\n", encoding="utf-8")
        for words in edited:
            edited[words] += words in text
    assert min(edited.values()) > 30, edited
    assert stale(package) == set()


def test_the_meaning_is_where_it_is_looked_for():
    for declared in (parameter, Column, Table):
        assert list(inspect.signature(declared).parameters).index("meaning") == MEANINGS[declared.__name__]


# Registries


def new_entry(package, registry: str, name: str, module: str) -> None:
    """Add an entry to a registry, and its module."""
    (package / module).with_suffix(".py").write_text("def made() -> None: ...\n", encoding="utf-8")
    target = f"{PACKAGE.name}.{module.replace('/', '.')}:made"
    path = package / registry
    text = path.read_text(encoding="utf-8")
    first = next(item for item in ast.parse(text).body if isinstance(item, ast.AnnAssign) and isinstance(item.value, ast.Dict)).value
    splice(path, first, ast.unparse(first)[:-1] + f', "{name}": "{target}"' + "}")


@pytest.mark.parametrize(
    ("registry", "module"),
    [
        ("retrievers/__init__.py", "retrievers/lexical/new"),
        ("sources/__init__.py", "sources/new"),
        ("sampling/__init__.py", "sampling/new"),
        ("training/objectives/__init__.py", "training/objectives/new"),
    ],
)
def test_a_new_entry_that_nobody_chose_makes_no_stage_stale(registry, module, package):
    new_entry(package, registry, "new", module)
    assert stale(package) == set()


def test_a_change_of_a_retriever_makes_stale_who_chose_it(package):
    names = ["hybrid", "bm25", "dense", "tfidf-char"]
    values = dataclasses.replace(DEMO, evaluate=dataclasses.replace(DEMO.evaluate, retrievers=names))
    nodes = {wanted.stage: wanted for wanted in plan(values)}
    old = hashes(package, nodes)
    (package / "retrievers/dense/lsa.py").open("a").write("\n_ADDED = 1\n")  # neither chosen nor a member of hybrid
    assert hashes(package, nodes) == old
    (package / "retrievers/dense/retriever.py").open("a").write("\n_ADDED = 1\n")
    now = hashes(package, nodes)
    assert {stage for stage in now if now[stage] != old[stage]} == {"evaluate"}


# Changes of one module

EVERYTHING_AFTER_REWARDS = {"score-coalitions", "evaluate"}
CHANGED = [
    ("errors.py", ALL),
    ("layout.py", ALL),
    ("tables/parquet.py", ALL),
    ("maths/shapley.py", {"score-coalitions", "attribute", "report"}),
    ("maths/redistribution.py", {"attribute"}),
    ("maths/shaping.py", {"attribute"}),
    ("maths/adaptive.py", {"score-coalitions", "attribute"}),
    ("maths/ranking.py", EVERYTHING_AFTER_REWARDS | {"report"}),
    ("training/policy_loss.py", {"update"}),
    ("training/objectives/policy_gradient.py", {"update"}),
    ("training/objectives/preference.py", set()),
    ("training/supervised.py", {"warm-start", "update"}),
    ("segmenters/spacy_chunks.py", {"segment"}),
    ("text/segments.py", {"segment"}),
    ("text/coalition_text.py", {"score-coalitions"}),
    ("sampling/causal_lm.py", {"rollout", "evaluate"}),
    ("sampling/vllm_engine.py", set()),
    ("sampling/completions_server.py", set()),
    ("rewards/answers.py", {"score-coalitions"}),
    ("rewards/judged_reward.py", EVERYTHING_AFTER_REWARDS),
    ("rewards/oracle.py", {"evaluate"}),
    ("rewards/judged_teacher.py", set()),
    ("rewards/catalogue_teacher.py", set()),
    ("rewards/alive_groups.py", set()),
    ("retrievers/lexical/bm25.py", EVERYTHING_AFTER_REWARDS),
    ("retrievers/lexical/tfidf_char.py", {"evaluate"}),
    ("retrievers/dense/transformer_encoder.py", set()),
    ("retrievers/http/engine.py", set()),
    ("sources/demo_shop.py", {"prepare-data"}),
    ("sources/esci.py", set()),
    ("report/page.py", {"report"}),
    ("report/charts.py", {"report"}),
    ("policies/lora.py", {"warm-start", "rollout", "update", "evaluate"}),
    ("graph/declared.py", set()),
    ("instruments/lab/page.py", set()),
    ("params/whole.py", {"report"}),
    ("tables/reference.py", set()),
]


@pytest.mark.parametrize(("module", "expected"), CHANGED)
def test_a_change_of_a_module_makes_stale_the_stages_that_reach_it(module, expected, package):
    with (package / module).open("a", encoding="utf-8") as stream:
        stream.write("\n_ADDED = 1\n")
    assert stale(package) == expected


@pytest.mark.parametrize("name", ["page.css", "report.html", "macros.html"])
def test_a_change_of_a_template_makes_the_report_stale(name, package):
    with (package / "report/templates" / name).open("a", encoding="utf-8") as stream:
        stream.write("\n")
    assert stale(package) == {"report"}


def test_with_further_rounds_rollouts_are_stale_after_a_change_of_reward_and_with_judged_teachers_the_first_policy_is(package):
    nodes = {
        "rollout": node("rollout", 1, dataclasses.replace(DEMO, rollout=dataclasses.replace(DEMO.rollout, further_rounds=2))),
        "warm-start": node(
            "warm-start", None, dataclasses.replace(DEMO, warm_start=dataclasses.replace(DEMO.warm_start, teacher="judgments"))
        ),
        "warm-start, looking": node(
            "warm-start", None, dataclasses.replace(DEMO, warm_start=dataclasses.replace(DEMO.warm_start, look_every=100))
        ),
        "score-queries": node("score-queries", None, DEMO),
    }
    old = hashes(package, nodes)
    with (package / "rewards/judged_reward.py").open("a", encoding="utf-8") as stream:
        stream.write("\n_ADDED = 1\n")
    now = hashes(package, nodes)
    assert all(now[stage] != old[stage] for stage in nodes)


# Parameters and tables

SECTIONS = {
    "train": ALL - {"segment"},
    "policy": {"warm-start", "rollout", "update", "evaluate", "report"},
    # A gate is asked as `ospo rewrite` asks, by the prompt template.
    "prepare_data": {"prepare-data", "evaluate", "report"},
    "retrieval": {"prepare-data", "score-coalitions", "evaluate", "report"},  # prepare-data reads the folding of case
    "warm_start": {"warm-start", "report"},
    "rollout": {"rollout", "update", "evaluate", "report"},
    "segment": {"segment", "report"},
    "score_coalitions": {"score-coalitions", "attribute", "evaluate", "report"},
    "attribute": {"attribute", "report"},
    "update": {"update", "report"},
    "evaluate": {"evaluate", "report"},
    "report": {"report"},
    "execution": {"report"},
}


@pytest.mark.parametrize(("section", "expected"), SECTIONS.items())
def test_another_default_makes_stale_the_stages_that_read_the_section(section, expected, package):
    path = package / f"params/{section}.py"
    default = calls(path, "parameter")[0].args[0]
    splice(path, default, f"({ast.unparse(default)}, 1)[0]")
    assert stale(package) == expected


@pytest.mark.parametrize(("section", "expected"), SECTIONS.items())
def test_a_new_parameter_makes_stale_the_stages_that_read_the_section(section, expected, package):
    path = package / f"params/{section}.py"
    last = calls(path, "parameter")[-1]
    splice(path, last, ast.unparse(last) + '\n    added: int = parameter(0, "a new one")')
    assert stale(package) == expected


TABLES = {
    "prepared": {"prepare-data", "warm-start", "rollout", "score-coalitions", "update", "evaluate", "report"},
    "score_queries": {"rollout"},
    "rollout": {"rollout", "segment", "score-coalitions", "attribute", "update", "report"},
    "segment": {"segment", "score-coalitions", "attribute", "report"},
    "score_coalitions": {"score-coalitions", "attribute", "update", "evaluate", "report"},
    "attribute": {"attribute", "update", "report"},
    "evaluate": {"evaluate", "report"},
    "audit": {"report"},
    "keep": {"report"},
    "plan": {"report"},
    "lab": set(),
    "headroom": set(),
    "store": set(),
}


@pytest.mark.parametrize(("table", "expected"), TABLES.items())
def test_another_column_type_makes_stale_the_stages_that_read_or_write_the_table(table, expected, package):
    path = package / f"tables/{table}.py"
    dtype = calls(path, "Column")[0].args[1]
    splice(path, dtype, "pl.Categorical")
    assert stale(package) == expected


# The reading of modules


@pytest.mark.parametrize("stage", ["prepare-data", "segment", "score-coalitions", "attribute"])
def test_loading_all_that_a_stage_reaches_loads_nothing_else_of_the_package(stage):
    names = sorted(name for name in Code().reached(NODES[stage]) if ":" not in name and "/" not in name)
    program = f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\nprint(*(name for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert sorted(name for name in done.stdout.split() if name.partition(".")[0] == PACKAGE.name) == names


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x = 1", "x = 2"),
        ("x = 1", "x = 1.0"),
        ("x = 'a'", "x = b'a'"),
        ("x = f'{y:.2f}'", "x = f'{y:.3f}'"),
        ("def f(x=1): return x", "def f(x, *, y=1): return x"),
        ("if a: b()", "if not a: b()"),
        ("raise ValueError(f'{x}')", "raise ValueError(f'{y}')"),
        ("raise ValueError('x')", "raise TypeError('x')"),
        ("a = parameter(1, 'm', minimum=0)", "a = parameter(1, 'm', minimum=1)"),
        ("a = Column('n', pl.String, 'm')", "a = Column('n', pl.String, 'm', nullable=True)"),
        ("stream.write('x')", "stream.write('y')"),
        ("from a import b", "from a import c"),
    ],
)
def test_what_can_change_a_result_changes_the_hash(old, new, tmp_path):
    assert digest(tmp_path, old) != digest(tmp_path, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("raise ValueError('x')", "raise ValueError('y')"),
        ("raise ValueError(f'{x} a')", "raise ValueError(f'b {x}')"),
        ("assert x, 'a'", "assert x, 'b'"),
        ("e = OspoError(where, 'a', remedy='b')", "e = OspoError(where, 'c', remedy='d')"),
        ("sys.stderr.write(f'{n} done')", "sys.stderr.write(f'done: {n}')"),
        ("def f():\n    '''A.'''\n    return 1", "def f():\n    return 1"),
        ("if TYPE_CHECKING:\n    from ospo_cli import a", "if TYPE_CHECKING:\n    from ospo_cli import b"),
        ("a = Table('n', meaning='m', key=())", "a = Table('n', meaning='o', key=())"),
    ],
)
def test_what_is_only_said_does_not_change_the_hash(old, new, tmp_path):
    assert digest(tmp_path, old) == digest(tmp_path, new)


def digest(folder, text: str) -> str:
    package = folder / "ospo_cli"
    shutil.rmtree(package, ignore_errors=True)
    (package / "stages").mkdir(parents=True)
    (package / "stages/alone.py").write_text(text)
    wanted = dataclasses.replace(NODES["segment"], stage="alone", sections=())
    return Code(package).hash(wanted)


def test_what_was_found_is_kept_by_content_and_an_edit_is_seen(package, tmp_path):
    known = tmp_path / "cache" / "code.json"
    first = Code(package, known).hash(NODES["segment"])
    assert Code(package, known).hash(NODES["segment"]) == first
    with (package / "text/segments.py").open("a", encoding="utf-8") as stream:
        stream.write("\n_ADDED = 1\n")
    assert Code(package, known).hash(NODES["segment"]) != first
    known.write_text("{")
    assert Code(PACKAGE, known).hash(NODES["segment"]) == first


def test_a_module_that_is_no_python_is_named(package):
    (package / "text/segments.py").write_text("def\n")
    with pytest.raises(OspoError, match=r"segments\.py, line 1: is no valid Python"):
        hashes(package)


def test_where_shards_run_makes_nothing_stale(package):
    put(package / "executors" / "processes.py", "_LAST_BYTES = 4096", "_LAST_BYTES = 8192")
    put(package / "executors" / "worker.py", "VISIBLE_SECONDS = 60.0", "VISIBLE_SECONDS = 90.0")
    assert stale(package) == set()
