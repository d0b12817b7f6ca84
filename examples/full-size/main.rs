//! Loads one model folder and computes a few greedy tokens, and prints as one JSON object what that took: load time beside
//! plain copies of the same bytes, seconds a token, the process's peak memory, the tokens.
//!
//! `cargo xtask full-size` runs it on checkpoints of InCoder's size.

use incoder::checkpoint::{BoxFuture, Folder, Source};
use incoder::gpu::StagingCopy;
use incoder::{
    Cancel, Config, Device, Error, Gpu, GpuOptions, Kv, LoadOptions, MemoryPlan, Progress, Quantization, Session,
};
use pollster::block_on;
use serde_json::json;
use std::cell::RefCell;
use std::error::Error as StdError;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Instant;

const CONTEXT: [u32; 8] = [2, 4711, 17, 40_000, 99, 12_345, 50_000, 1_000];
const NEW_TOKENS: usize = 8;
/// Tokens of context: few, so that the memory is the weights'.
const CONTEXT_TOKENS: usize = 256;
/// Bytes of a plain copy at a time, as in an upload.
const CHUNK_BYTES: usize = 4 << 20;
/// Host memory that is copied again and again: too large for any cache.
const HOST_BYTES: usize = 256 << 20;

struct Directory(PathBuf);

struct OpenFile {
    name: String,
    size: u64,
    file: RefCell<File>,
}

impl Folder for Directory {
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, incoder::Result<Option<Box<dyn Source>>>> {
        Box::pin(async move {
            let Ok(file) = File::open(self.0.join(name)) else { return Ok(None) };
            let failed = |e: std::io::Error| Error::Source { file: name.to_owned(), problem: e.to_string() };
            let size = file.metadata().map_err(failed)?.len();
            Ok(Some(Box::new(OpenFile { name: name.to_owned(), size, file: file.into() }) as Box<dyn Source>))
        })
    }
}

impl Source for OpenFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read<'a>(&'a self, offset: u64, out: &'a mut [u8]) -> BoxFuture<'a, incoder::Result<()>> {
        Box::pin(async move {
            let mut file = self.file.borrow_mut();
            let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(out));
            read.map_err(|e| Error::Source { file: self.name.clone(), problem: e.to_string() })
        })
    }
}

fn main() -> Result<(), Box<dyn StdError>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let on_cpu = arguments.iter().any(|argument| argument == "--cpu");
    let quantize = arguments.iter().skip_while(|argument| *argument != "--quantize").nth(1);
    let quantize = quantize.map(|name| Quantization::named(name).ok_or("--quantize takes q8 or q4")).transpose()?;
    let folder = arguments.first().ok_or("usage: full_size FOLDER [--cpu] [--quantize q8|q4]")?;
    let config = Config::from_json(&std::fs::read_to_string(Path::new(folder).join("config.json"))?)?;
    let config = config.quantized(quantize)?;
    let report = match on_cpu {
        true => on(Path::new(folder), &Device::Cpu, quantize)?,
        false => on_gpu(Path::new(folder), &config)?,
    };
    println!("{report}");
    Ok(())
}

fn on_gpu(folder: &Path, config: &Config) -> Result<serde_json::Value, Box<dyn StdError>> {
    let gpu = block_on(Gpu::open(&GpuOptions::default()))?;
    let device = Device::Gpu(gpu.clone());
    let mut report = on(folder, &device, config.quantization)?;
    // After the load, so that the peak above is the load's own.
    let plan = MemoryPlan::new(config, CONTEXT_TOKENS, Kv::F16, &gpu.memory_limits());
    report["adapter"] = json!(gpu.report().name);
    report["planned_bytes"] = json!(plan.total());
    report["copy_s"] = json!(copy_memory(&gpu, 2 * config.parameters())?);
    report["copy_file_s"] = json!(copy_files(&gpu, folder)?);
    Ok(report)
}

/// Loads and generates; the session is gone afterwards.
fn on(folder: &Path, device: &Device, quantize: Option<Quantization>) -> Result<serde_json::Value, Box<dyn StdError>> {
    let (start, mut uploading) = (Instant::now(), None);
    let mut on_progress = |progress| {
        if let Progress::Upload { .. } = progress {
            uploading.get_or_insert_with(Instant::now);
        }
    };
    let options = LoadOptions { context: Some(CONTEXT_TOKENS), kv: Kv::F16, quantize, ..Default::default() };
    let mut session = block_on(Session::load(&Directory(folder.to_owned()), device, &options, &mut on_progress))?;
    let (load, upload) = (start.elapsed(), uploading.map_or(start.elapsed(), |uploading| uploading.elapsed()));
    let (mut context, mut tokens) = (CONTEXT.to_vec(), Vec::new());
    let mut first = None;
    let generating = Instant::now();
    for _ in 0..NEW_TOKENS {
        block_on(session.set_context(&context, &Cancel::default()))?;
        let logits = session.logits();
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).ok_or("no logits")?;
        let second = (0..logits.len()).filter(|&i| i != best).map(|i| logits[i]).fold(f32::MIN, f32::max);
        tokens.push(json!({ "id": best, "margin": logits[best] - second }));
        context.push(best as u32);
        first.get_or_insert_with(|| generating.elapsed());
    }
    let first = first.unwrap_or_default();
    let decode = (generating.elapsed() - first) / (NEW_TOKENS as u32 - 1);
    Ok(json!({
        "load_s": load.as_secs_f64(),
        "upload_s": upload.as_secs_f64(),
        "first_token_s": (load + first).as_secs_f64(),
        "prefill_s": first.as_secs_f64(),
        "token_s": decode.as_secs_f64(),
        "peak_bytes": peak_memory(),
        "gpu_bytes": match device { Device::Gpu(gpu) => gpu.allocated_bytes(), Device::Cpu => None },
        "tokens": tokens,
    }))
}

/// Seconds to copy `bytes` bytes of host memory to the GPU.
fn copy_memory(gpu: &Gpu, bytes: u64) -> Result<f64, Box<dyn StdError>> {
    let host: Vec<u8> = (0..HOST_BYTES).map(|i| i as u8).collect();
    let (start, mut copy, mut done) = (Instant::now(), StagingCopy::new(gpu), 0);
    for chunk in host.chunks_exact(CHUNK_BYTES).cycle() {
        block_on(copy.write(chunk))?;
        done += chunk.len() as u64;
        if done >= bytes {
            break;
        }
    }
    block_on(copy.finish())?;
    Ok(start.elapsed().as_secs_f64())
}

/// Seconds to copy the weights' files to the GPU as they are.
fn copy_files(gpu: &Gpu, folder: &Path) -> Result<f64, Box<dyn StdError>> {
    let (start, mut copy) = (Instant::now(), StagingCopy::new(gpu));
    let mut chunk = vec![0; CHUNK_BYTES];
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if !path.extension().is_some_and(|extension| extension == "bin" || extension == "safetensors") {
            continue;
        }
        let mut file = File::open(path)?;
        loop {
            let read = file.read(&mut chunk)?;
            if read == 0 {
                break;
            }
            block_on(copy.write(&chunk[..read.next_multiple_of(4)]))?;
        }
    }
    block_on(copy.finish())?;
    Ok(start.elapsed().as_secs_f64())
}

/// The most memory that this process had at any time, where the system says it in a file.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
