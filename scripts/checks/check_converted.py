#!/usr/bin/env python3
"""Convert the tests' tiny models of each family by llama.cpp's own converter, and compare what they compute with torch.

    python scripts/checks/check_converted.py --peer-source llama.cpp    # its source, with conversion/ and gguf-py/
    python scripts/checks/check_converted.py --peer-source ... --only gemma3,phi2 --files FOLDER

A line a family: how far our logits of its file are from the torch model's, in relation to the largest of those. Files
have no vocabulary. Families whose model is no class of transformers are left out: the converter wants other names.
"""

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from powerinfer_cli.errors import PowerInferError  # noqa: E402  # after the path is set
from powerinfer_cli.gguf_io import open_gguf  # noqa: E402  # after the path is set
from powerinfer_cli.runtime import Engine, EngineOptions  # noqa: E402  # after the path is set
from tests.helpers.checkpoints import save_checkpoint  # noqa: E402  # after the path is set
from tests.helpers.families import FAMILIES, PROMPT, tiny_family  # noqa: E402  # after the path is set

AGREES = 2e-5
OTHER_NAMES = {"MptForCausalLM": "MPTForCausalLM", "PhimoeForCausalLM": "PhiMoEForCausalLM"}
Convert = Callable[..., Path]


def main() -> int:
    """0 where all that could be converted agree."""
    args = parse()
    own = [name for name, family in FAMILIES.items() if family.authority == "transformers"]
    names = args.only.split(",") if args.only else own
    convert = converter(args.peer_source)
    with tempfile.TemporaryDirectory() as scratch:
        answers = [told(name, (args.files or Path(scratch)) / name, convert) for name in names]
        return int(not all(answers))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-source", required=True, type=Path, metavar="FOLDER", help="llama.cpp's source")
    parser.add_argument("--only", metavar="NAME,...", help="of the families' cases")
    parser.add_argument("--files", type=Path, metavar="FOLDER", help="keep the models and files there")
    return parser.parse_args()


def told(name: str, folder: Path, convert: Convert) -> bool:
    """Whether the family agrees, with its line."""
    tiny, options = tiny_family(name), EngineOptions(n_ctx=128, n_threads=1, type_k="f32", type_v="f32")
    save_checkpoint(tiny.torch_model, folder)
    add_words(tiny.torch_model, folder)
    try:
        path = convert(folder)
    except Exception as error:  # of any kind; also of models that transformers has changed since
        print(f"{name:22} {FAMILIES[name].arch:13} not converted: {type(error).__name__}: {error}"[:140], flush=True)
        return True
    try:
        found = Engine.load(open_gguf(path), options).logits(PROMPT)
    except PowerInferError as error:
        print(f"{name:22} {FAMILIES[name].arch:13} {error}", flush=True)
        return False
    off = float(np.abs(found - tiny.reference).max() / np.abs(tiny.reference).max())
    print(f"{name:22} {FAMILIES[name].arch:13} {off:.1e} {'agrees' if off < AGREES else 'differs'}", flush=True)
    return off < AGREES


def add_words(model: Any, folder: Path) -> None:
    """A vocabulary of as many words as there are, which Gemma's converter counts."""
    words = {str(i): i for i in range(model.config.vocab_size)}
    (folder / "tokenizer.json").write_text(
        json.dumps({"model": {"type": "WordPiece", "vocab": words}, "added_tokens": []})
    )


def converter(source: Path) -> Convert:
    """From a model's folder to its file, of float32, by the converter of this source."""
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    for loaded in [name for name in sys.modules if name.partition(".")[0] == "gguf"]:
        del sys.modules[loaded]  # of another version
    import conversion
    import gguf
    import torch

    logging.disable(logging.CRITICAL)
    load, kind = conversion.ModelBase.load_hparams, conversion.ModelType.TEXT
    conversion.ModelBase.load_hparams = staticmethod(lambda folder, *_, **__: with_old_names(load(folder, False)))

    def set_vocab(self: Any) -> None:
        self.gguf_writer.add_tokenizer_model("no_vocab")
        with suppress(ValueError):  # it is there
            self.gguf_writer.add_vocab_size(self.hparams["vocab_size"])

    def convert(folder: Path, file_type: str = "ALL_F32") -> Path:
        config = conversion.ModelBase.load_hparams(folder)
        cls = conversion.get_model_class(conversion.get_model_architecture(config, kind))
        cls.set_vocab = set_vocab
        cls.no_mtp = True  # the tests' models have no layers that guess
        with torch.inference_mode():
            cls(folder, gguf.LlamaFileType[file_type], folder / "model.gguf", hparams=config).write()
        return folder / "model.gguf"

    return convert


def with_old_names(config: dict[str, Any]) -> dict[str, Any]:
    """Under the names of models' first code too, which the converter looks for."""
    rope = config.get("rope_parameters") or {}
    config.setdefault("rotary_pct", rope.get("partial_rotary_factor", 1.0))
    if "n_positions" in config:
        config.setdefault("n_ctx", config["n_positions"])
    if config.get("model_type") == "hunyuan_v1_moe":
        config |= {"moe_intermediate_size": [config["intermediate_size"]], "num_shared_expert": [1]}
        config["moe_topk"] = np.atleast_1d(config["moe_topk"]).tolist()
    if config.get("model_type") == "granitemoehybrid":
        kinds = {"linear_attention": "mamba", "full_attention": "attention"}
        config["layer_types"] = [kinds[kind] for kind in config["layer_types"]]
    if config.get("model_type") == "nemotron_h":
        signs = {"linear_attention": "M", "mlp": "-", "full_attention": "*", "moe": "E"}
        pattern = "".join(signs[kind] for kind in config["layers_block_type"])
        config |= {"hybrid_override_pattern": pattern, "mamba_d_head": config["mamba_head_dim"]}
        if "E" not in pattern:  # such models' configurations know of no experts
            del config["num_experts_per_tok"], config["n_routed_experts"], config["n_group"]
    if config.get("model_type") == "modernbert":
        config |= {"layer_norm_eps": config["norm_eps"], "global_attn_every_n_layers": 3}
    config["architectures"] = [OTHER_NAMES.get(one, one) for one in config["architectures"]]
    return config


if __name__ == "__main__":
    sys.exit(main())
