"""What notebooks know beside Python: `!command`, `%%bash`, `%pip` and the like.

Looked for only in what Python cannot read, so other cells pay nothing. Each line of it becomes a
call in its place, and lines keep their numbers.

Standard library only; CPython 3.9 to 3.14.
"""

import ast
import builtins
import re
import sys

# The name by which cells find this module. Python leaves it alone in classes too.
NAME = "__sandpit_magic__"
# Lines of one cell that may be magic. Each of them has the cell read once more.
LINES_MAX = 200

CELL = re.compile(r"\s*%%(\w+)[^\n]*(?:\n|$)")
LINE = re.compile(r"(\s*)((?:[A-Za-z_]\w*\s*=\s*)?)([!%])(?![!%])(.*)$")
PIP = re.compile(r"(?:python3?\s+-m\s+)?pip3?\s+(.*)$")
WORD = re.compile(r"[A-Za-z0-9][\w.-]*")
KNOWN = "there are !command, %%bash, %%sh, %pip and %matplotlib"


class MagicError(Exception):
    """A magic that is not there, or cannot do what it was asked."""


def parse(code, name, error):
    """Reads a cell that Python refused with `error`. Raises the same if there is no magic in it."""
    setattr(builtins, NAME, sys.modules[__name__])
    cell = CELL.match(code)
    if cell is not None:
        call = "%s.whole(%r, %r)" % (NAME, cell.group(1), code[cell.end():])
        return ast.parse(call, name, "exec")
    lines, refused = code.split("\n"), error
    for _ in range(LINES_MAX):
        at = (refused.lineno or 0) - 1
        if not 0 <= at < len(lines) or not replace(lines, at):
            break
        try:
            return ast.parse("\n".join(lines), name, "exec")
        except SyntaxError as again:
            refused = again
    raise error from None


def replace(lines, at):
    """Puts a call in the place of one line, and of those that continue it; whether it is magic."""
    found = LINE.match(lines[at].rstrip("\r"))
    if found is None:
        return False
    indent, target, sign, rest = found.groups()
    end = at
    while rest.endswith("\\") and end + 1 < len(lines):
        end += 1
        rest = rest[:-1] + lines[end].rstrip("\r")
        lines[end] = ""
    name = ("lines" if target else "run") if sign == "!" else "line"
    lines[at] = "%s%s%s.%s(%r)" % (indent, target, NAME, name, rest.strip())
    return True


def shell(command, program="/bin/bash", **options):
    import subprocess

    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with subprocess.Popen([program, "-c", command], **options) as process:
        try:
            written, _ = process.communicate()
        except BaseException:
            process.kill()
            raise
    return process.returncode, written


def run(command):
    """`!command`"""
    asked = PIP.match(command)
    if asked is not None:
        return pip(asked.group(1))
    shell(command)


def lines(command):
    """`name = !command`"""
    import subprocess

    _, written = shell(command, stdout=subprocess.PIPE)
    return written.decode("utf-8", "replace").splitlines()


def line(text):
    """`%name rest`"""
    name, _, rest = text.partition(" ")
    if name == "pip":
        return pip(rest.strip())
    # Figures are shown here whatever the argument.
    if name != "matplotlib":
        raise MagicError("there is no %%%s here; %s" % (name, KNOWN))


def whole(name, text):
    """`%%name` and all that follows"""
    if name not in ("bash", "sh"):
        raise MagicError("there is no %%%%%s here; %s" % (name, KNOWN))
    code, _ = shell(text, "/bin/" + name)
    if code:
        raise MagicError("%s ended with code %d" % (name, code))


def pip(text):
    """Says what is installed. Nothing can be: packages belong to templates."""
    import importlib.metadata as metadata

    words = text.split()
    asked, rest = words[:1], [word for word in words[1:] if not word.startswith("-")]
    if asked in (["list"], ["freeze"]):
        found = {one.metadata["Name"]: one.version for one in metadata.distributions()}
        form = "%s==%s" if asked == ["freeze"] else "%-24s %s"
        for one in sorted(found, key=str.lower):
            print(form % (one, found[one]))
        return
    if asked not in (["install"], ["show"]) or not rest:
        raise MagicError("pip does list, freeze, show and install here")
    missing = []
    for one in rest:
        name = WORD.match(one)
        try:
            version = metadata.version(name.group(0) if name else one)
        except (metadata.PackageNotFoundError, ValueError):
            missing.append(one)
        else:
            satisfied = "Requirement already satisfied: %s (%s)" % (one, version)
            print(satisfied if asked == ["install"] else "Name: %s\nVersion: %s" % (one, version))
    if missing:
        raise MagicError(
            "%s: not in this template, and a sandbox has no network. Packages belong to "
            "templates: create the sandbox with `install_packages`, or make a template with "
            "`deploy_e2b_template`" % " ".join(missing)
        )
