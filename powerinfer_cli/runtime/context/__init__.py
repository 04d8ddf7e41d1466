"""What is kept of texts: sequences, pages of the KV cache, states of recurrent layers, and how large it all is."""
