"""What llama.cpp itself says of the same files: programs that need llama-cpp-python and nothing of ours."""
