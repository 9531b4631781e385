//! `sandpit template`: list, export, save, import.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sandpit_messages::envelope::IdempotencyKey;
use sandpit_messages::id::{NodeId, SandboxId};
use sandpit_messages::template::{
    CHUNK_MAX, Export, Origin, TemplateChunk, TemplateGet, TemplateImport, TemplateLine,
    TemplateList, Templates,
};
use sandpit_sandbox::local::template::archive::fingerprint;
use sha2::{Digest, Sha256};

use super::exit::Exit;
use super::failure::Failure;
use super::out::{self, Out};
use crate::client::{Call, Key};
use crate::session::Session;
use crate::settings::SettingFlags;

/// Longest that writing down, or trying what was taken in, may take.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Debug, clap::Subcommand)]
pub(super) enum Verb {
    /// Show the templates of a node.
    List {
        /// Which node; without it, any.
        #[arg(long)]
        node: Option<NodeId>,
    },
    /// Write a sandbox down as a template that others can be made from. It goes on running.
    Export {
        /// Which sandbox.
        sandbox: SandboxId,
        /// What to call the template: a-z, 0-9 and `-`. A name that is taken gets a new version.
        name: String,
        /// Take /home/user along as it is now.
        #[arg(long)]
        include_data: bool,
        /// Also save its archive in this file, which must not be there.
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// Makes repeating the command safe: 16 to 64 of A-Z, a-z, 0-9, `_` and `-`.
        #[arg(long, value_name = "KEY")]
        key: Option<IdempotencyKey>,
    },
    /// Save the archive of an exported template in a file.
    Save {
        /// Its name (the newest version), `name@version`, or its id.
        template: String,
        /// Where to; must not be there.
        file: PathBuf,
        /// The node that has it; without it, any.
        #[arg(long)]
        node: Option<NodeId>,
    },
    /// Give the archive of a template to a node, which checks it, tries it and keeps it.
    Import {
        /// The archive.
        file: PathBuf,
        /// What to call it there; without it, as it was called.
        #[arg(long)]
        name: Option<String>,
        /// Which node; without it, any.
        #[arg(long)]
        node: Option<NodeId>,
    },
}

impl Verb {
    pub(super) fn run(self, settings: &SettingFlags, out: Out) -> Result<Exit, Failure> {
        Session::run(settings, "template", async |session| match self {
            Self::List { node } => list(&session, node, out).await,
            Self::Export { sandbox, name, include_data, to, key } => {
                let export = Export {
                    sandbox_id: sandbox,
                    template_name: name,
                    include_data,
                    idempotency_key: None,
                };
                let key = key.map_or(Key::Made, Key::Given);
                write_down(&session, export, key, to.as_deref(), out).await
            }
            Self::Save { template, file, node } => {
                let node = one_node(&session, node).await?;
                let saved = save(&session, node, &template, &file).await?;
                if out.json {
                    out.document("sandpit.template.save/1", &saved);
                } else {
                    out::line(&format!("{} {}", saved.sha256, file.display()));
                }
                Ok(Exit::Done)
            }
            Self::Import { file, name, node } => {
                let node = one_node(&session, node).await?;
                import(&session, node, &file, name, out).await
            }
        })
    }
}

async fn templates(session: &Session, node: Option<NodeId>) -> Result<Templates, Failure> {
    let call = Call { node, ..Call::default() };
    let asked = session.client.request(&TemplateList {}, call).await;
    asked.map_err(|error| Failure::of_ask("nobody listed templates", &error))
}

/// Pieces of one archive come from one node.
async fn one_node(session: &Session, node: Option<NodeId>) -> Result<NodeId, Failure> {
    match node {
        Some(node) => Ok(node),
        None => Ok(templates(session, None).await?.node),
    }
}

async fn list(session: &Session, node: Option<NodeId>, out: Out) -> Result<Exit, Failure> {
    let found = templates(session, node).await?;
    match out {
        Out { json: true, .. } => out.document("sandpit.template.list/1", &found),
        Out { quiet: true, .. } => {
            found.templates.iter().for_each(|line| out::line(&line.template));
        }
        Out { .. } => out::table(
            ["template", "version", "from", "size", "exported", "id"],
            found.templates.into_iter().map(row),
        ),
    }
    Ok(Exit::Done)
}

fn row(line: TemplateLine) -> [String; 6] {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let from = match line.origin {
        Origin::Configured => "settings",
        Origin::Layer => "layer",
        Origin::Exported => "export",
    };
    [
        line.template,
        or_none(line.version.map(|version| version.to_string())),
        from.to_owned(),
        or_none(line.size_mb.map(|mib| format!("{mib:.1} MiB"))),
        or_none(line.exported_at),
        or_none(line.template_id),
    ]
}

