"""How words become entries of a vocabulary: byte pairs, SentencePiece, unigrams, WordPiece."""
