"""The report of a comparison: page, tables, plots and the lines they come from."""

from shared.comparison.answers import lines
from shared.comparison.report.write import write_report

__all__ = ["lines", "write_report"]
