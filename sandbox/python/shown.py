"""What a cell shows: values in the representations they have, figures, what is given to `display`.

A plain value costs nothing here. Everything else is looked up by its type; no module is imported
for it, so what a cell did not import is not looked for.

Standard library only; CPython 3.9 to 3.14.
"""

import base64
import io
import json
import signal
import struct
import sys
import types

# Longest text of a value, in characters.
TEXT_MAX = 128 * 1024
# Bytes of all representations of one thing, and of all that one cell shows.
ONE_MAX = 8 << 20
ALL_MAX = 16 << 20
# What one cell shows beside its value.
SHOWN_MAX = 64
# Bytes of JSON, and levels and elements in it.
JSON_MAX = 1 << 20
JSON_LEVELS_MAX = 64
JSON_ELEMENTS_MAX = 100_000
# Integers that every reader of JSON keeps exactly are at most this far from 0.
EXACT_MAX = 1 << 53
# Seconds that all representations of one thing may take.
SECONDS_MAX = 2.0

LENGTHS = struct.Struct("<II")
PLAIN = (int, float, bool, str, bytes, complex, type(None))
TEXT = "text/plain"
JSON = "application/json"
# Methods by which values say how they look, after that of all media types at once.
METHODS = (
    ("text/html", "_repr_html_"),
    ("text/markdown", "_repr_markdown_"),
    ("text/latex", "_repr_latex_"),
    (JSON, "_repr_json_"),
    ("image/svg+xml", "_repr_svg_"),
    ("image/png", "_repr_png_"),
    ("image/jpeg", "_repr_jpeg_"),
)
MEDIA_TYPES = frozenset([TEXT] + [media for media, _ in METHODS])
IMAGES = frozenset(["image/png", "image/jpeg"])
FIGURES = "matplotlib._pylab_helpers"
BACKEND = "sandpit_figures"

# References of our own, so that a cell that replaces them hurts itself only.
_repr = repr
_dumps = json.dumps
_signal = signal.signal
_setitimer = signal.setitimer
_modules = sys.modules


class TooSlow(BaseException):
    """A representation took longer than it may."""


class NotJson(Exception):
    """A list or dict that holds what JSON has no word for, or too much."""


def shorten(text, length):
    if len(text) <= length:
        return text
    return text[:length] + "... (%d characters more)" % (len(text) - length)


def text_of(value):
    """As Python represents it, cut. What is long is cut first: the rest of it takes memory."""
    if type(value) in (str, bytes) and len(value) > TEXT_MAX:
        return _repr(value[:TEXT_MAX]) + "... (%d more)" % (len(value) - TEXT_MAX)
    return shorten(_repr(value), TEXT_MAX)


def plain_frame(number, value):
    """The frame of the value of a cell whose type is one of PLAIN."""
    body = text_of(value).encode("utf-8", "backslashreplace")
    header = b'{"op":"shown","id":%d,"main":true,"parts":[["text/plain",%d]]}' % (number, len(body))
    return LENGTHS.pack(len(header), len(body)) + header + body


def limited(work, value):
    """Does it within SECONDS_MAX. Only the main thread can be stopped so; what others show counts
    as time of their cell."""

    def too_slow(_number, _frame):
        raise TooSlow

    try:
        handler = _signal(signal.SIGALRM, too_slow)
    except ValueError:
        return work(value)
    left, every = _setitimer(signal.ITIMER_REAL, SECONDS_MAX)
    try:
        return work(value)
    except TooSlow:
        why = "the representation of a %s took longer than 2 s" % type(value).__name__
        raise TimeoutError(why) from None
    finally:
        _setitimer(signal.ITIMER_REAL, left, every)
        _signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)


def bundle(value):
    """Every representation that a value has, by media type, `text/plain` first."""
    found = {TEXT: text_of(value)}
    kind = type(value)
    if kind in PLAIN:
        return found
    if kind in (list, dict):
        try:
            found[JSON] = json_text(value)
        except NotJson:
            pass
        return found
    figure = _modules.get("matplotlib.figure")
    if figure is not None and isinstance(value, figure.Figure):
        found["image/png"] = png(value)
        return found
    every = getattr(kind, "_repr_mimebundle_", None)
    if every is not None:
        # Some give metadata beside it.
        data = every(value)
        keep(found, data[0] if isinstance(data, tuple) else data)
    for media, name in METHODS:
        method = None if media in found else getattr(kind, name, None)
        if method is not None:
            data = method(value)
            keep(found, {media: data[0] if isinstance(data, tuple) else data})
    return found


def keep(found, data):
    """Keeps what is of a kind that is passed on and looks as its kind must."""
    for media, one in (data or {}).items():
        if media not in MEDIA_TYPES or one is None:
            continue
        if media in IMAGES:
            # As text it is what notebooks carry: base64.
            one = base64.b64decode(one) if isinstance(one, str) else bytes(one)
        elif media == JSON:
            try:
                one = json_text(json.loads(one) if isinstance(one, str) else one)
            except (NotJson, ValueError):
                continue
        elif media == TEXT:
            one = shorten(str(one), TEXT_MAX)
        else:
            one = str(one)
        found[media] = one


