//! Where the hierarchies of control groups are mounted and which group is ours. Reads `/proc`,
//! writes nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What `/proc/self` says about control groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    mounts: Vec<Mount>,
    own: Vec<Own>,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// The group that is seen at `point`; not `/` in a container.
    root: PathBuf,
    point: PathBuf,
    /// Empty for version 2.
    controllers: Vec<String>,
    version: Version,
}

/// Our own group in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Own {
    controllers: Vec<String>,
    path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Host {
    /// Reads `mountinfo` and `cgroup` in a folder of `/proc`.
    pub(super) fn read(process: &Path) -> io::Result<Self> {
        let mounts = fs::read_to_string(process.join("mountinfo"))?;
        let own = fs::read_to_string(process.join("cgroup"))?;
        Ok(Self::parse(&mounts, &own))
    }

    /// Lines that are not understood are left out.
    pub(super) fn parse(mountinfo: &str, cgroup: &str) -> Self {
        Self {
            mounts: mountinfo.lines().filter_map(parse_mount).collect(),
            own: cgroup.lines().filter_map(parse_own).collect(),
        }
    }

    /// The folder of our own group in the version 2 hierarchy.
    pub(super) fn own_v2(&self) -> Option<PathBuf> {
        let mount = self.mounts.iter().find(|mount| mount.version == Version::Two)?;
        let own = self.own.iter().find(|own| own.controllers.is_empty())?;
        below(mount, own)
    }

    /// The folder of our own group in the version 1 hierarchy of a controller.
    pub(super) fn own_v1(&self, controller: &str) -> Option<PathBuf> {
        let has = |list: &[String]| list.iter().any(|name| name == controller);
        let mount = self
            .mounts
            .iter()
            .find(|mount| mount.version == Version::One && has(&mount.controllers))?;
        let own = self.own.iter().find(|own| has(&own.controllers))?;
        below(mount, own)
    }
}

/// A group's folder. `None` if the group is not below what is mounted.
fn below(mount: &Mount, own: &Own) -> Option<PathBuf> {
    let inside = own.path.strip_prefix(&mount.root).ok()?;
    let climbs = inside.components().any(|part| part == std::path::Component::ParentDir);
    (!climbs).then(|| mount.point.join(inside))
}

/// `36 31 0:33 /root /sys/fs/cgroup/memory rw,relatime shared:1 - cgroup cgroup rw,memory`
fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let (root, point) = (left.nth(3)?, left.next()?);
    let mut right = right.split(' ');
    let (kind, options) = (right.next()?, right.nth(1)?);
    let (version, controllers) = match kind {
        "cgroup2" => (Version::Two, Vec::new()),
        "cgroup" => (Version::One, words(options)),
        _ => return None,
    };
    Some(Mount { root: unescape(root), point: unescape(point), controllers, version })
}

/// `4:memory:/user.slice`, or `0::/user.slice` for version 2.
fn parse_own(line: &str) -> Option<Own> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Own { controllers: words(controllers), path: path.into() })
}

fn words(list: &str) -> Vec<String> {
    list.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Blanks and the like stand as octal numbers in `mountinfo`.
fn unescape(text: &str) -> PathBuf {
    let replaced = text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
    PathBuf::from(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
23 22 0:20 / /proc rw,relatime - proc proc rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
36 31 0:33 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 /docker/abc /sys/fs/cgroup/pids rw,relatime shared:3 - cgroup cgroup rw,pids
42 31 0:39 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    const OWN: &str =
        "9:name=systemd:/\n4:memory:/jobs/17\n3:cpu,cpuacct:/\n8:pids:/docker/abc/x\n0::/s";

    #[test]
    fn our_group_is_found_below_what_is_mounted() {
        let host = Host::parse(HYBRID, OWN);

        let found = ["memory", "cpu", "cpuacct", "pids", "freezer"].map(|name| host.own_v1(name));

        assert_eq!(
            found,
            [
                Some("/sys/fs/cgroup/memory/jobs/17".into()),
                Some("/sys/fs/cgroup/cpu,cpuacct".into()),
                Some("/sys/fs/cgroup/cpu,cpuacct".into()),
                Some("/sys/fs/cgroup/pids/x".into()),
                None,
            ]
        );
        assert_eq!(host.own_v2(), Some("/sys/fs/cgroup/unified/s".into()));
    }

    #[test]
    fn a_group_outside_of_what_is_mounted_is_not_ours_to_write() {
        let outside = "8:pids:/elsewhere\n0::/../..";

        let host = Host::parse(HYBRID, outside);

        assert_eq!(host.own_v1("pids"), None);
        assert_eq!(host.own_v2(), None);
    }
}
