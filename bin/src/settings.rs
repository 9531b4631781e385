//! The one place that reads the environment and the operator's file.

use std::path::{Path, PathBuf};

use sandpit_config::{Config, Layers, Loaded};

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;

/// What the command line says about settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct SettingFlags {
    /// A file with settings that differ from the defaults.
    #[arg(long, global = true, value_name = "FILE", help_heading = "Settings")]
    pub config: Option<PathBuf>,
    /// One setting, as in `--set pool.total_max=32`. May be given more than once.
    #[arg(long = "set", global = true, value_name = "A.B=VALUE", help_heading = "Settings")]
    pub set: Vec<String>,
    /// Folder of everything a node keeps (data.directory).
    #[arg(long, global = true, value_name = "FOLDER", help_heading = "Settings")]
    pub data: Option<PathBuf>,
    /// Servers to join (bus.url).
    #[arg(long, global = true, value_name = "URL", help_heading = "Settings")]
    pub bus: Option<String>,
}

/// Reads all layers.
///
/// # Errors
/// A [`Failure`] naming file and line, variable or flag of everything that is wrong.
pub fn load(flags: &SettingFlags) -> Result<Loaded, Failure> {
    let mut set = flags.set.clone();
    if let Some(folder) = &flags.data {
        set.push(format!("data.directory={}", folder.display()));
    }
    if let Some(url) = &flags.bus {
        set.push(format!("bus.url={url}"));
    }
    let file = match flags.config.clone().or_else(|| variable("SANDPIT_CONFIG").map(PathBuf::from))
    {
        Some(path) => Some((path.display().to_string(), contents(&path)?)),
        None => None,
    };
    let layers = Layers { file, environment: environment()?, flags: set };
    layers.read().map_err(|rejected| Failure::of_settings(&rejected))
}

/// Where a node of this configuration keeps what it keeps.
pub fn data_directory(config: &Config) -> PathBuf {
    config.data.directory.clone().unwrap_or_else(|| {
        if rustix::process::geteuid().is_root() {
            return PathBuf::from("/var/lib/sandpit");
        }
        let home = || variable("HOME").map(|home| Path::new(&home).join(".local/share"));
        let share = variable("XDG_DATA_HOME").map(PathBuf::from).or_else(home);
        // Somebody without a home gets a folder where they stand.
        share.unwrap_or_default().join("sandpit")
    })
}

/// The value of an environment variable, if it is set to something.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn environment() -> Result<Vec<(String, String)>, Failure> {
    let ours = std::env::vars_os()
        .filter(|(name, _)| name.to_str().is_some_and(|name| name.starts_with("SANDPIT_")));
    ours.map(|(name, value)| match (name.into_string(), value.into_string()) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        (name, _) => {
            let name = name.unwrap_or_default();
            Err(Failure::usage(format!("{name} is not UTF-8")))
        }
    })
    .collect()
}

fn contents(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        let what = format!("cannot read the settings in {}", path.display());
        Failure::new(Exit::Usage, "invalid_setting", what).caused_by(&error)
    })
}
