"""TLS between two hosts of one operation, by a certificate that was made for it."""

from __future__ import annotations

import os
import ssl


def client_context(certificate: str) -> ssl.SSLContext:
    """Trusts this very certificate, whatever name it bears."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=certificate)
    return context


def server_context(pem: str) -> ssl.SSLContext:
    """Shows a certificate; ``pem`` is that and its key, which never touch a disk."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    descriptor = os.memfd_create("peer")
    try:
        os.write(descriptor, pem.encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context
