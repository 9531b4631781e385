//! Carries out mount plans. Nothing is ever mounted in the host's own namespace: every function
//! here is called in a private one, before any foreign code runs in it.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use super::control::Shape;
use super::plan::{Entry, NEW_ROOT, PROC_MASKED, Plan, SOURCES, Source, USER, Use};
use super::sys;

/// Where sources are gathered: a folder that every system has. It is covered in our private
/// namespace only.
const GATHER_AT: &str = "/tmp";

/// Bytes and files of a template's own root. It holds our programs and generated files only.
const ROOT_SIZE: &str = "size=1m,nr_inodes=512,mode=755";

const QUIET: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

const TERMINALS: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC);

/// Terminals of one sandbox: the kernel's memory for each is nobody's but its own. The user's own
/// programs may make them, too.
const TERMINALS_MAX: &CStr = c"newinstance,ptmxmode=0666,mode=620,max=32";

/// What failed, and how.
pub(super) type Failed = (String, io::Error);

/// Names the step that failed.
pub(super) fn at_step<T, E: Into<io::Error>>(
    what: impl AsRef<str>,
    result: Result<T, E>,
) -> Result<T, Failed> {
    result.map_err(|error| (what.as_ref().to_owned(), error.into()))
}

/// Lets no mount made here travel to where this namespace was copied from, nor back.
pub(super) fn make_private() -> Result<(), Failed> {
    let all = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    at_step("making mounts private", rustix::mount::mount_change("/", all))
}

/// Opens every source as it is now, then shows all of them below one empty folder.
///
/// Done before ids are given up, because a folder on the way may be closed to the ids that
/// sandboxes are mapped to.
pub(super) fn gather(sources: &[Source]) -> Result<(), Failed> {
    let mut trees = Vec::with_capacity(sources.len());
    for source in sources {
        let shown = || format!("opening {}", source.path.display());
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        let tree = at_step(shown(), rustix::mount::open_tree(CWD, &source.path, flags))?;
        let mut locked = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID;
        if source.device {
            locked = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
        } else {
            locked |= libc::MOUNT_ATTR_NODEV;
        }
        at_step(shown(), sys::set_tree_flags(tree.as_fd(), locked))?;
        // Asked now: what is mounted next may cover it.
        let kind = at_step(shown(), rustix::fs::fstat(&tree))?.st_mode;
        let folder = rustix::fs::FileType::from_raw_mode(kind).is_dir();
        trees.push((tree, folder));
    }
    let base = Path::new(GATHER_AT);
    tmpfs(base, "size=1m,nr_inodes=512,mode=755")?;
    for folder in [SOURCES, NEW_ROOT, "/proc", "/old"] {
        folder_at(&below(base, folder))?;
    }
    for (source, (tree, folder)) in sources.iter().zip(trees) {
        let place = below(base, SOURCES).join(&source.name);
        if folder {
            folder_at(&place)?
        } else {
            file_at(&place, "")?
        }
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        let moved = rustix::mount::move_mount(&tree, "", CWD, &place, flags);
        at_step(format!("showing {}", source.path.display()), moved)?;
    }
    show_loader(base)
}

/// Our own program is started once more where only this can be seen, and its loader and libraries
/// are found at the usual places.
fn show_loader(base: &Path) -> Result<(), Failed> {
    let link = |name: &str, target: &Path| {
        at_step(format!("linking {name}"), symlink(target, base.join(name)))
    };
    link("usr", Path::new("s/usr"))?;
    for name in ["lib", "lib32", "lib64"] {
        let path = Path::new("/").join(name);
        if let Ok(target) = fs::read_link(&path) {
            link(name, &target)?;
        } else if path.is_dir() {
            link(name, &Path::new("s").join(name))?;
        }
    }
    folder_at(&base.join("etc"))?;
    link("etc/ld.so.cache", Path::new("/s/etc-ld.so.cache"))
}

/// Makes what was gathered the root of this namespace, with a view of its own processes; nothing
/// else of the host stays.
pub(super) fn enter_gathered() -> Result<(), Failed> {
    // A mount that was copied from a namespace with more rights cannot be a root; its own bind
    // can.
    at_step(
        "binding the launcher's root",
        rustix::mount::mount_bind_recursive(GATHER_AT, GATHER_AT),
    )?;
    // The kernel gives a new one only where another one can be seen.
    proc_at(&below(Path::new(GATHER_AT), "/proc"))?;
    pivot(Path::new(GATHER_AT), "old")
}

/// Builds the root of a template and makes it the root of this namespace.
pub(super) fn enter_template(plan: &Plan) -> Result<(), Failed> {
    let root = Path::new(NEW_ROOT);
    tmpfs(root, ROOT_SIZE)?;
    for (path, entry) in &plan.entries {
        place(&root.join(path), entry)?;
    }
    proc_at(&root.join("proc"))?;
    folder_at(&root.join(".old"))?;
    pivot(root, ".old")?;
    at_step("removing the old root", fs::remove_dir("/.old"))?;
    remount(Path::new("/"), QUIET | MountFlags::RDONLY)
}

/// What a sandbox has beyond its template's root: folders to write to and its own processes.
pub(super) fn enter_sandbox(shape: Shape) -> Result<(), Failed> {
    let own = |bytes: u64, files: u32, mode: &str| {
        format!("size={bytes},nr_inodes={files},mode={mode},uid={USER},gid={USER}")
    };
    tmpfs(Path::new("/home/user"), &own(shape.home_bytes, 32_768, "755"))?;
    tmpfs(Path::new("/tmp"), &own(shape.tmp_bytes, 16_384, "1777"))?;
    tmpfs(Path::new("/dev/shm"), &own(shape.shm_bytes, 4_096, "1777"))?;
    // A kernel that wants an id 0 for it has none here; then nobody gets a terminal, and is told.
    let _ = rustix::mount::mount("devpts", "/dev/pts", "devpts", TERMINALS, Some(TERMINALS_MAX));
    proc_at(Path::new("/proc"))?;
    for name in PROC_MASKED {
        mask(&Path::new("/proc").join(name))?;
    }
    Ok(())
}

