"""The user message, and queries in one line as prepare-data has them."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from ospo_cli.stages.prepare_data import _one_line
from ospo_cli.text.prompt_template import one_line


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_a_query_in_one_line_is_that_of_prepare_data(text):
    assert one_line(text) == pl.DataFrame({"t": [text]}).select(_one_line(pl.col("t")).alias("t"))["t"][0]
