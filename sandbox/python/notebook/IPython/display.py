"""Things to show, as notebooks know them: text, markup and images that say what they are."""

import builtins


def display(*values, **options):
    """Shows values at once, each as well as it can be shown."""
    builtins.display(*values, **options)


def clear_output(wait=False):
    """Nothing that was shown can be taken back here."""


class DisplayObject:
    """Data of one kind, given or read from a file."""

    _read = "r"

    def __init__(self, data=None, url=None, filename=None, metadata=None):
        if url is not None:
            raise ValueError("a sandbox has no network: give data or a filename, not a url")
        if data is None and filename is None:
            raise ValueError("there is nothing to show: give data or a filename")
        if filename is not None:
            encoding = None if self._read == "rb" else "utf-8"
            with open(filename, self._read, encoding=encoding) as file:
                data = file.read()
        self.data = data
        self.metadata = metadata

    def __repr__(self):
        return "<IPython.core.display.%s object>" % type(self).__name__


class HTML(DisplayObject):
    def _repr_html_(self):
        return self.data


class Markdown(DisplayObject):
    def _repr_markdown_(self):
        return self.data


class Latex(DisplayObject):
    def _repr_latex_(self):
        return self.data


class Math(DisplayObject):
    def _repr_latex_(self):
        return "$\\displaystyle %s$" % self.data.strip("$")


class SVG(DisplayObject):
    def _repr_svg_(self):
        return self.data


class JSON(DisplayObject):
    def _repr_json_(self):
        return self.data


class Image(DisplayObject):
    """A PNG or JPEG image, told apart by how it begins."""

    _read = "rb"

    def __init__(self, data=None, url=None, filename=None, format=None, **_size):
        if isinstance(data, str) and filename is None:
            data, filename = None, data
        super().__init__(data, url, filename)

    def _repr_png_(self):
        return self.data if self.data[:8] == b"\x89PNG\r\n\x1a\n" else None

    def _repr_jpeg_(self):
        return self.data if self.data[:2] == b"\xff\xd8" else None
