//! A stranger's GGUF file: read or refused, never a panic and never much memory.
#![no_main]

use incoder::checkpoint::Checkpoint;
use incoder::{Config, Folder, GgufFolder, MemoryFolder};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = MemoryFolder::default().with("model.gguf", bytes.to_vec());
    let read = async {
        let file = Folder::open(&folder, "model.gguf").await.ok().flatten()?;
        let shown = GgufFolder::open(file).await.ok()?;
        let config = Config::read(&shown as &dyn Folder).await.ok()?;
        Checkpoint::open(&shown, &config).await.ok()
    };
    let _ = pollster::block_on(read);
});
