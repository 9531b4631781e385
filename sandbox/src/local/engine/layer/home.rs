//! What `/home/user` holds, on its way out of a sandbox and into one.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::super::super::template::archive;
use super::super::super::template::recipe::{Blob, HOME};
use super::super::Engine;
use super::super::provider::failed;
use super::super::run::transfer::{self, Moved, Stream};
use super::super::sandbox::Sandbox;
use crate::provider::ProviderError;

/// The program that packs and unpacks `/home/user`, as sandboxes see it.
const PROGRAM: &str = "/opt/sandpit/home.py";

/// Its exit code when there is more than it may pack.
const TOO_LARGE: i32 = 75;

/// Lines of what it left out that are told.
const LEFT_OUT_MAX: usize = 20;

impl Engine {
    /// Fills the home of a sandbox that nobody holds yet.
    pub(in super::super) async fn unpack_home(
        self: &Arc<Self>,
        sandbox: &Sandbox,
        home: &Path,
    ) -> Result<(), ProviderError> {
        let file = File::open(home).map_err(failed)?;
        let arguments = ["/opt/env/bin/python3", "-I", "-S", "-B", PROGRAM, "unpack"];
        let moved = transfer::transfer(self, sandbox, &arguments, Stream::In(file)).await;
        let moved = moved.map_err(failed)?;
        match transfer::exit_code(moved.status) {
            Some(0) => Ok(()),
            // Full, or what nobody may unpack: the next one would end the same.
            Some(_) => Err(ProviderError::TemplateBroken {
                name: sandbox.template.info.name.clone(),
                why: format!("its files cannot be unpacked: {}", moved.said),
            }),
            None => Err(failed(format!("unpacking its files was ended: {}", moved.said))),
        }
    }

    /// Keeps what is in the home of a sandbox; what was left out is told.
    pub(super) async fn pack_home(
        self: &Arc<Self>,
        sandbox: &Sandbox,
        into: &Path,
    ) -> Result<(Blob, Vec<String>), ProviderError> {
        let max = self.options.layers.data_max;
        let file = File::options().write(true).create_new(true).open(into).map_err(failed)?;
        let room = max.to_string();
        let arguments = ["/opt/env/bin/python3", "-I", "-S", "-B", PROGRAM, "pack", &room];
        let moved = transfer::transfer(self, sandbox, &arguments, Stream::Out(file, max)).await;
        let Moved { status, said, too_large } = moved.map_err(failed)?;
        let what = "/home/user of the sandbox";
        match transfer::exit_code(status) {
            _ if too_large => Err(ProviderError::TooLarge { what, bytes: max + 1, max }),
            Some(TOO_LARGE) => Err(ProviderError::TooLarge { what, bytes: max + 1, max }),
            Some(0) => {
                let (size, sha256) = archive::fingerprint(into).map_err(failed)?;
                let notes = said.lines().take(LEFT_OUT_MAX).map(str::to_owned).collect();
                Ok((Blob { name: HOME.to_owned(), sha256, size }, notes))
            }
            Some(_) => Err(failed(format!("its files cannot be packed: {said}"))),
            None => Err(failed(format!("packing its files was ended: {said}"))),
        }
    }
}
