//! Where the GPU's time goes: every dispatch of a step, timed by the GPU itself.

use super::choose::Choosing;
use super::plan::Plan;
use super::step::{Reads, timed_pass};
use crate::engine::forward::Column;
use crate::error::{Error, Result};
use crate::sampling::{MOST_TOLD, Sampling};
use serde::Serialize;

/// The dispatches of one kernel, at one shape, in one step.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct KernelTime {
    /// Its entry point, and for a matrix its rows (padded) and inputs.
    pub kernel: String,
    /// How many.
    pub dispatches: usize,
    /// GPU time of all of them, milliseconds.
    pub ms: f64,
    /// Weights, keys and values that they had to read, bytes: a matrix once, the cache once for each token of the step.
    pub bytes: u64,
    /// Multiplications and additions.
    pub flop: u64,
}

impl Plan {
    /// One step of `columns` with the logits after the last of them and the default draw from these, timed: kernels in the order of their first dispatch.
    ///
    /// # Errors
    /// [`Error::Argument`] when the adapter has no timestamps or too few, and as [`Plan::forward`].
    pub async fn profile(&mut self, columns: &[Column]) -> Result<Vec<KernelTime>> {
        let report = self.gpu.report();
        if !report.timestamps {
            return Err(Error::argument(format!("{} has no timestamp queries: it cannot be profiled", report.name)));
        }
        let dispatches = self.step.dispatches().len() as u32;
        let count = 2 * dispatches + 4;
        if count > wgpu::QUERY_SET_MAX_QUERIES {
            let most = wgpu::QUERY_SET_MAX_QUERIES;
            return Err(Error::argument(format!("a profile takes {count} timestamps, WebGPU allows {most}")));
        }
        let device = &self.gpu.device;
        let timestamps = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("profile"),
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let bytes = u64::from(count) * 8;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = self.gpu.buffer("timestamps", bytes, usage)?;
        let readable = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.gpu.buffer("timestamps to read", bytes, readable)?;
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("profile") });
        self.forget();
        let sampling = Sampling::default();
        let choosing = Choosing {
            sampling,
            told: MOST_TOLD.min(sampling.top_k + 1),
            banned: &[],
            contexts: &[[&[]; 2]],
            stops: &[],
        };
        self.chooser.start(&choosing);
        self.step.encode_timed(&mut encoder, columns, 1, &timestamps);
        self.chooser.dispatch_best(&mut timed_pass(&mut encoder, "choose_best", &timestamps, dispatches), 1);
        self.chooser.dispatch_token(&mut timed_pass(&mut encoder, "choose_token", &timestamps, dispatches + 1), 1);
        encoder.resolve_query_set(&timestamps, 0..count, &resolved, 0);
        encoder.copy_buffer_to_buffer(&resolved, 0, &staging, 0, Some(bytes));
        self.gpu.queue.submit([encoder.finish()]);
        let ticks: Vec<u64> = self.gpu.read(&staging, count as usize).await?;
        let ms_per_tick = f64::from(self.gpu.queue.get_timestamp_period()) / 1e6;
        let mut kernels: Vec<KernelTime> = Vec::new();
        let choose = [("choose_best", Reads::Little), ("choose_token", Reads::Little)];
        for ((name, reads), ticks) in self.step.dispatches().chain(choose).zip(ticks.chunks_exact(2)) {
            let (kernel, bytes, flop) = self.work(name, reads, columns);
            let ms = ticks[1].saturating_sub(ticks[0]) as f64 * ms_per_tick;
            match kernels.iter_mut().find(|time| time.kernel == kernel) {
                Some(time) => {
                    time.dispatches += 1;
                    time.ms += ms;
                    time.bytes += bytes;
                    time.flop += flop;
                }
                None => kernels.push(KernelTime { kernel, dispatches: 1, ms, bytes, flop }),
            }
        }
        Ok(kernels)
    }

    /// The name, bytes and operations of one dispatch.
    fn work(&self, name: &str, reads: Reads, columns: &[Column]) -> (String, u64, u64) {
        match reads {
            Reads::Little => (name.to_owned(), 0, 0),
            Reads::Weights { rows, inputs, format } => {
                let columns = if name == "project_logits" { 1 } else { columns.len() as u64 };
                let bytes = rows * format.bytes(inputs as usize) as u64;
                (format!("{name} {rows}×{inputs}"), bytes, 2 * rows * inputs * columns)
            }
            Reads::Cache => {
                let attended: u64 = columns.iter().map(|column| u64::from(column.attended())).sum();
                let stored = attended * (self.config.kv_width() * self.kv.bytes()) as u64;
                (name.to_owned(), stored, 2 * attended * self.config.query_width() as u64)
            }
        }
    }
}
