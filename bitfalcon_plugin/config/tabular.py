"""Objects that are a table: their records as JSON, as CSV and as a pandas DataFrame."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from .errors import UserError


class Tabular:
    """Texts of the records that `summary` gives. All options of `summary` can be given to the other methods."""

    json_options: ClassVar[Mapping[str, Any]] = {"ensure_ascii": False}

    def summary(self, *args: Any, **options: Any) -> list[dict[str, Any]]:
        """Return the records of the table: a dict for each, with the keys `columns()`."""
        raise NotImplementedError

    def columns(self, flat: bool = False) -> Sequence[str]:
        """The keys of a record; with `flat` the columns of the CSV, one for each key of a nested dict."""
        raise NotImplementedError

    def to_json(self, *args: Any, **options: Any) -> str:
        """`summary` as JSON text."""
        return json.dumps(self.summary(*args, **options), **self.json_options)

    def to_csv(self, *args: Any, **options: Any) -> str:
        """`summary` as CSV text with a header."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns(flat=True), lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(flatten, self.summary(*args, **options)))
        return text.getvalue()

    def to_df(self, *args: Any, **options: Any) -> Any:
        """`summary` as a pandas DataFrame. Raises UserError without pandas."""
        try:
            import pandas
        except ImportError as error:
            raise UserError(
                "to_df() makes a pandas DataFrame, and pandas is not installed: pip install pandas . summary(), "
                "to_csv() and to_json() give the same without it."
            ) from error
        return pandas.DataFrame(self.summary(*args, **options), columns=list(self.columns()))


def flatten(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with the items of its nested dicts among its own, behind them.

    An item that is a list has the key of its dict before its own: segments: {x: [...]} becomes segments_x.
    """
    flat = {key: value for key, value in record.items() if not isinstance(value, Mapping)}
    for name, nested in record.items():
        if isinstance(nested, Mapping):
            flat |= {f"{name}_{key}" if isinstance(value, list) else key: value for key, value in nested.items()}
    return flat
