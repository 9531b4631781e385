//! Requests about templates: those built for a caller, written down, listed, and carried from
//! node to node.

use std::mem;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sandpit_messages::deployment::Deploy;
use sandpit_messages::envelope::Tenant;
use sandpit_messages::refusal::Refusal;
use sandpit_messages::sandbox::Create;
use sandpit_messages::template::{
    CHUNK_MAX, Configuration, Export, Exported, Origin, Performance, TemplateChunk, TemplateGet,
    TemplateImport, TemplateImported, TemplateLine, TemplateList, Templates,
};
use sandpit_messages::time::{Moment, WallTime};
use sandpit_sandbox::Provider;
use sandpit_sandbox::provider::{Archive, Arrival, ExportRequest, Layer, Piece};

use super::{Call, Entry, MIB, Ports, checks, deployments, keyed, resources};
use crate::layers;
use crate::pool::{GetFacts, Learn};
use crate::shell::refusal_of;

impl Entry {
    /// Puts the template that a `create` means in place of the one it names.
    pub(super) async fn settle_template(
        &self,
        ask: &mut Create,
        until: Moment,
    ) -> Result<(), Refusal> {
        checks::template(&ask.template)?;
        let (named, packages) =
            (mem::take(&mut ask.template), mem::take(&mut ask.install_packages));
        ask.template = self.template_of(named, packages, until).await?;
        Ok(())
    }

    /// The same for a deployment, whose template a preset may name.
    pub(super) async fn settle_deployment(
        &self,
        mut ask: Deploy,
        tenant: &Tenant,
        until: Moment,
    ) -> Result<Deploy, Refusal> {
        let packages = mem::take(&mut ask.configuration.packages);
        checks::packages("packages", &packages)?;
        // Nothing is built for what is refused in any case.
        let (order, _) = deployments::order(ask.clone(), tenant.clone())?;
        let named = order.plan.template.clone();
        ask.configuration.template = Some(self.template_of(named, packages, until).await?);
        Ok(ask)
    }

    /// The template that a name and packages mean: the newest of those exported under that name,
    /// or the one with the packages on top.
    async fn template_of(
        &self,
        named: String,
        packages: Vec<String>,
        until: Moment,
    ) -> Result<String, Refusal> {
        let Ports { clock, provider, pool, .. } = &self.ports;
        let known = provider.resolve(&named);
        if packages.is_empty() {
            // What nobody knows is refused by the pool, which lists what there is.
            return Ok(known.unwrap_or(named));
        }
        let below = known.ok_or_else(|| unknown(&**provider, &named))?;
        let layer = Layer { packages, ..Layer::on(below) };
        // Rare, and large: the usual create must not carry it along.
        let building = Box::pin(layers::built(provider, pool, *clock, layer, until));
        Ok(building.await?.name)
    }

    pub(super) async fn export(&self, call: &Call, mut ask: Export) -> Result<Exported, Refusal> {
        call.take_key(ask.idempotency_key.take());
        let asked = keyed::idempotent(call, &ask)?;
        let exporting = async {
            checks::template_name(&ask.template_name)?;
            let Ports { provider, pool, .. } = &self.ports;
            let name = &ask.template_name;
            if provider.templates().contains(name) {
                return Err(checks::taken(name));
            }
            let (tenant, sandbox) = (call.tenant.clone(), ask.sandbox_id);
            let fact = pool.ask_settled(GetFacts { tenant, sandbox }).await??;
            if let Some((cause, at)) = fact.ended {
                let ago = self.ports.clock.now().since(at);
                return Err(Refusal::Gone { sandbox, why: cause.as_str(), ago });
            }
            let export = ExportRequest {
                sandbox,
                name: ask.template_name,
                limits: fact.limits,
                env_names: fact.order.env.keys().cloned().collect(),
                data: ask.include_data,
            };
            let archive = provider.export(export).await.map_err(|error| refusal_of(&error))?;
            pool.ask_settled(Learn { template: archive.id.clone() }).await?;
            Ok(exported(archive, &ask.sandbox_id, fact.executions))
        };
        self.keyed.once_here::<Export>(asked, exporting).await
    }

