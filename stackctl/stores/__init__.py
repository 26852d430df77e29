"""Where the contents of images are: files of the controller, web servers, S3, Swift.

A content is named by its SHA-256 everywhere. Services use ``open_store`` and ``contents``.
"""

from stackctl.stores.registry import LOCAL, WEB, checked_store, default_store, open_store, stores

__all__ = ["LOCAL", "WEB", "checked_store", "default_store", "open_store", "stores"]
