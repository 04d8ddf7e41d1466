"""Reading and writing GGUF files: metadata, tensors, quantised block types. Knows nothing of models."""

from .decoders import dequantize
from .encoder import quantize
from .failure import GGUFError, shown, shown_name
from .made import MadeTensor, chosen_rows, renamed, retyped, transposed
from .metadata import MetaValue
from .reader import GGUFFile, map_file, open_gguf
from .rewrite import AddedValue, StreamedTensor, rewrite_gguf, stream_gguf, streamed
from .scales import spoilt_row
from .strings import Strings
from .survey import Entry, Survey, survey
from .tensor import Tensor, TensorInfo
from .types import BLOCK, INDEX_ARCHITECTURE, GGMLType, ValueType
from .writer import WritableValue, write_gguf

__all__ = [
    "BLOCK",
    "INDEX_ARCHITECTURE",
    "AddedValue",
    "Entry",
    "GGMLType",
    "GGUFError",
    "GGUFFile",
    "MadeTensor",
    "MetaValue",
    "StreamedTensor",
    "Strings",
    "Survey",
    "Tensor",
    "TensorInfo",
    "ValueType",
    "WritableValue",
    "chosen_rows",
    "dequantize",
    "map_file",
    "open_gguf",
    "quantize",
    "renamed",
    "retyped",
    "rewrite_gguf",
    "shown",
    "shown_name",
    "spoilt_row",
    "stream_gguf",
    "streamed",
    "survey",
    "transposed",
    "write_gguf",
]
