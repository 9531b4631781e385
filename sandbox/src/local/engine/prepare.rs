//! Templates that are started: found or built on the disk, then kept by a process of their own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::control::{KeeperBoot, ZygoteSpec};
use super::super::host;
use super::super::lockdown::Lockdown;
use super::super::options::TemplateSpec;
use super::super::plan;
use super::super::template::{self as store, INSIDE_PYTHON};
use super::layer::Ready;
use super::link::lock;
use super::provider::{PROGRAMS, WARM_MAX_MS, ZYGOTE_LIMITS, failed};
use super::template::{Readiness, Template, Top};
use super::{Engine, LauncherStage, MIB};
use crate::provider::{Progress, ProviderError, TemplateInfo};

impl Engine {
    pub(super) async fn prepare(
        self: &Arc<Self>,
        name: &str,
        progress: &Progress,
    ) -> Result<TemplateInfo, ProviderError> {
        let _one = self.preparing.lock().await;
        let known = lock(&self.templates).get(name).cloned();
        if let Some(template) = known
            && !matches!(&*template.readiness.borrow(), Readiness::Broken(_))
        {
            template.up().await?;
            return Ok(template.info.clone());
        }
        if let Some(layer) = self.stored_layer(name) {
            let ready = self.ready_layer(name, layer, progress).await?;
            return Ok(self.start_template(ready, progress).await?.info.clone());
        }
        let spec = self.options.templates.get(name);
        let spec = spec.ok_or_else(|| ProviderError::NoSuchTemplate { name: name.to_owned() })?;
        let made = self.on_disk(name, spec, progress).await?;
        let info = TemplateInfo {
            name: name.to_owned(),
            digest: made.digest.clone(),
            limits: spec.limits,
        };
        let ready = Ready { info, spec: spec.clone(), made, top: Top::default() };
        Ok(self.start_template(ready, progress).await?.info.clone())
    }

    /// Makes sure that a configured template is on the disk.
    pub(super) async fn on_disk(
        &self,
        name: &str,
        spec: &TemplateSpec,
        progress: &Progress,
    ) -> Result<store::Template, ProviderError> {
        if let Some(program) = spec.program.as_ref().filter(|it| !host::is_visible(it)) {
            let what = format!(
                "template `{name}` (sandboxes see no `{program}` in /usr/bin of this machine; \
                 install it there, as with `sudo apt install {name}`, and ask again)"
            );
            return Err(ProviderError::Unsupported { what });
        }
        let broken = |why: String| ProviderError::TemplateBroken { name: name.to_owned(), why };
        let programs: String = PROGRAMS.iter().map(|(_, text)| *text).collect();
        let made = store::prepare(&self.options, spec, &programs, progress)
            .await
            .map_err(|error| broken(error.explain()))?;
        if made.interpreter.prefix != self.interpreter.prefix {
            return Err(broken(format!(
                "Python is now at {}, and was at {} when the engine started; restart it",
                made.interpreter.prefix.display(),
                self.interpreter.prefix.display()
            )));
        }
        Ok(made)
    }

    /// Starts the keeper of a template that is on the disk, and waits until it serves.
    pub(super) async fn start_template(
        self: &Arc<Self>,
        ready: Ready,
        progress: &Progress,
    ) -> Result<Arc<Template>, ProviderError> {
        let Ready { info, spec, made, top } = ready;
        let broken = |why| ProviderError::TemplateBroken { name: info.name.clone(), why };
        progress.say("importing packages", None);
        let boot = self.boot(&spec, &made).map_err(broken)?;
        self.launched().await?;
        let number = self.number();
        let group = self
            .stock(|stock| stock.backend().group(&format!("tpl-{number}"), ZYGOTE_LIMITS))
            .ok_or_else(|| failed("the engine is closed"))?
            .map_err(failed)?;
        let template = Arc::new(Template::new(info.clone(), boot, group, top));
        // An older one that broke keeps its sandboxes; its group goes with the engine.
        lock(&self.templates).insert(info.name, Arc::clone(&template));
        self.start_keeper(&template).map_err(failed)?;
        template.up().await?;
        Ok(template)
    }

    /// Waits until there is a launcher.
    async fn launched(&self) -> Result<(), ProviderError> {
        let mut stage = self.launcher_stage.subscribe();
        let settled = stage.wait_for(|stage| !matches!(stage, LauncherStage::Starting)).await;
        match settled.as_deref() {
            Ok(LauncherStage::Up) => Ok(()),
            Ok(LauncherStage::Gone { why, .. }) => Err(failed(format!("the launcher: {why}"))),
            // The sender is in `self`.
            Ok(LauncherStage::Starting) | Err(_) => Err(failed("there is no launcher")),
        }
    }

    fn boot(&self, spec: &TemplateSpec, made: &store::Template) -> Result<KeeperBoot, String> {
        let environment = made
            .environment
            .strip_prefix(&self.options.store)
            .map_err(|_| format!("{} is not in the store", made.environment.display()))?;
        let data = self.data(spec)?;
        let programs = PROGRAMS.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let facts = host::facts(&self.interpreter, environment.to_owned(), data, programs);
        let memory = u64::from(spec.limits.memory_mb) * MIB;
        let bounds = &self.options.bounds;
        let lockdown = Lockdown::new(bounds, memory, self.held_by, self.zygote_clone)
            .map_err(|error| error.to_string())?;
        let zygote = ZygoteSpec {
            python: INSIDE_PYTHON.to_owned(),
            arguments: ["-s", "-B", "/opt/sandpit/zygote.py"].map(str::to_owned).into(),
            env: self.base_env(),
            warmup: spec.warmup.clone(),
            huge_pages: self.options.huge_pages && huge_pages_allowed(),
            warm_max_ms: WARM_MAX_MS,
        };
        Ok(KeeperBoot { ids: self.ids, plan: plan::template_root(&facts), lockdown, zygote })
    }

    /// Data folders of a template: name, and where the launcher was shown them.
    fn data(&self, spec: &TemplateSpec) -> Result<BTreeMap<String, PathBuf>, String> {
        let mut data = BTreeMap::new();
        for (name, folder) in &spec.data {
            let shown = plan::data_source(name);
            let from = if let Ok(below) = folder.strip_prefix(&self.options.store) {
                Path::new("store").join(below)
            } else if lock(&self.shown).contains(&shown) {
                PathBuf::from(shown)
            } else {
                return Err(format!(
                    "its data folder {} was not there when the engine started; restart it, or put \
                     the folder below {}",
                    folder.display(),
                    self.options.store.display()
                ));
            };
            if !folder.is_dir() {
                return Err(format!("its data folder {} is not there", folder.display()));
            }
            data.insert(name.clone(), from);
        }
        Ok(data)
    }
}

/// Whether the kernel gives huge pages to those who ask.
fn huge_pages_allowed() -> bool {
    std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
        .is_ok_and(|choice| !choice.contains("[never]"))
}
