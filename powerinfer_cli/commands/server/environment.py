"""Flags from environment variables, as llama.cpp names them. What the command line says wins."""

from collections.abc import Mapping, Sequence

__all__ = ["VARIABLES", "Variable", "environment_words", "unknown_variables"]

TRUE, FALSE = ("on", "enabled", "true", "1"), ("off", "disabled", "false", "0")


class Variable:
    """A flag with a value; or a switch, with the flag for off ("" where off is what it is anyway)."""

    def __init__(self, flag: str, off: str | None = None) -> None:
        self.flag, self.off = flag, off

    def words(self, value: str) -> list[str]:
        """What the variable means on a command line. Raises ValueError."""
        if self.off is None:
            return [f"{self.flag}={value}"]
        if value.lower() in TRUE:
            return [self.flag]
        if value.lower() in FALSE:
            return [self.off] if self.off else []
        raise ValueError(f"must be one of {', '.join((*TRUE, *FALSE))}")


def _switch(flag: str) -> Variable:
    return Variable(flag, flag.replace("--", "--no-", 1))


VARIABLES = {
    "LLAMA_ARG_MODEL": Variable("--model"),
    "LLAMA_ARG_HF_REPO": Variable("--hf-repo"),
    "LLAMA_ARG_HF_FILE": Variable("--hf-file"),
    "LLAMA_ARG_CTX_SIZE": Variable("--ctx-size"),
    "LLAMA_ARG_BATCH": Variable("--batch-size"),
    "LLAMA_ARG_UBATCH": Variable("--ubatch-size"),
    "LLAMA_ARG_CACHE_TYPE_K": Variable("--cache-type-k"),
    "LLAMA_ARG_CACHE_TYPE_V": Variable("--cache-type-v"),
    "LLAMA_ARG_THREADS": Variable("--threads"),
    "LLAMA_ARG_THREADS_BATCH": Variable("--threads-batch"),
    "LLAMA_ARG_REPACK": _switch("--repack"),
    "LLAMA_ARG_MLOCK": Variable("--mlock", ""),
    "LLAMA_ARG_SWA_FULL": Variable("--swa-full", ""),
    "LLAMA_ARG_NUMA": Variable("--numa"),
    "LLAMA_ARG_N_GPU_LAYERS": Variable("--gpu-layers"),
    "LLAMA_ARG_MAIN_GPU": Variable("--main-gpu"),
    "LLAMA_ARG_TENSOR_SPLIT": Variable("--tensor-split"),
    "LLAMA_ARG_DEVICE": Variable("--device"),
    "LLAMA_ARG_VRAM_BUDGET": Variable("--vram-budget"),
    "LLAMA_ARG_TEMP": Variable("--temp"),
    "LLAMA_ARG_TOP_K": Variable("--top-k"),
    "LLAMA_ARG_TOP_P": Variable("--top-p"),
    "LLAMA_ARG_MIN_P": Variable("--min-p"),
    "LLAMA_ARG_REPEAT_PENALTY": Variable("--repeat-penalty"),
    "LLAMA_ARG_PRESENCE_PENALTY": Variable("--presence-penalty"),
    "LLAMA_ARG_FREQUENCY_PENALTY": Variable("--frequency-penalty"),
    "LLAMA_ARG_SPEC_TYPE": Variable("--spec-type"),
    "LLAMA_ARG_SPEC_DRAFT_MODEL": Variable("--model-draft"),
    "LLAMA_ARG_SPEC_DRAFT_HF_REPO": Variable("--hf-repo-draft"),
    "LLAMA_ARG_SPEC_DRAFT_N_MAX": Variable("--draft-max"),
    "LLAMA_ARG_SPEC_DRAFT_N_MIN": Variable("--draft-min"),
    "LLAMA_ARG_SPEC_DRAFT_P_MIN": Variable("--draft-p-min"),
    "LLAMA_ARG_N_GPU_LAYERS_DRAFT": Variable("--gpu-layers-draft"),
    "LLAMA_ARG_MODELS_DIR": Variable("--models-dir"),
    "LLAMA_ARG_MODELS_PRESET": Variable("--models-preset"),
    "LLAMA_ARG_MODELS_MAX": Variable("--models-max"),
    "LLAMA_ARG_MODELS_AUTOLOAD": _switch("--models-autoload"),
    "LLAMA_ARG_HOST": Variable("--host"),
    "LLAMA_ARG_PORT": Variable("--port"),
    "LLAMA_API_KEY": Variable("--api-key"),
    "LLAMA_ARG_API_KEY_FILE": Variable("--api-key-file"),
    "LLAMA_ARG_TIMEOUT": Variable("--timeout"),
    "LLAMA_ARG_CORS_ORIGINS": Variable("--cors-origins"),
    "LLAMA_ARG_ENDPOINT_METRICS": _switch("--metrics"),
    "LLAMA_ARG_ENDPOINT_PROPS": _switch("--props"),
    "LLAMA_ARG_ENDPOINT_SLOTS": _switch("--slots"),
    "LLAMA_ARG_UI": _switch("--ui"),
    "LLAMA_ARG_STATIC_PATH": Variable("--path"),
    "LLAMA_ARG_LOG_FORMAT": Variable("--log-format"),
    "LLAMA_ARG_LOG_VERBOSITY": Variable("--verbosity"),
    "LLAMA_ARG_N_PARALLEL": Variable("--parallel"),
    "LLAMA_ARG_CONT_BATCHING": _switch("--cont-batching"),
    "LLAMA_ARG_KV_UNIFIED": _switch("--kv-unified"),
    "LLAMA_ARG_QUEUE": Variable("--queue"),
    "LLAMA_ARG_STRICT_MODEL": Variable("--strict-model", ""),
    "LLAMA_ARG_SLOT_SAVE_PATH": Variable("--slot-save-path"),
    "LLAMA_ARG_SLEEP_IDLE_SECONDS": Variable("--sleep-idle-seconds"),
    "LLAMA_ARG_CACHE_PROMPT": _switch("--cache-prompt"),
    "LLAMA_ARG_CACHE_RAM": Variable("--cache-ram"),
    "LLAMA_ARG_CONTEXT_SHIFT": _switch("--context-shift"),
    "LLAMA_ARG_ALIAS": Variable("--alias"),
    "LLAMA_ARG_TAGS": Variable("--tags"),
    "LLAMA_ARG_N_PREDICT": Variable("--n-predict"),
    "LLAMA_ARG_EMBEDDINGS": Variable("--embeddings", ""),
    "LLAMA_ARG_POOLING": Variable("--pooling"),
    "LLAMA_ARG_RERANKING": Variable("--rerank", ""),
    "LLAMA_ARG_CHAT_TEMPLATE": Variable("--chat-template"),
    "LLAMA_ARG_CHAT_TEMPLATE_FILE": Variable("--chat-template-file"),
    "LLAMA_ARG_JINJA": _switch("--jinja"),
    "LLAMA_ARG_THINK": Variable("--reasoning-format"),
    "LLAMA_ARG_REASONING": Variable("--reasoning"),
    "LLAMA_ARG_THINK_BUDGET": Variable("--reasoning-budget"),
    "LLAMA_ARG_CHAT_TEMPLATE_KWARGS": Variable("--chat-template-kwargs"),
    "LLAMA_ARG_PREFILL_ASSISTANT": _switch("--prefill-assistant"),
}