def json_text(value):
    left = JSON_ELEMENTS_MAX

    def plain(value, levels):
        nonlocal left
        left -= 1
        if left < 0 or levels < 0:
            raise NotJson
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is str:
            # Halves of surrogate pairs have no code, and readers refuse them.
            return value if value.isascii() else value.encode("utf-8", "replace").decode()
        if kind is int:
            return value if -EXACT_MAX <= value <= EXACT_MAX else number(value)
        if kind is float:
            return value if value - value == 0 else number(value)
        if kind in (list, tuple):
            return [plain(one, levels - 1) for one in value]
        if kind is dict:
            return {name(key): plain(one, levels - 1) for key, one in value.items()}
        raise NotJson

    def number(value):
        """What readers of JSON would change or refuse is text."""
        if value != value:
            return "NaN"
        try:
            return ("-" if value < 0 else "") + "Infinity" if type(value) is float else str(value)
        except ValueError:
            # More digits than Python turns into text.
            raise NotJson from None

    def name(key):
        if type(key) is str:
            return plain(key, 0)
        if type(key) is int:
            return str(number(key))
        raise NotJson

    text = _dumps(plain(value, JSON_LEVELS_MAX))
    if len(text) > JSON_MAX:
        raise NotJson
    return text


def png(figure):
    out = io.BytesIO()
    figure.canvas.print_figure(
        out,
        format="png",
        dpi=figure.dpi,
        facecolor=figure.get_facecolor(),
        edgecolor=figure.get_edgecolor(),
        bbox_inches="tight",
    )
    return out.getvalue()


def open_figures():
    """Those of matplotlib, which is imported or was begun to be."""
    return getattr(getattr(_modules[FIGURES], "Gcf", None), "figs", None)


class Screen:
    """Where one worker shows things. `send` takes what makes a frame, has it made by one thread at a
    time, and is not cut short by a signal; `complain` writes to standard error."""

    def __init__(self, send, complain):
        self.send = send
        self.complain = complain
        self.number = None
        self.left = ALL_MAX
        self.shown = 0
        self.drawn = []

    def begin(self, number):
        """A cell begins."""
        self.number = number
        self.left = ALL_MAX
        self.shown = 0

    def end(self):
        """A cell has ended: whoever shows something now belongs to none."""
        self.number = None
        if self.drawn:
            self.drawn = []

    def value(self, value):
        """The frame of the value of a cell."""
        return self.frame(limited(bundle, value), True)

    def display(self, *values, raw=False, **_of_other_fronts):
        """Shows values at once. With `raw` they are representations by media type already."""
        for value in values:
            if raw:
                data = {}
                keep(data, value)
            else:
                data = limited(bundle, value)
            self.note_figure(value)
            self.show(data)

    def show(self, data):
        number = self.number
        if data:
            self.send(lambda: self.admitted(number, data))

    def admitted(self, number, data):
        """The frame of what cell `number` shows; nothing if that has ended or shows too much."""
        if number is None or number != self.number:
            return b""
        self.shown += 1
        if self.shown <= SHOWN_MAX:
            return self.frame(data, False)
        if self.shown == SHOWN_MAX + 1:
            self.complain("a cell shows %d things; the rest is left out\n" % SHOWN_MAX)
        return b""

    def frame(self, data, main):
        """Puts as much of it into a frame as fits, and says in the text what was left out."""
        text = data.pop(TEXT, "")
        # Four bytes for each character at most, and notes of what does not fit.
        room = min(ONE_MAX, self.left) - 4 * len(text) - 1024
        parts, pieces = [], []
        for media, one in data.items():
            piece = one if media in IMAGES else one.encode("utf-8", "backslashreplace")
            if len(piece) > room:
                text += "\n(%s of %d bytes left out: too much for one cell)" % (media, len(piece))
                continue
            room -= len(piece)
            parts.append([media, len(piece)])
            pieces.append(piece)
        text = text.encode("utf-8", "backslashreplace")
        if text or not parts:
            parts.insert(0, [TEXT, len(text)])
            pieces.insert(0, text)
        body = b"".join(pieces)
        self.left -= len(body)
        if self.left < 0:
            self.complain("what a cell shows is %d MiB; the rest is left out\n" % (ALL_MAX >> 20))
            self.shown = SHOWN_MAX + 1
            return b""
        header = {"op": "shown", "id": self.number, "main": main, "parts": parts}
        header = _dumps(header).encode("ascii")
        return LENGTHS.pack(len(header), len(body)) + header + body

    # Figures of matplotlib, if a cell has imported it.

    def note_figure(self, value):
        """A figure that was shown is not shown again when its cell ends."""
        figure = _modules.get("matplotlib.figure")
        if figure is not None and isinstance(value, figure.Figure):
            self.drawn.append(value)

    def figures(self):
        """Shows the open figures and closes them."""
        figures = _modules[FIGURES].Gcf
        try:
            for manager in figures.get_all_fig_managers():
                figure = manager.canvas.figure
                if not any(figure is one for one in self.drawn):
                    self.show({TEXT: text_of(figure), "image/png": png(figure)})
        finally:
            figures.destroy_all()

    def draw(self):
        """Makes `show` of matplotlib show figures here. Only where it is imported already."""
        from matplotlib import use
        from matplotlib.backend_bases import FigureManagerBase
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        screen = self

        class Manager(FigureManagerBase):
            @classmethod
            def pyplot_show(cls, *, block=None):
                screen.figures()

        class FigureCanvas(FigureCanvasAgg):
            manager_class = Manager

        backend = types.ModuleType(BACKEND)
        backend.FigureCanvas = FigureCanvas
        backend.FigureManager = Manager
        _modules[BACKEND] = backend
        use("module://" + BACKEND)
