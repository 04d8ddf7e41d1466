"""Jinja templates of strangers, rendered in processes of their own: they can take neither memory nor time from others.

`Renderer` is for who has templates; `worker` is the program of such a process, and imports jinja2.
"""

__all__ = ["cancelling", "limits", "process", "protocol", "renderer", "sandbox", "worker"]
