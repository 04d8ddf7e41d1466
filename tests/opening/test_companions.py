"""What lies beside a model: what is known of its predictors."""

from pathlib import Path

import pytest

from powerinfer_cli.opening import companions
from solver.state import read_state


@pytest.mark.parametrize(
    ("reports", "found"),
    [
        ([{"predicted_density": 0.2}, {"predicted_density": 1.0}], (0.2, 1.0)),
        ([{"predicted_density": 0.2}], None),
        ([{"predicted_density": 0.2}, {"predicted_density": 7}], None),
        ([{"predicted_density": "much"}, {}], None),
        (None, None),
    ],
)
def test_what_is_recorded_of_predictors_is_planned_by(
    tmp_path: Path, reports: list[dict[str, float]] | None, found: tuple[float, ...] | None
) -> None:
    """By `main` as well, which does not run them before it plans."""
    assert companions._reported(tmp_path, 2) is None
    read_state(tmp_path).with_stage("predictor", {}, {"reports": reports})
    assert companions._reported(tmp_path, 2) == found
