"""Which models a request may name: any, or with --strict-model those that are served."""

from typing import Any

import pytest

from powerinfer_cli.serving.options import ServerOptions
from tests.serving.fake_service import post
from tests.serving.test_completion_routes import usual

BODIES: dict[str, dict[str, Any]] = {
    "/completion": {"prompt": "Hi"},
    "/v1/completions": {"prompt": "Hi"},
    "/tokenize": {"content": "Hi"},
}


@pytest.mark.parametrize("path", BODIES)
def test_another_model(path: str) -> None:
    body, strict = BODIES[path], ServerOptions(strict_model=True)
    for name in ("gpt-4o", 7, ["fake"]):
        answer = post(path, {**body, "model": name}, usual, options=strict)[0]
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert "Field 'model'" in error["message"]
        assert "fake" in error["message"]
    for options, fields in ((ServerOptions(), {"model": "gpt-4o"}), (strict, {"model": "fake"}), (strict, {})):
        assert post(path, body | fields, usual, options=options)[0].status_code == 200


def test_a_body_that_is_no_object_is_the_handlers() -> None:
    answer = post("/completion", [1, 2], usual, options=ServerOptions(strict_model=True))[0]
    assert answer.status_code == 400
