"""What a cloud says to all its guests: a file that its config.yaml names."""

from __future__ import annotations

import json
from typing import Any

from stackctl.errors import UsageError
from stackctl.state import Cloud

LIMIT_BYTES = 65535


def vendor_data_of(cloud: Cloud) -> bytes | None:
    """The content of vendor_data.json for new servers; None when the cloud has none.

    UsageError when the file cannot be read, or is no mapping.
    """
    name = cloud.config["vendor_data"]
    if name is None:
        return None
    path = cloud.folder / str(name)
    try:
        loaded = _parsed(path.read_text(encoding="utf-8"))
        content = json.dumps(loaded, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"The vendor data {path} cannot be used: {error}. Nothing was booted.",
            hint=f"vendor_data in {cloud.folder / 'config.yaml'} names the file",
        ) from None
    if len(content) > LIMIT_BYTES:
        raise UsageError(
            f"The vendor data {path} has {len(content)} bytes; at most {LIMIT_BYTES} fit."
        )
    return content


def _parsed(text: str) -> dict[str, Any]:
    """JSON is YAML, too. What has no form in JSON (a date, a set) is a TypeError later."""
    import yaml

    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"it is neither JSON nor YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise ValueError("it must be a mapping, such as {cloud-init: '#cloud-config ...'}")
    return loaded
