//! Who a node is: its data directory, which nobody else uses, and the id that is kept there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sandpit_actors::embed::{DataLock, LockError};
use sandpit_config::Config;
use sandpit_messages::id::NodeId;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::settings;

/// A data directory that is ours as long as this lives.
#[derive(Debug)]
pub struct Identity {
    /// Where everything is kept.
    pub data: PathBuf,
    /// Minted once per data directory.
    pub node: NodeId,
    _lock: DataLock,
}

impl Identity {
    /// Takes the configured data directory, and makes it if it is not there.
    ///
    /// # Errors
    /// A [`Failure`]: another node uses it, or it cannot be used.
    pub fn take(config: &Config) -> Result<Self, Failure> {
        let data = settings::data_directory(config);
        let data = std::path::absolute(&data).unwrap_or(data);
        let lock = DataLock::take(&data).map_err(|error| match &error {
            LockError::Held { .. } => {
                Failure::new(Exit::InUse, "in_use", "the data directory belongs to another node")
                    .caused_by(&error)
                    .next("sandpit pool")
                    .next("sandpit up --data FOLDER")
            }
            LockError::File { .. } => unusable(&data).caused_by(&error),
        })?;
        let node = kept(&data).map_err(|error| unusable(&data).caused_by(&error))?;
        Ok(Self { data, node, _lock: lock })
    }
}

fn unusable(data: &Path) -> Failure {
    let what = format!("the data directory {} cannot be used", data.display());
    Failure::new(Exit::Failed, "data_unusable", what)
        .next("free space there, or make it writable")
        .next("sandpit up --data FOLDER")
}

/// The id of this directory's node. What is not an id is not overwritten: sandboxes may carry it.
fn kept(data: &Path) -> io::Result<NodeId> {
    let path = data.join("node");
    match fs::read_to_string(&path) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|error| io::Error::other(format!("{} is damaged: {error}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => mint(data, &path),
        Err(error) => Err(error),
    }
}

/// Written means on disk, under its name.
fn mint(data: &Path, path: &Path) -> io::Result<NodeId> {
    let node = NodeId::of_bits(rand::random());
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    writeln!(file, "{node}")?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(data)?.sync_all()?;
    Ok(node)
}

#[cfg(test)]
mod tests {
    use sandpit_config::Layers;

    use super::*;

    fn config(data: &Path) -> Config {
        let flags = vec![format!("data.directory={}", data.display())];
        Layers { flags, ..Layers::default() }.read().unwrap().config
    }

    fn folder(name: &str) -> PathBuf {
        let name = format!("sandpit-identity-{name}-{:016x}", rand::random::<u64>());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_data_directory_keeps_its_node_and_has_one_owner() {
        let data = folder("owner");
        let config = config(&data);
        let first = Identity::take(&config).unwrap();
        let second = Identity::take(&config).unwrap_err();
        assert_eq!(second.exit, Exit::InUse, "{}", second.text());
        let node = first.node;
        drop(first);
        assert_eq!(Identity::take(&config).unwrap().node, node);
        fs::remove_dir_all(data).unwrap();
    }

    #[test]
    fn a_damaged_id_is_refused_and_kept() {
        let data = folder("damaged");
        fs::write(data.join("node"), "NOT AN ID\n").unwrap();
        let failure = Identity::take(&config(&data)).unwrap_err();
        assert!(failure.text().contains("is damaged"), "{}", failure.text());
        assert_eq!(fs::read_to_string(data.join("node")).unwrap(), "NOT AN ID\n");
        fs::remove_dir_all(data).unwrap();
    }
}
