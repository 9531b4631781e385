//! What it was measured on. A number without its machine and load says nothing.

use serde::Serialize;

use crate::cli::out;

/// The machine and what else it was doing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Machine {
    /// Processors.
    cpus: usize,
    /// Their model.
    cpu: String,
    /// MiB of memory.
    memory_mib: u64,
    /// The kernel's release.
    kernel: String,
    /// How the processor's speed is chosen, where that is known.
    governor: String,
    /// Whether pages may be huge.
    huge_pages: String,
    /// Load of the last minute, before and after.
    load: [String; 2],
    /// How the program was built.
    build: &'static str,
}

impl Machine {
    /// As it is before a run.
    pub(crate) fn look() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let named = cpuinfo.lines().find(|line| line.starts_with("model name"));
        let cpu = named.and_then(|line| line.split(':').nth(1)).unwrap_or("unknown");
        let governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
        let pages = read("/sys/kernel/mm/transparent_hugepage/enabled");
        let chosen = pages.split(['[', ']']).nth(1).unwrap_or("unknown");
        let uname = rustix::system::uname();
        Self {
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: cpu.trim().to_owned(),
            memory_mib: memory_kib("MemTotal") / 1024,
            kernel: uname.release().to_string_lossy().into_owned(),
            governor: some(governor.trim()),
            huge_pages: chosen.to_owned(),
            load: [load(), String::new()],
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
        }
    }

    /// After the run.
    pub(crate) fn done(&mut self) {
        self.load[1] = load();
    }

    /// For people.
    pub(crate) fn print(&self) {
        let Self { cpus, cpu, memory_mib, kernel, governor, huge_pages, load, build } = self;
        out::line(&format!(
            "{cpus} x {cpu}, {memory_mib} MiB, kernel {kernel}, governor {governor}, huge pages \
             {huge_pages}, load {} before and {} after, {build} build",
            load[0], load[1]
        ));
    }
}

fn some(text: &str) -> String {
    if text.is_empty() { "unknown".to_owned() } else { text.to_owned() }
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    some(text.split(' ').next().unwrap_or_default())
}

/// A line of `/proc/meminfo`, in KiB.
pub(crate) fn memory_kib(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
}
