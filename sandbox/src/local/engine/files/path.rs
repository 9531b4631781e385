//! Paths as callers write them.

use crate::provider::ProviderError;
use crate::provider::files::FileFault;

/// Where relative paths start.
const HOME: &str = "/home/user";

/// Longest path in bytes, as kernels take them.
const PATH_MAX: usize = 4_095;

/// Longest name in bytes.
const NAME_MAX: usize = 255;

/// The absolute path that is meant, without `.`, `..` and empty components. `..` is resolved in
/// the text, as shells do it: `link/..` is where the link is.
pub(in super::super) fn absolute(path: &str) -> Result<String, ProviderError> {
    let invalid = || ProviderError::File { path: path.to_owned(), fault: FileFault::Invalid };
    let mut names = Vec::new();
    let rest = match path.strip_prefix('~') {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => return Err(invalid()),
        Some(rest) => Some(rest),
        None if path.starts_with('/') => None,
        None => Some(path),
    };
    if rest.is_some() {
        names.extend(HOME.split('/').filter(|name| !name.is_empty()));
    }
    for name in rest.unwrap_or(path).split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name if name.len() > NAME_MAX => return Err(invalid()),
            name => names.push(name),
        }
    }
    let absolute = format!("/{}", names.join("/"));
    if absolute.contains('\0') || absolute.len() > PATH_MAX {
        return Err(invalid());
    }
    Ok(absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_starts_at_home_unless_it_is_absolute() {
        let cases = [
            ("", "/home/user"),
            ("~", "/home/user"),
            ("~/a", "/home/user/a"),
            ("a b/ü", "/home/user/a b/ü"),
            ("./a//b/.", "/home/user/a/b"),
            ("../../etc", "/etc"),
            ("../../../..", "/"),
            ("/", "/"),
            ("/tmp/../etc/passwd/", "/etc/passwd"),
            ("a~", "/home/user/a~"),
        ];
        for (path, want) in cases {
            assert_eq!(absolute(path).as_deref(), Ok(want), "{path:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_path_is_refused() {
        let long = "x/".repeat(3_000);
        for path in ["~root", "~other/x", "a\0b", &"x".repeat(256), &long] {
            let refused = absolute(path).unwrap_err();
            let fault = FileFault::Invalid;
            assert_eq!(refused, ProviderError::File { path: path.to_owned(), fault });
        }
    }
}
