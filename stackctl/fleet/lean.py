"""paramiko without invoke, which it wants for "Match exec" of an ssh_config; nobody reads one here.

Finding none saves a third of paramiko's import, in every command that reaches a host.
"""

from __future__ import annotations

import sys

_loaded = sys.modules.get("invoke")
sys.modules["invoke"] = None  # type: ignore[assignment]
try:
    import paramiko
finally:
    del sys.modules["invoke"]
    if _loaded is not None:
        sys.modules["invoke"] = _loaded

__all__ = ["paramiko"]
