"""What programs for notebooks import to show things. IPython itself is used where a template has
it."""

from . import display


def get_ipython():
    """There is none."""
    return None


__all__ = ["display", "get_ipython"]
