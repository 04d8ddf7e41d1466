"""Running a text through a model, and counting which of its neurons are active."""

from solver.profile.active import ActiveRule
from solver.profile.recording import Recordable, check_numbers, record
from solver.profile.sample import SampleDocument, sample_documents, sample_text
from solver.profile.statistics import Profile, made_of, profile_text
from solver.profile.text import CHUNK, OFTEN, Chunks, Text, chunks_of, first_scored, held_out, some_of

__all__ = [
    "CHUNK",
    "OFTEN",
    "ActiveRule",
    "Chunks",
    "Profile",
    "Recordable",
    "SampleDocument",
    "Text",
    "check_numbers",
    "chunks_of",
    "first_scored",
    "held_out",
    "made_of",
    "profile_text",
    "record",
    "sample_documents",
    "sample_text",
    "some_of",
]
