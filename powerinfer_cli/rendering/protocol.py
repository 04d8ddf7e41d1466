"""What goes through the socket between a renderer and its processes."""

import struct

__all__ = ["REPLY", "REQUEST"]

REQUEST = struct.Struct("!II")
"""Bytes of the source, bytes of its variables as a JSON object (0: only compile); both follow, in UTF-8."""
REPLY = struct.Struct("!??I")
"""Whether it was done, whether the process ends now, bytes of the text or of the reason why not; these follow."""
