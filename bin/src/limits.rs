//! Sections of the configuration become the limits of actors and the options of the engine. One
//! function per section.

pub(crate) mod clouds;

use std::path::Path;

use sandpit_actors::bus::{gate, idempotency};
use sandpit_actors::{agent, exec, market, node, pool, reaper, scaler, supervise, swarm};
use sandpit_config::{
    Cgroup, Config, Folder, GateConfig, LocalConfig, ProviderKind, ReaperConfig, Requirements,
    ScalerConfig, SuperviseConfig, TemplateConfig,
};
use sandpit_messages::id::NodeId;
use sandpit_sandbox::fetch::Source;
use sandpit_sandbox::local::options::{Bounds, CgroupChoice, Layers, Options, TemplateSpec};
use sandpit_sandbox::local::template::built_in;
use sandpit_sandbox::provider::Limits;

/// Everything that bounds the actors of a node.
pub fn node(config: &Config) -> node::Limits {
    node::Limits {
        supervise: supervise(&config.supervise),
        pool: pool(config),
        exec: exec(config),
        reaper: reaper(&config.reaper),
        scaler: scaler(&config.scaler),
        swarm: swarm::policy::Limits::default(),
        agent: agent(config),
        market: market::policy::Limits::default(),
        gate: gate(&config.gate),
        keys: idempotency::Limits::default(),
    }
}

/// `[scaler]`.
pub fn scaler(config: &ScalerConfig) -> scaler::policy::Limits {
    let ScalerConfig { instances_max, deployments_max, drain_max } = *config;
    let limits = scaler::policy::Limits::default();
    scaler::policy::Limits { instances_max, deployments_max, drain_max, ..limits }
}

/// `[gate]`.
pub fn gate(config: &GateConfig) -> gate::Limits {
    let GateConfig { inflight_max, queue_max, queue_wait_max } = *config;
    gate::Limits { inflight_max, queue_max, queue_wait_max }
}

/// `[supervise]`.
pub fn supervise(config: &SuperviseConfig) -> supervise::policy::Limits {
    let SuperviseConfig { restarts_max, window, pause_min, pause_max } = *config;
    supervise::policy::Limits { failures_max: restarts_max, window, pause_min, pause_max }
}

/// `[pool]`, and the stock of each template.
pub fn pool(config: &Config) -> pool::policy::Limits {
    // Nothing is kept ready of what no endpoint has.
    let there = |name: &str| match config.provider.kind {
        ProviderKind::Local => true,
        ProviderKind::E2b => clouds::endpoints(config)
            .any(|(_, endpoint)| endpoint.template_map.iter().any(|renamed| renamed.ours == name)),
    };
    let targets = config.template.iter().filter(|(name, _)| there(name));
    let targets = targets.map(|(name, template)| (name.clone(), template.warm_target));
    let pool = &config.pool;
    pool::policy::Limits {
        targets: targets.collect(),
        total_max: pool.total_max,
        booting_max: pool.create_concurrency,
        waiting_max: pool.waiting_max,
        wait_max: pool.wait_max,
        idle_max: pool.idle_max,
        retry_pause: pool.retry_pause,
        broken_pause: pool.broken_pause,
        boot_max: pool.boot_max,
        destroy_max: pool.destroy_max,
        lifetime_max: pool.lifetime_max,
        paused_kept: config.e2b.paused_retention,
        ended_kept: pool.ended_kept,
        ended_max: pool.ended_max,
        ..pool::policy::Limits::default()
    }
}

/// `[exec]` and `[cache]`.
pub fn exec(config: &Config) -> exec::policy::Limits {
    let cache = &config.cache;
    exec::policy::Limits {
        callers_max: config.exec.callers_max,
        cache: exec::cache::Limits {
            age_max: cache.age_max,
            bytes_max: cache.size_max,
            entries_max: cache.entries_max,
            output_max: cache.output_max,
        },
        ..exec::policy::Limits::default()
    }
}