# Of these only one can be meant: what the command line says replaces what the environment says of another.
RIVALS = (
    ("LLAMA_ARG_MODEL", ("-hf", "-hfr", "--hf-repo")),
    ("LLAMA_ARG_HF_REPO", ("-m", "--model")),
    ("LLAMA_ARG_HF_FILE", ("-m", "--model")),
    ("LLAMA_ARG_CHAT_TEMPLATE", ("--chat-template-file",)),
    ("LLAMA_ARG_CHAT_TEMPLATE_FILE", ("--chat-template",)),
)


# Without what these say everybody is let in, which nobody means who sets them.
DOORS = {"LLAMA_API_KEY": "--api-key", "LLAMA_ARG_API_KEY_FILE": "--api-key-file"}


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Those that look like llama.cpp's, but mean nothing here."""
    known = {name.replace("LLAMA_ARG_", prefix) for name in VARIABLES for prefix in ("LLAMA_ARG_", "LLAMA_ARG_NO_")}
    return sorted(name for name in environment if name.startswith("LLAMA_ARG_") and name not in known)


def environment_words(environment: Mapping[str, str], args: Sequence[str]) -> list[tuple[str, list[str]]]:
    """(variable, its words) for each variable that is set and not empty, and that `args` do not overrule. An empty one
    of `DOORS` is an error.

    LLAMA_ARG_NO_... switches off, whatever its value. Raises ValueError, which names the variable.
    """
    given = {arg.partition("=")[0] for arg in args}
    overruled = {name for name, flags in RIVALS if given & set(flags)}
    found = []
    for name, variable in VARIABLES.items():
        off = name.replace("LLAMA_ARG_", "LLAMA_ARG_NO_")
        if variable.off and off in environment:
            found.append((off, [variable.off]))
        elif name in DOORS and not environment.get(name, "-").strip() and DOORS[name] not in given:
            raise ValueError(f"{name} is empty: anybody could come in; without a key, leave it unset")
        elif environment.get(name) and name not in overruled:
            try:
                found.append((name, variable.words(environment[name])))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
    return found
