"""What came of solving: as plain data, and as a page with figures."""

from solver.report.data import PlanOutcome, report_data
from solver.report.figures import PARTS
from solver.report.page import report_page, write_page

__all__ = ["PARTS", "PlanOutcome", "report_data", "report_page", "write_page"]
