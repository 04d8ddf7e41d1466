"""From a loaded model to what handlers have of it."""

from collections import Counter
from pathlib import Path

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.placement.fingerprint import model_fingerprint
from powerinfer_cli.runtime import Engine
from powerinfer_cli.sampling.forms import grammars_of
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.service import ServedModel
from powerinfer_cli.serving.slots.engine_like import slot_context
from powerinfer_cli.serving.slots.engine_thread import EngineThread
from powerinfer_cli.text import ChatTemplate, Tokenizer

__all__ = ["served_model", "start_thread"]


def served_model(
    gguf: GGUFFile, tokenizer: Tokenizer, engine: Engine, options: ServerOptions, lines: tuple[str, ...], log: Log
) -> ServedModel:
    """Raises PowerInferError: a chat template or a grammar that cannot be, or a model that cannot rank and is to."""
    grammars = grammars_of(tokenizer, lambda line: log.note(f"warning: {line}"))
    options.form.compiled(grammars)
    template = _template(options.chat_template, tokenizer)
    ranks = _can_rank(engine, options)
    n_ctx_slot = slot_context(engine)
    if n_ctx_slot < engine.n_ctx_sequence:
        log.note(
            f"warning: the model was trained on {n_ctx_slot} tokens: slots have these, not {engine.n_ctx_sequence}"
        )
    name = options.alias or str(gguf.path)
    tensors = gguf.tensors.values()
    bytes_of: Counter[str] = Counter()
    for tensor in tensors:
        bytes_of[tensor.type.name] += tensor.nbytes
    return ServedModel(
        name=name,
        names=options.names or (name,),
        tags=options.tags,
        path=gguf.path,
        metadata=gguf.metadata,
        config=engine.config,
        tokenizer=tokenizer,
        template=template,
        n_ctx_slot=n_ctx_slot,
        n_slots=engine.n_sequences,
        n_params=sum(tensor.n_elements for tensor in tensors),
        size=sum(tensor.nbytes for tensor in tensors),
        file_type=bytes_of.most_common(1)[0][0] if bytes_of else "",
        ranks=ranks,
        lines=lines,
        grammars=grammars,
    )


def _can_rank(engine: Engine, options: ServerOptions) -> bool:
    """Raises PowerInferError: no, and it is the one that is to."""
    try:
        _ = engine.scorer
    except PowerInferError:
        if not options.several and (options.rerank or options.pooling == "rank"):
            raise
        return False
    return True


def _template(option: str | None, tokenizer: Tokenizer) -> ChatTemplate:
    """llama-server's choice for a model without a template is chatml, and any sentence is a template."""
    if option is None:
        return ChatTemplate.from_tokenizer(tokenizer, default="chatml")
    if any(letter.isspace() for letter in option) and not Path(option).is_file():
        return ChatTemplate(option, "the command line", tokenizer)
    return ChatTemplate.from_option(option, tokenizer)


def start_thread(
    gguf: GGUFFile, tokenizer: Tokenizer, engine: Engine, options: ServerOptions, log: Log
) -> EngineThread:
    """The engine's thread, at work. Called by the thread that loaded the model: where that was told to run on certain
    cores, its children run there, too.
    """
    thread = EngineThread(engine, tokenizer, options, log.served, on_fault=log.failure, model=model_fingerprint(gguf))
    thread.start()
    if options.cache_ram_mib and engine.config.causal:
        most = f"up to {options.cache_ram_mib} MiB" if options.cache_ram_mib > 0 else "as much memory as is free"
        log.note(f"prompt cache: texts that leave their slot are kept in {most} (--cache-ram)")
    return thread
