"""What goes wrong in a lab."""

from __future__ import annotations

from stackctl.errors import StackctlError


class LabError(StackctlError):
    """The lab, one of its hosts or its guest image could not be made, found or changed."""

    exit_status = 30
