"""Packs /home/user into a tar archive on standard output, or unpacks one from standard input.

Runs inside sandboxes only, as an ordinary command. The archive of the same files is always the
same: sorted, without owners and times. What is unpacked never leaves the folder, whatever the
archive says: links are made last, so that nothing is written through one.
"""

import os
import stat
import sys
import tarfile

HOME = "/home/user"

# Exit codes that the engine knows.
TOO_LARGE = 75
REFUSED = 76


def fail(code, text):
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
    os._exit(code)


class Counted:
    """Standard output, up to a bound."""

    def __init__(self, room):
        self.room = room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            fail(TOO_LARGE, "there is more in /home/user than may be exported")
        view = memoryview(data)
        while view:
            view = view[os.write(1, view):]
        return len(data)


def entries(folder, name):
    """Everything below, sorted; what is no file, folder or link is left out and named."""
    try:
        found = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except PermissionError:
        sys.stderr.write("left out, because it cannot be read: %s\n" % ascii(name))
        return
    for entry in found:
        path = name + entry.name
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield path, entry.path, mode
            yield from entries(entry.path, path + "/")
        elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            yield path, entry.path, mode
        else:
            sys.stderr.write("left out, because it is not a file: %s\n" % ascii(path))


def pack(room):
    with tarfile.open(fileobj=Counted(room), mode="w|", format=tarfile.GNU_FORMAT,
                      encoding="utf-8", errors="surrogateescape") as archive:
        for name, path, mode in entries(HOME, ""):
            member = tarfile.TarInfo(name)
            member.mode = stat.S_IMODE(mode) & 0o777
            if stat.S_ISDIR(mode):
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
            elif stat.S_ISLNK(mode):
                member.type = tarfile.SYMTYPE
                member.linkname = os.readlink(path)
                archive.addfile(member)
            else:
                try:
                    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
                except OSError as error:
                    sys.stderr.write("left out, because it cannot be read: %s (%s)\n"
                                     % (ascii(name), error.strerror))
                    continue
                with file:
                    # It may be written while it is read: what is missing is an error, and what
                    # is added stays out.
                    member.size = os.fstat(file.fileno()).st_size
                    archive.addfile(member, file)


def parts_of(name):
    parts = name.rstrip("/").split("/")
    if not name or any(part in ("", ".", "..") for part in parts):
        fail(REFUSED, "a name that leaves its folder: %s" % ascii(name))
    return parts


def below(parts):
    """The folder that holds the last part, reached without following a link."""
    folder = os.open(HOME, os.O_RDONLY | os.O_DIRECTORY)
    for part in parts[:-1]:
        inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
        os.close(folder)
        folder = inner
    return folder


def unpack():
    folders, links = [], []
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|", encoding="utf-8",
                      errors="surrogateescape") as archive:
        for member in archive:
            parts = parts_of(member.name)
            if member.issym():
                links.append((parts, member.linkname))
                continue
            folder = below(parts)
            try:
                if member.isdir():
                    os.mkdir(parts[-1], 0o700, dir_fd=folder)
                    folders.append((parts, member.mode & 0o777))
                elif member.isreg():
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                    file = os.open(parts[-1], flags, 0o600, dir_fd=folder)
                    source = archive.extractfile(member)
                    with os.fdopen(file, "wb") as target:
                        while piece := source.read(65536):
                            target.write(piece)
                        os.fchmod(target.fileno(), member.mode & 0o777)
                else:
                    fail(REFUSED, "neither a file nor a folder nor a link: %s" % ascii(member.name))
            finally:
                os.close(folder)
    for parts, target in links:
        folder = below(parts)
        os.symlink(target, parts[-1], dir_fd=folder)
        os.close(folder)
    for parts, mode in reversed(folders):
        folder = below(parts)
        os.chmod(parts[-1], mode, dir_fd=folder)
        os.close(folder)


def main():
    try:
        if sys.argv[1] == "pack":
            pack(int(sys.argv[2]))
        else:
            unpack()
    except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError) as error:
        fail(REFUSED, "%s: %s" % (type(error).__name__, error))


main()