/// Makes `/proc/sys` read-only. The last step that needs it has been done.
pub(super) fn close_sysctl() -> Result<(), Failed> {
    let sys = Path::new("/proc/sys");
    at_step("binding /proc/sys", rustix::mount::mount_bind(sys, sys))?;
    remount(sys, QUIET | MountFlags::NOEXEC | MountFlags::RDONLY)
}

/// Hides all processes: what runs here has no business with any.
pub(super) fn hide_processes() -> Result<(), Failed> {
    let flags = QUIET | MountFlags::NOEXEC | MountFlags::RDONLY;
    let mounted =
        rustix::mount::mount("none", "/proc", "tmpfs", flags, Some(c"size=0,nr_inodes=2"));
    at_step("hiding processes", mounted)
}

fn place(path: &Path, entry: &Entry) -> Result<(), Failed> {
    match entry {
        Entry::Folder => folder_at(path),
        Entry::File(text) => file_at(path, text),
        Entry::Link(target) => {
            at_step(format!("linking {}", path.display()), symlink(target, path))
        }
        Entry::Empty => {
            let flags = QUIET | MountFlags::RDONLY;
            let mounted =
                rustix::mount::mount("none", path, "tmpfs", flags, Some(c"size=0,nr_inodes=2"));
            at_step(format!("covering {}", path.display()), mounted)
        }
        Entry::Bind { from, allow } => bind(&Path::new(SOURCES).join(from), path, *allow),
    }
}

fn bind(from: &Path, to: &Path, allow: Use) -> Result<(), Failed> {
    let step = || format!("binding {}", to.display());
    if at_step(step(), fs::metadata(from))?.is_dir() {
        if !to.exists() {
            folder_at(to)?;
        }
    } else {
        file_at(to, "")?;
    }
    at_step(step(), rustix::mount::mount_bind_recursive(from, to))?;
    match allow {
        Use::Run => remount(to, QUIET | MountFlags::RDONLY),
        Use::Read => remount(to, QUIET | MountFlags::RDONLY | MountFlags::NOEXEC),
        Use::Device => remount(to, MountFlags::NOSUID | MountFlags::NOEXEC),
    }
}

/// Changes the flags of one mount. Flags that its source had locked are kept, because dropping
/// one is refused.
fn remount(path: &Path, flags: MountFlags) -> Result<(), Failed> {
    let step = || format!("remounting {}", path.display());
    let had = at_step(step(), rustix::fs::statvfs(path))?.f_flag;
    let mut flags = flags | MountFlags::BIND;
    for (seen, flag) in [
        (rustix::fs::StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (rustix::fs::StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
    ] {
        if had.contains(seen) {
            flags |= flag;
        }
    }
    for (seen, flag) in [
        (libc::ST_NODEV, MountFlags::NODEV),
        (libc::ST_NOEXEC, MountFlags::NOEXEC),
        (libc::ST_NOATIME, MountFlags::NOATIME),
        (libc::ST_NODIRATIME, MountFlags::NODIRATIME),
        (libc::ST_RELATIME, MountFlags::RELATIME),
    ] {
        if had.bits() & seen != 0 {
            flags |= flag;
        }
    }
    at_step(step(), rustix::mount::mount_remount(path, flags, ""))
}

fn tmpfs(path: &Path, options: &str) -> Result<(), Failed> {
    let step = || format!("mounting a file system at {}", path.display());
    let options = std::ffi::CString::new(options).map_err(io::Error::from);
    let options = at_step(step(), options)?;
    at_step(step(), rustix::mount::mount("none", path, "tmpfs", QUIET, Some(options.as_c_str())))
}

fn proc_at(path: &Path) -> Result<(), Failed> {
    let flags = QUIET | MountFlags::NOEXEC;
    at_step("mounting proc", rustix::mount::mount("proc", path, "proc", flags, None))
}

fn mask(path: &Path) -> Result<(), Failed> {
    let step = || format!("masking {}", path.display());
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    if found.is_dir() {
        let flags = QUIET | MountFlags::NOEXEC | MountFlags::RDONLY;
        let options = Some(c"size=0,nr_inodes=2");
        at_step(step(), rustix::mount::mount("none", path, "tmpfs", flags, options))
    } else if found.is_file() {
        at_step(step(), rustix::mount::mount_bind("/dev/null", path))
    } else {
        // A link points at something that is masked itself, or is one's own.
        Ok(())
    }
}

fn pivot(root: &Path, old: &str) -> Result<(), Failed> {
    let old = root.join(old);
    at_step("changing the root", rustix::process::pivot_root(root, &old))?;
    at_step("entering the root", rustix::process::chdir("/"))?;
    let old = Path::new("/").join(old.file_name().unwrap_or_default());
    at_step("leaving the old root", rustix::mount::unmount(&old, UnmountFlags::DETACH))
}

fn folder_at(path: &Path) -> Result<(), Failed> {
    let made = fs::DirBuilder::new().mode(0o755).create(path);
    // The umask of whoever started us must not close it to the ids of sandboxes.
    let made = made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)));
    at_step(format!("making {}", path.display()), made)
}

fn file_at(path: &Path, text: &str) -> Result<(), Failed> {
    let made = fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o444)));
    at_step(format!("making {}", path.display()), made)
}

fn below(base: &Path, absolute: &str) -> PathBuf {
    base.join(absolute.trim_start_matches('/'))
}
