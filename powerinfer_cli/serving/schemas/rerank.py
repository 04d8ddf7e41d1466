"""What /rerank takes: llama-server's fields, which are Jina's, or those of Text Embeddings Inference."""

from typing import Any

from pydantic import Field

from powerinfer_cli.serving.errors import invalid_request, not_supported
from powerinfer_cli.serving.prompts import is_costly
from powerinfer_cli.serving.schemas.embeddings import check_length, most_inputs, ranks
from powerinfer_cli.serving.service import Service
from powerinfer_cli.serving.tasks import EmbeddingTask
from powerinfer_cli.serving.threads import in_thread
from powerinfer_cli.text.algorithms.ranked_pair import pair_ids

from .fields import Integer, RequestFields, Switch

__all__ = ["RerankRequest", "rerank_tasks"]


class RerankRequest(RequestFields):
    """A query and documents. texts: documents' name in the other form, which is then that of the answer."""

    query: Any = None
    documents: Any = None
    texts: Any = None
    top_n: Integer | None = Field(None, description="how many of the best to tell; without: all")
    return_text: Switch | None = Field(None, description="with `texts`: tell each one's own text")
    model: str | None = Field(None, description="any: one model is served")

    @property
    def is_plain(self) -> bool:
        """Whether the answer is a list alone."""
        return "texts" in self.model_fields_set

    @property
    def pairs(self) -> tuple[str, list[str]]:
        """The query and its documents. APIError 400 where there are none."""
        if "query" not in self.model_fields_set:
            raise invalid_request('"query" must be provided')
        if not isinstance(self.query, str):
            raise invalid_request('"query" must be a string')
        documents = self.texts if self.documents is None else self.documents
        if not isinstance(documents, list) or not documents or not all(isinstance(one, str) for one in documents):
            raise invalid_request('"documents" must be a non-empty string array')
        return self.query, documents


async def rerank_tasks(request: RerankRequest, service: Service) -> list[EmbeddingTask]:
    """One for each document. Raises APIError."""
    if service.options.several and not service.model.ranks:
        raise not_supported(f"model '{service.model.name}' has no classification head, so that it cannot rank texts")
    if not ranks(service):
        raise not_supported("This server does not support reranking. Start it with `--reranking`")
    query, documents = request.pairs
    most = most_inputs(service)
    if len(documents) > most:
        raise invalid_request(
            f'"documents" must be at most {most}, got {len(documents)}: send fewer at a time, or start the server with '
            "a larger --queue"
        )
    if len(documents) * len(query) > 1 << 12 or is_costly(documents):
        return await in_thread(_tasks, query, documents, service)
    return _tasks(query, documents, service)


def _tasks(query: str, documents: list[str], service: Service) -> list[EmbeddingTask]:
    model = service.model
    prompts = [tuple(pair_ids(model.tokenizer, query, document)) for document in documents]
    for prompt in prompts:
        if not prompt:
            raise invalid_request("Input content cannot be empty")
        check_length(prompt, model.n_ctx_slot)
    return [EmbeddingTask(prompt, "rank", label="rerank") for prompt in prompts]
