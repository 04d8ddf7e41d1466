"""Running a text through a model, and counting which of its neurons are active."""

from solver.profile.active import ActiveRule
from solver.profile.recording import CHUNK, Chunks, Recordable, chunks_of, held_out, record
from solver.profile.sample import SampleDocument, sample_documents, sample_text
from solver.profile.statistics import Profile, made_of, profile_text

__all__ = [
    "CHUNK",
    "ActiveRule",
    "Chunks",
    "Profile",
    "Recordable",
    "SampleDocument",
    "chunks_of",
    "held_out",
    "made_of",
    "profile_text",
    "record",
    "sample_documents",
    "sample_text",
]
