"""Makes what tests, and the package, have from elsewhere: answers of llama.cpp, templates, Unicode."""
