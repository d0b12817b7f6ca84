//! InCoder's own widths and its whole vocabulary, a layer or two of it, in every format that checkpoints are published in.

use incoder::checkpoint::{BoxFuture, Folder, Source};
use incoder::{Cancel, Device, Error, GpuOptions, Kv, LoadOptions, Session};
use incoder_synthetic::{Dtype, Format, Model, Options, write};
use pollster::block_on;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A folder on disk: these checkpoints are too large to be held twice in memory.
struct Directory(PathBuf);

struct OpenFile {
    name: String,
    size: u64,
    file: std::cell::RefCell<File>,
}

impl Folder for Directory {
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, incoder::Result<Option<Box<dyn Source>>>> {
        Box::pin(async move {
            let Ok(file) = File::open(self.0.join(name)) else { return Ok(None) };
            let size = file.metadata().unwrap().len();
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

const CONTEXT: [u32; 4] = [2, 4711, 17, 40_000];
const NEW_TOKENS: usize = 2;

/// Greedy tokens after [`CONTEXT`], and by how much the likeliest one leads each time.
fn greedy(folder: &Path, device: &Device) -> Vec<(u32, f32)> {
    let options = LoadOptions { context: Some(16), kv: Kv::F32, ..Default::default() };
    let mut session = block_on(Session::load(&Directory(folder.to_owned()), device, &options, &mut |_| ())).unwrap();
    let mut context = CONTEXT.to_vec();
    (0..NEW_TOKENS)
        .map(|_| {
            block_on(session.set_context(&context, &Cancel::default())).unwrap();
            let logits = session.logits();
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            context.push(order[0] as u32);
            (order[0] as u32, logits[order[0]] - logits[order[1]])
        })
        .collect()
}

/// Writes the model in each format, and holds what the GPU computes from it against the CPU reference.
fn every_format(model: &Model, formats: &[(Format, Dtype)]) {
    let temp = tempfile::tempdir().unwrap();
    let device = crate::support::gpu(GpuOptions::default());
    let mut reference = None;
    for &(format, dtype) in formats {
        let folder = temp.path().join("model");
        let options = Options { format, dtype, shard_bytes: 300_000_000, ..Options::new(model.clone()) };
        write(&options, &folder, &mut |_| ()).unwrap();
        // Every format holds the same values, so one look at the CPU's answer is enough.
        let reference = reference.get_or_insert_with(|| greedy(&folder, &Device::Cpu));
        let computed = greedy(&folder, &device);
        for ((wanted, margin), (token, _)) in reference.iter().zip(&computed) {
            // A lead smaller than the rounding of the arithmetic decides nothing, and what follows is another text.
            if *margin < 0.01 {
                break;
            }
            assert_eq!(token, wanted, "{format:?} {dtype:?}: {computed:?}, the reference: {reference:?}");
        }
        assert!(reference[0].1 >= 0.01, "the first token is undecided: {reference:?}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

#[test]
fn two_layers_of_1b_in_every_format() {
    let formats = [
        (Format::Bin, Dtype::F32),
        (Format::Bin, Dtype::F16),
        (Format::BinSharded, Dtype::F16),
        (Format::Safetensors, Dtype::F16),
        (Format::SafetensorsSharded, Dtype::F16),
    ];
    every_format(&Model { num_layers: 2, ..Model::incoder_1b() }, &formats);
}

/// Its feed-forward matrices have exactly 134,217,728 bytes, the largest binding that every adapter allows.
#[test]
fn one_layer_of_6b_in_every_format() {
    let formats = [(Format::Bin, Dtype::F16), (Format::BinSharded, Dtype::F16), (Format::Safetensors, Dtype::F16)];
    every_format(&Model { num_layers: 1, ..Model::incoder_6b() }, &formats);
}