async fn write_down(
    session: &Session,
    export: Export,
    key: Key,
    to: Option<&Path>,
    out: Out,
) -> Result<Exit, Failure> {
    let sandbox = export.sandbox_id;
    if let Some(file) = to.filter(|file| file.exists()) {
        return Err(there_already(file));
    }
    let call = Call { patience: Some(PATIENCE), key, owner_of: Some(sandbox), ..Call::default() };
    let asked = session.client.request(&export, call).await;
    let what = format!("sandbox {sandbox} was not written down");
    let exported = asked.map_err(|error| Failure::of_ask(what, &error))?;
    if let Some(file) = to {
        save(session, sandbox.node(), &exported.template_id, file).await?;
    }
    match out {
        Out { json: true, .. } => out.document("sandpit.template.export/1", &exported),
        Out { quiet: true, .. } => out::line(&exported.template_id),
        Out { .. } => {
            let name = &exported.template_name;
            out::line(&format!("{name}@{} {}", exported.version, exported.template_id));
            out::note(&format!("{:.1} MiB, sha256 {}", exported.size_mb, exported.sha256));
            exported.notes.iter().for_each(|note| out::note(note));
        }
    }
    Ok(Exit::Done)
}

async fn save(
    session: &Session,
    node: NodeId,
    template: &str,
    file: &Path,
) -> Result<TemplateChunk, Failure> {
    let unwritable = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => there_already(file),
        _ => unusable(file, &error),
    };
    let mut to = File::options().write(true).create_new(true).open(file).map_err(unwritable)?;
    let saved = async {
        let (mut offset, mut hash) = (0, Sha256::new());
        loop {
            let get = TemplateGet { template_name: template.to_owned(), offset };
            let call = Call { node: Some(node), ..Call::default() };
            let asked = session.client.request(&get, call).await;
            let what = format!("template {template} was not saved");
            let chunk = asked.map_err(|error| Failure::of_ask(what, &error))?;
            let bytes = STANDARD.decode(&chunk.content).unwrap_or_default();
            if bytes.is_empty() {
                let found = hash.finalize();
                let found: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
                if found != chunk.sha256 || offset != chunk.size {
                    return Err(changed(template));
                }
                to.sync_all().map_err(|error| unusable(file, &error))?;
                return Ok(chunk);
            }
            to.write_all(&bytes).map_err(|error| unusable(file, &error))?;
            hash.update(&bytes);
            offset += bytes.len() as u64;
        }
    };
    let saved = saved.await;
    if saved.is_err() {
        // Half an archive is none; the error to tell is the first one.
        let _ = fs::remove_file(file);
    }
    saved
}

async fn import(
    session: &Session,
    node: NodeId,
    file: &Path,
    name: Option<String>,
    out: Out,
) -> Result<Exit, Failure> {
    let at = |error| unusable(file, &error);
    let mut from = File::open(file).map_err(at)?;
    let (size, sha256) = fingerprint(file).map_err(at)?;
    let (mut offset, mut refused) = (0, 0_u32);
    loop {
        let content = piece(&mut from, offset).map_err(at)?;
        let import = TemplateImport {
            template_name: name.clone(),
            sha256: sha256.clone(),
            size,
            offset,
            content: STANDARD.encode(&content),
        };
        let call = Call { node: Some(node), patience: Some(PATIENCE), ..Call::default() };
        let asked = session.client.request(&import, call).await;
        let what = format!("{} was not taken in", file.display());
        let imported = asked.map_err(|error| Failure::of_ask(what, &error))?;
        if let Some(template) = imported.template {
            match out {
                Out { json: true, .. } => out.document("sandpit.template.import/1", &template),
                Out { .. } => out::line(&template.template),
            }
            return Ok(Exit::Done);
        }
        // Somebody else may be sending the same: two that take turns must not do so for ever.
        refused = if imported.next_offset > offset { 0 } else { refused + 1 };
        if refused > TURNS_MAX {
            return Err(Failure::new(
                Exit::Conflict,
                "conflict",
                "somebody else sends the same archive",
            ));
        }
        offset = imported.next_offset;
    }
}

/// Pieces that may be refused one after the other.
const TURNS_MAX: u32 = 8;

fn piece(from: &mut File, offset: u64) -> io::Result<Vec<u8>> {
    use std::io::Seek;
    from.seek(io::SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    from.take(CHUNK_MAX as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn there_already(file: &Path) -> Failure {
    Failure::new(Exit::Conflict, "conflict", format!("{} is there already", file.display()))
        .next("name another file")
}

fn unusable(file: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, "file", format!("cannot use {}", file.display())).caused_by(error)
}

fn changed(template: &str) -> Failure {
    let what = format!("the archive of {template} changed on the way");
    Failure::new(Exit::Failed, "changed", what).next("save it again")
}
