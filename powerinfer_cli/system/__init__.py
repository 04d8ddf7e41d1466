"""What operating systems do differently, by subject: each function has its Linux, macOS and Windows side in one place.

Nothing else here imports `fcntl`, `resource`, `msvcrt` or the C library's own names. What has no side on a system is
said in its docstring; the sides of macOS and Windows are tried with stand-ins on Linux, and were not run there yet.
"""