    pub(super) async fn template_list(&self, _: TemplateList) -> Result<Templates, Refusal> {
        let Ports { node, provider, .. } = &self.ports;
        let archives = provider.archives();
        let written = |id: &str| archives.iter().any(|archive| archive.id == id);
        let others = provider.templates();
        let others = others.into_iter().filter(|id| !written(id)).map(|id| TemplateLine {
            origin: if layers::is_id(&id) { Origin::Layer } else { Origin::Configured },
            template_id: layers::is_id(&id).then(|| id.clone()),
            template: id,
            version: None,
            exported_at: None,
            size_mb: None,
            sha256: None,
        });
        let mut templates: Vec<_> = others.collect();
        templates.extend(archives.iter().map(line));
        Ok(Templates { node: *node, templates })
    }

    pub(super) async fn template_get(&self, ask: TemplateGet) -> Result<TemplateChunk, Refusal> {
        let provider = &self.ports.provider;
        let id = provider.resolve(&ask.template_name);
        let archive = provider.archives().into_iter().find(|one| Some(&one.id) == id.as_ref());
        let archive = archive.ok_or_else(|| unknown(&**provider, &ask.template_name))?;
        let read = provider.read_archive(&archive.id, ask.offset, CHUNK_MAX).await;
        let bytes = read.map_err(|error| refusal_of(&error))?;
        Ok(TemplateChunk {
            template_name: archive.name,
            size: archive.size,
            sha256: archive.sha256,
            offset: ask.offset,
            content: STANDARD.encode(bytes),
        })
    }

    pub(super) async fn template_import(
        &self,
        ask: TemplateImport,
    ) -> Result<TemplateImported, Refusal> {
        let Ports { provider, pool, .. } = &self.ports;
        let piece = checks::piece(ask)?;
        let arrival = provider.import(piece).await.map_err(|error| refusal_of(&error))?;
        match arrival {
            Arrival::Wanted(next_offset) => Ok(TemplateImported { next_offset, template: None }),
            Arrival::Whole(archive) => {
                pool.ask_settled(Learn { template: archive.id.clone() }).await?;
                let next_offset = archive.size;
                Ok(TemplateImported { next_offset, template: Some(line(&archive)) })
            }
        }
    }
}

/// No template of that name; those that could have been meant.
fn unknown(provider: &dyn Provider, template: &str) -> Refusal {
    let exported = provider.archives().into_iter().map(|archive| archive.name);
    let configured = provider.templates().into_iter().filter(|name| !layers::is_id(name));
    let mut known: Vec<_> = configured.chain(exported).collect();
    known.sort();
    known.dedup();
    Refusal::NoSuchTemplate { template: template.chars().take(64).collect(), known }
}

fn line(archive: &Archive) -> TemplateLine {
    TemplateLine {
        template: archive.name.clone(),
        origin: Origin::Exported,
        template_id: Some(archive.id.clone()),
        version: Some(archive.version),
        exported_at: Some(WallTime(archive.at_ms).rfc3339()),
        size_mb: Some(archive.size as f64 / MIB),
        sha256: Some(archive.sha256.clone()),
    }
}

fn exported(archive: Archive, from: &sandpit_messages::id::SandboxId, executions: u64) -> Exported {
    let Archive { id, name, version, at_ms, size, sha256, contents, notes } = archive;
    Exported {
        template_id: id,
        template_name: name,
        version,
        exported_at: WallTime(at_ms).rfc3339(),
        size_mb: size as f64 / MIB,
        sha256,
        created_from: *from,
        configuration: Configuration {
            base: contents.base,
            resources: resources(contents.limits),
            packages: contents.packages,
            env_names: contents.env_names,
        },
        performance: Performance { executions },
        includes_data: contents.includes_data,
        notes,
    }
}

/// A piece of an archive as it came.
pub(super) fn piece(ask: TemplateImport, bytes: Vec<u8>) -> Piece {
    Piece {
        name: ask.template_name,
        size: ask.size,
        sha256: ask.sha256,
        offset: ask.offset,
        bytes: bytes.into(),
    }
}

/// The bytes of a piece.
pub(super) fn decoded(content: &str) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(content).ok()?;
    (bytes.len() <= CHUNK_MAX).then_some(bytes)
}

impl Call {
    /// Takes the key that stands among the arguments. One in the headers wins.
    pub(super) fn take_key(&self, key: Option<String>) {
        if let Some(key) = key {
            // It is set once: a call is read once.
            self.key.set(key).ok();
        }
    }
}
