//! `incoder devices`: the GPUs, what matters about them, and whether the published models fit.

use crate::Global;
use crate::failure::Result;
use crate::report;
use crate::terminal::{Output, note};
use incoder::{AdapterReport, Cancel, Config, Gpu, Kv, MemoryLimits, MemoryPlan, Quantization};
use serde::Serialize;
use std::fmt::Write;

/// A published model's sizes. Source: their config.json files.
pub struct Published {
    pub name: &'static str,
    pub config: &'static str,
}

pub const PUBLISHED: [Published; 2] = [
    Published {
        name: "1B",
        config: r#"{"model_type":"xglm","num_layers":24,"d_model":2048,"attention_heads":32,"ffn_dim":8192,"vocab_size":50518}"#,
    },
    Published {
        name: "6B",
        config: r#"{"model_type":"xglm","num_layers":32,"d_model":4096,"attention_heads":32,"ffn_dim":16384,"vocab_size":50518}"#,
    },
];

/// What a model takes on a device, with weights of one type and a full fp16 KV cache.
#[derive(Serialize)]
struct Fit {
    model: &'static str,
    /// fp16, q8 or q4.
    weights: &'static str,
    weight_bytes: u64,
    kv_bytes: u64,
    scratch_bytes: u64,
    total_bytes: u64,
    /// The largest buffer that cannot be split.
    binding_bytes: u64,
    /// The device's memory, where it is known: GPU APIs do not tell, but some kinds share the machine's.
    memory_bytes: Option<u64>,
    /// null: the limits allow it, and the memory is not known.
    fits: Option<bool>,
    /// The same with weights of other types.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    quantized: Vec<Fit>,
}

#[derive(Serialize)]
struct Listed<'a> {
    index: usize,
    name: &'a str,
    backend: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    driver: &'a str,
    limits: Limits,
    features: Features,
    models: Vec<Fit>,
}

#[derive(Serialize)]
struct Limits {
    max_buffer_bytes: u64,
    max_binding_bytes: u64,
    max_workgroup_bytes: u32,
    max_workgroup_invocations: u32,
    subgroup_sizes: [u32; 2],
}

#[derive(Serialize)]
struct Features {
    subgroups: bool,
    shader_f16: bool,
    timestamps: bool,
}

pub fn run(global: &Global) -> Result<()> {
    #[derive(Serialize)]
    struct Devices<'a> {
        devices: Vec<Listed<'a>>,
    }
    let adapters = pollster::block_on(Gpu::list());
    let memory = machine_memory();
    let devices = adapters.iter().enumerate().map(|(i, a)| listed(i, a, memory)).collect::<Result<Vec<_>>>()?;
    let mut output = Output::new(&Cancel::default());
    if global.json {
        output.exact(&report::line(&Devices { devices })?);
    } else {
        devices.iter().for_each(|device| output.given(&for_people(device)));
        if devices.is_empty() {
            note(global.quiet, "no GPU found: install a Vulkan, Metal or DX12 driver, or use the CPU with -d cpu");
        }
    }
    output.finish()
}

fn listed(index: usize, adapter: &AdapterReport, memory: Option<u64>) -> Result<Listed<'_>> {
    Ok(Listed {
        index,
        name: &adapter.name,
        backend: &adapter.backend,
        kind: &adapter.kind,
        driver: &adapter.driver,
        limits: Limits {
            max_buffer_bytes: adapter.max_buffer_bytes,
            max_binding_bytes: adapter.max_binding_bytes,
            max_workgroup_bytes: adapter.max_workgroup_bytes,
            max_workgroup_invocations: adapter.max_workgroup_invocations,
            subgroup_sizes: adapter.subgroup_sizes,
        },
        features: Features {
            subgroups: adapter.subgroups,
            shader_f16: adapter.shader_f16,
            timestamps: adapter.timestamps,
        },
        models: PUBLISHED.iter().map(|model| fits(model, adapter, memory)).collect::<Result<_>>()?,
    })
}

/// What weights can be on a device: fp16, and quantized.
pub fn types() -> impl Iterator<Item = Option<Quantization>> {
    [None].into_iter().chain(Quantization::ALL.map(Some))
}

