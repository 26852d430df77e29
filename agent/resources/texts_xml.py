"""What XML can carry."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element

_UNSAFE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class UnsafeText(ValueError):
    """A value that XML or libvirt cannot carry as it is."""


def check_text(root: Element) -> None:
    """UnsafeText when any text in a tree has characters that XML does not know."""
    for element in root.iter():
        for text in (element.text or "", *element.attrib.values()):
            if _UNSAFE.search(text):
                raise UnsafeText(f"control characters in {text[:40]!r}")
