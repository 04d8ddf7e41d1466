"""A query and a document as one text, as rerankers read them."""

from ..tokenizer import Tokenizer

__all__ = ["pair_ids"]


def pair_ids(tokenizer: Tokenizer, query: str, document: str) -> list[int]:
    """By the model's own template for pairs, or as llama.cpp joins them: BOS query EOS SEP document EOS, of which there
    is what the vocabulary adds to texts; where there is no EOS, SEP stands for it.
    """
    if tokenizer.rerank_template is not None:
        text = tokenizer.rerank_template.replace("{query}", query).replace("{document}", document)
        return tokenizer.encode(text, add_special=False)
    end = tokenizer.eos_id if tokenizer.eos_id is not None else tokenizer.sep_id
    begin = [tokenizer.bos_id] if tokenizer.add_bos else []
    ends = [end] if tokenizer.add_eos else []
    between = [*ends, *([tokenizer.sep_id] if tokenizer.add_sep else [])]
    query_ids, document_ids = (tokenizer.encode(text, add_special=False) for text in (query, document))
    # WordPiece closes a text with SEP, whatever the metadata adds.
    last = ends or ([tokenizer.sep_id] if tokenizer.closes_with_sep else [])
    found = [*begin, *query_ids, *between, *document_ids, *last]
    return [one for one in found if one is not None]
