//! One node per data directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// Held as long as the node runs; the kernel lets go of it when the process ends.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
}

/// Why the data directory is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another node runs on it.
    #[error("{path} is in use by {holder}: stop it, or choose another data directory")]
    Held {
        /// The lock.
        path: PathBuf,
        /// As it called itself.
        holder: String,
    },
    /// It cannot be locked.
    #[error("{path}: {source}")]
    File {
        /// The lock.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
}

impl DataLock {
    /// Takes the lock of a data directory, which is made if it is not there.
    ///
    /// # Errors
    /// [`LockError::Held`] names who has it.
    pub fn take(data: &Path) -> Result<Self, LockError> {
        let path = data.join("lock");
        let failed = |source| LockError::File { path: path.clone(), source };
        std::fs::create_dir_all(data).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => (),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(failed)?;
                let holder = match holder.trim() {
                    "" => "another process".to_owned(),
                    holder => holder.to_owned(),
                };
                return Err(LockError::Held { path, holder });
            }
            Err(error) => return Err(failed(error.into())),
        }
        let pid = std::process::id();
        let told = file.set_len(0).and_then(|()| {
            file.rewind()?;
            writeln!(file, "process {pid}")
        });
        told.map_err(failed)?;
        Ok(Self { _file: file })
    }
}
