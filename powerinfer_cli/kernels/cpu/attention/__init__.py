"""Attention over the KV cache, what turns before it, and the heads of latents."""
