"""Between an agent's program and the node: begins the program, shows it one bar at a time, and
prints what it says about it as one line of JSON.

The node keeps the account, fills the orders and publishes both; nothing here can change a book.
Standard library only; docs/guide/agents.md says how to write a program.
"""

import contextlib
import importlib
import importlib.util
import inspect
import json
import math
import os
import sys

FOLDER = "/home/user/.agent"
"""Where the node puts its own files."""

HOME = "/home/user"
"""What the path of a caller's own program is relative to."""

MICROS = 1_000_000
"""Micro-dollars in a dollar."""

SESSIONS_MAX = 16
"""Agents of one sandbox whose programs are kept; the oldest goes first."""

sessions = {}


class Broken(Exception):
    """What the node is told instead of an answer."""


class Bar:
    """One day: its number in the feed, its date, and the last price of each instrument in dollars.
    An instrument that was not traded that day is not in it."""

    def __init__(self, row, symbols):
        self.seq, self.day, closes = row
        self.closes = {
            symbol: micros / MICROS for symbol, micros in zip(symbols, closes) if micros is not None
        }


class Account:
    """What the agent has, at the prices of the bar it is shown: dollars and whole shares."""

    def __init__(self, cash, equity, shares):
        self.cash = cash / MICROS
        self.equity = equity / MICROS
        self.shares = shares


def begin(params):
    """Begins a program and lets it learn from history."""
    answer(begun, params)


def show(params):
    """Shows a program one bar."""
    answer(shown, params)


def answer(work, params):
    """Prints what came of it. What the program prints goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        try:
            line = work(params)
        except Broken as why:
            line = {"broken": str(why)}
    print(json.dumps(plain(line), allow_nan=False))


def begun(params):
    symbols = params["symbols"]
    sys.path.insert(0, FOLDER)
    try:
        program = make(load(params["module"], params["path"]), symbols, params["params"])
    except ModuleNotFoundError as error:
        raise Broken(
            "its program needs the package %s, which this sandbox does not have; create the "
            "sandbox from a template that has it, as `trading` has numpy and pandas" % error.name
        ) from None
    finally:
        sys.path.remove(FOLDER)
    if hasattr(program, "learn"):
        program.learn([Bar(row, symbols) for row in params["history"]])
    while len(sessions) >= SESSIONS_MAX:
        sessions.pop(next(iter(sessions)))
    sessions[params["agent"]] = (program, symbols)
    return {"notes": list(getattr(program, "notes", []))}


def load(module, path):
    """The module of a built-in program, or of a file of the caller's."""
    if path is None:
        return importlib.import_module(module)
    path = os.path.join(HOME, path)
    if not os.path.isfile(path):
        raise Broken("there is no file %s in this sandbox" % path)
    spec = importlib.util.spec_from_file_location("sandpit_program", path)
    if spec is None:
        raise Broken("%s is no Python file: its name must end in .py" % path)
    loaded = importlib.util.module_from_spec(spec)
    # Its own folder is searched as if it were run as a script.
    sys.path.insert(0, os.path.dirname(path))
    try:
        spec.loader.exec_module(loaded)
    finally:
        sys.path.remove(os.path.dirname(path))
    return loaded


def make(module, symbols, params):
    """An `Agent` of its own, or one that trades what a `Strategy` wants."""
    if hasattr(module, "Agent"):
        return module.Agent(symbols, params)
    if hasattr(module, "Strategy"):
        return importlib.import_module("floor").Floor(module.Strategy, symbols, params)
    raise Broken("its program defines neither a class Agent nor a class Strategy")


def understood(function, params):
    """The parameters that a function takes, and the names of those that it does not."""
    takes = inspect.signature(function).parameters
    return (
        {name: value for name, value in params.items() if name in takes},
        sorted(name for name in params if name not in takes),
    )


def shown(params):
    if params["agent"] not in sessions:
        return {"lost": True}
    program, symbols = sessions[params["agent"]]
    bar = Bar(params["bar"], symbols)
    account = Account(params["cash"], params["equity"], params["shares"])
    signals = [signal(one) for one in program.bar(bar, account) or []]
    line = {"signals": signals}
    if params["report"] and hasattr(program, "report"):
        line["metrics"] = dict(program.report())
    if getattr(program, "notes", None):
        line["notes"] = [str(note) for note in program.notes]
    return line


def signal(one):
    """A signal with whole shares, and nothing in it that the node does not know."""
    unknown = set(one) - {"symbol", "action", "qty", "limit", "confidence"}
    if unknown:
        raise Broken("its program gave a signal with unknown fields: %s" % ", ".join(sorted(unknown)))
    qty = plain(one.get("qty", 0))
    if not isinstance(qty, (int, float)) or qty != int(qty) or qty < 0:
        raise Broken("its program gave a signal for %r shares; whole shares are needed" % (qty,))
    return {**one, "qty": int(qty)}


def plain(value):
    """The same in values that JSON knows; what is no number is nothing."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(one) for one in value]
    return str(value)
