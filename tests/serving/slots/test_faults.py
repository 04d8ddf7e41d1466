"""What a client is told of a task that failed."""

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.sampling.grammars.grammar import GrammarError
from powerinfer_cli.serving.slots.faults import as_api_error


def test_a_grammar_that_cannot_be_followed_is_the_requests_fault() -> None:
    error = as_api_error(GrammarError("the grammar cannot be followed: too many items"))
    assert (error.status, error.kind) == (400, "invalid_request_error")
    assert error.message == "the grammar cannot be followed: too many items"
    assert as_api_error(PowerInferError("the model gave no usable logits")).status == 500