/// `[agent]` and `[paper]`.
pub fn agent(config: &Config) -> agent::policy::Limits {
    /// In a dollar.
    const MICROS: i64 = 1_000_000;
    let (agent, paper) = (config.agent, config.paper);
    agent::policy::Limits {
        agents_max: agent.agents_max,
        bar_max: agent.bar_max,
        restarts_max: agent.restarts_max,
        ended_kept: agent.ended_kept,
        terms: agent::account::Terms {
            capital: i64::from(paper.capital_usd) * MICROS,
            commission_bps: paper.commission_bps,
            slippage_bps: paper.slippage_bps,
            borrow_bps: paper.borrow_bps,
        },
        ..agent::policy::Limits::default()
    }
}

/// Why a template cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TemplateFault {
    /// One of its files cannot be read.
    #[error("{setting}: cannot read {path}")]
    Unreadable {
        /// The setting that names it.
        setting: String,
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing of that kind comes with sandpit.
    #[error("{setting} is \"builtin\", but nothing comes with sandpit for template `{template}`")]
    NotBuiltin {
        /// The setting.
        setting: String,
        /// The template.
        template: String,
    },
}

/// `[provider.local]` and `[template.*]`. Reads the files that templates name.
///
/// # Errors
/// [`TemplateFault`], naming the setting.
pub fn local(config: &Config, node: NodeId, data: &Path) -> Result<Options, TemplateFault> {
    let templates = config.template.iter();
    let templates = templates.map(|(name, it)| Ok((name.clone(), template(name, it)?)));
    let local = &config.provider.local;
    Ok(Options {
        node,
        store: data.join("templates"),
        python: local.python.clone(),
        uid_base: local.uid_base,
        cgroup: match local.cgroup {
            Cgroup::Auto => CgroupChoice::Auto,
            Cgroup::None => CgroupChoice::None,
        },
        spare_skeletons: local.spare_skeletons,
        sandboxes_max: local.sandboxes_max,
        rotate_forks: local.rotate_forks,
        rotate_age: local.rotate_age,
        huge_pages: local.huge_pages,
        bounds: bounds(local),
        templates: templates.collect::<Result<_, _>>()?,
        layers: layers(local),
    })
}

fn layers(local: &LocalConfig) -> Layers {
    Layers {
        source: local.layer_wheels.clone().map_or(Source::Index, Source::Folder),
        kept_max: local.layers_max,
        setup_max: local.setup_max,
        data_max: local.export_max,
        archive_max: local.import_max,
        ..Layers::default()
    }
}

fn bounds(local: &LocalConfig) -> Bounds {
    Bounds {
        pids: local.pids_max,
        home_bytes: local.home,
        tmp_bytes: local.tmp,
        shm_bytes: local.shm,
        file_bytes: local.file,
        open_files: local.open_files_max,
        output_kept: local.output_kept,
        output_max: local.output_max,
        queued_max: local.queued_max,
        grace: local.grace,
        destroy_max: local.destroy_max,
    }
}

fn template(name: &str, config: &TemplateConfig) -> Result<TemplateSpec, TemplateFault> {
    let text = |field: &str, from: &Requirements, builtin: Option<String>| {
        let setting = format!("template.{name}.{field}");
        match (from, builtin) {
            (Requirements::Nothing, _) => Ok(String::new()),
            (Requirements::Builtin, Some(text)) => Ok(text),
            (Requirements::Builtin, None) => {
                Err(TemplateFault::NotBuiltin { setting, template: name.to_owned() })
            }
            (Requirements::File(path), _) => std::fs::read_to_string(path).map_err(|source| {
                let path = path.display().to_string();
                TemplateFault::Unreadable { setting, path, source }
            }),
        }
    };
    let builtin = built_in().remove(name);
    let (packages, warmup) = builtin.map(|it| (it.requirements, it.warmup)).unzip();
    let mut requirements = text("requirements", &config.requirements, packages)?;
    for package in &config.packages {
        requirements.push_str(package);
        requirements.push('\n');
    }
    let data = config.data.iter().map(|Folder { name, path }| (name.clone(), path.clone()));
    Ok(TemplateSpec {
        requirements,
        warmup: text("warmup", &config.warmup, warmup)?,
        data: data.collect(),
        program: config.program.clone(),
        limits: Limits { memory_mb: config.memory_mb, cpu_count: config.cpu_count },
    })
}

/// `[reaper]`.
pub fn reaper(config: &ReaperConfig) -> reaper::policy::Limits {
    reaper::policy::Limits { period: config.sweep, ..reaper::policy::Limits::default() }
}