pub fn type_name(quantization: Option<Quantization>) -> &'static str {
    quantization.map_or("fp16", Quantization::name)
}

/// The memory of a device that shares the machine's; others do not tell theirs.
pub fn shared_memory(adapter: &AdapterReport, machine: Option<u64>) -> Option<u64> {
    machine.filter(|_| matches!(adapter.kind.as_str(), "software" | "integrated"))
}

/// Whether a model fits; `None` where the limits allow it and the memory is not known.
pub fn verdict(plan: &MemoryPlan, limits: &MemoryLimits, memory: Option<u64>) -> Option<bool> {
    if !plan.blockers(limits).is_empty() {
        return Some(false);
    }
    memory.map(|memory| plan.total() <= memory)
}

fn fits(model: &Published, adapter: &AdapterReport, memory: Option<u64>) -> Result<Fit> {
    let of = |quantization| fit(model, quantization, adapter, memory);
    let quantized = Quantization::ALL.map(|quantization| of(Some(quantization)));
    Ok(Fit { quantized: quantized.into_iter().collect::<Result<_>>()?, ..of(None)? })
}

fn fit(
    model: &Published,
    quantization: Option<Quantization>,
    adapter: &AdapterReport,
    memory: Option<u64>,
) -> Result<Fit> {
    let config = Config::from_json(model.config)?.quantized(quantization)?;
    let limits = MemoryLimits::from(adapter);
    let plan = MemoryPlan::new(&config, config.default_context(), Kv::F16, &limits);
    let memory_bytes = shared_memory(adapter, memory);
    Ok(Fit {
        model: model.name,
        weights: type_name(quantization),
        weight_bytes: plan.weights,
        kv_bytes: plan.kv_cache,
        scratch_bytes: plan.scratch,
        total_bytes: plan.total(),
        binding_bytes: plan.unsplit[0].1,
        memory_bytes,
        fits: verdict(&plan, &limits, memory_bytes),
        quantized: Vec::new(),
    })
}

fn for_people(device: &Listed<'_>) -> String {
    let Listed { index, name, backend, kind, driver, limits, features, models } = device;
    let mut text = format!("{index}: {name}  ({backend}, {kind}; {driver})\n");
    let has = |yes: bool| if yes { "yes" } else { "no" };
    let [low, high] = limits.subgroup_sizes;
    let subgroups = if features.subgroups { format!("of {low} to {high}") } else { "no".into() };
    let _ = writeln!(
        text,
        "   binding {}, buffer {}, workgroup {} KiB and {} threads; subgroups {subgroups}, f16 {}, timestamps {}",
        size(limits.max_binding_bytes),
        size(limits.max_buffer_bytes),
        limits.max_workgroup_bytes / 1024,
        limits.max_workgroup_invocations,
        has(features.shader_f16),
        has(features.timestamps),
    );
    for model in models {
        let in_type = |fit: &Fit| format!("{} in {}, {}", size(fit.total_bytes), fit.weights, in_words(fit.fits));
        let all: Vec<String> = [model].into_iter().chain(&model.quantized).map(in_type).collect();
        let _ = writeln!(text, "   InCoder {} with a full context: {}", model.model, all.join("; "));
    }
    text
}

/// A [`verdict`].
pub fn in_words(fits: Option<bool>) -> &'static str {
    match fits {
        Some(true) => "fits",
        Some(false) => "does not fit",
        None => "fits if the GPU has that much memory",
    }
}

/// Decimal units, as GPU memory and model files are sold.
pub fn size(bytes: u64) -> String {
    match bytes {
        1_000_000_000.. => format!("{:.1} GB", bytes as f64 / 1e9),
        1_000_000.. => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.0} kB", bytes as f64 / 1e3),
    }
}

/// The machine's main memory, where the system says it in a file.
pub fn machine_memory() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_the_published_sizes() {
        let bytes = |i: usize| {
            let config = Config::from_json(PUBLISHED[i].config).unwrap();
            (2 * config.parameters(), config.kv_bytes_per_token(2))
        };
        assert_eq!(bytes(0), (2_624_126_976, 196_608));
        assert_eq!(bytes(1), (13_302_169_600, 524_288));
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!((size(2_624_126_976), size(134_217_728)), ("2.6 GB".into(), "134 MB".into()));
    }
}
