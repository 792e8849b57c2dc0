"""Values of coalitions out of table coalition_values: the same coalitions of many rows, or each row's own; missing ones are named."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from ospo_cli.credit.rollout_rows import Indices, Rows, Values
from ospo_cli.errors import CreditError
from ospo_cli.maths import coalitions
from ospo_cli.maths.coalitions import Masks


def dense(found: pl.DataFrame, of_length: Indices, masks: Masks, n_rows: int) -> Values:
    """Return [rows of this length, coalitions] values, NaN where the table has none."""
    names = pl.Series(coalitions.to_mask_strings(masks), dtype=pl.String)
    columns = pl.DataFrame({"coalition": names, "column": np.arange(len(masks))})
    joined = found.join(columns, on="coalition", how="inner")
    line = np.full(n_rows, -1, dtype=np.int64)
    line[of_length] = np.arange(len(of_length))
    values = np.full((len(of_length), len(masks)), np.nan)
    values[line[joined["row"].to_numpy()], joined["column"].to_numpy()] = joined["coalition_value"].to_numpy()
    return values


def listed(found: pl.DataFrame, chosen: Indices, masks: Masks) -> Values:
    """Return [rows, k] values of each row's own coalitions bool[rows, k, n], NaN where the table has none."""
    rows, k, n = masks.shape
    letters = np.ascontiguousarray(masks.reshape(rows * k, n)).astype(np.uint8) + 48
    ends = np.arange(rows * k + 1, dtype=np.int64) * n
    names = pa.LargeStringArray.from_buffers(rows * k, pa.py_buffer(ends), pa.py_buffer(letters))
    wanted = pl.DataFrame({"row": np.repeat(chosen, k), "coalition": pl.from_arrow(names)})
    joined = wanted.join(found.select("row", "coalition", "coalition_value"), on=("row", "coalition"), how="left", maintain_order="left")
    return joined["coalition_value"].fill_null(np.nan).to_numpy().reshape(rows, k)


def check_evaluated(missing: NDArray[np.bool_], masks: Masks, rows: Rows, chosen: Indices, needs: str, remedy: str, iteration: int) -> None:
    """Raise the error that names the first rollout with a missing value: bool[rows, coalitions]."""
    if not missing.any():
        return
    row = int(np.flatnonzero(missing.any(axis=1))[0])
    absent = np.flatnonzero(missing[row])
    more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
    raise CreditError(
        f"rollout {rows.rollout_ids[chosen[row]]}",
        f"coalitions that {needs} were not evaluated",
        found=f"no value of {coalitions.to_mask_string(masks[absent[0]])}{more}",
        expected=f"score_coalitions.{remedy}",
        remedy=f"set that in params.yaml and run `ospo score-coalitions --iter {iteration}`",
    )
