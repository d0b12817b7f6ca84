//! The cache's models as they are after `--quantize`: made once, and read by later loads instead of the original.

use super::cache::{Repo, names_in};
use incoder::Quantization;
use incoder::quantize::FORMAT_VERSION;
use std::fs;
use std::path::PathBuf;

/// Beside the snapshots: huggingface_hub looks at blobs, refs and snapshots only.
const FOLDER: &str = ".quantized";

impl Repo {
    /// Where the model of `commit` is kept in this type; may not be there. A later version of the format has a name of its own.
    pub fn quantized(&self, commit: &str, quantization: Quantization) -> PathBuf {
        self.root.join(FOLDER).join(format!("{commit}-{}-v{FORMAT_VERSION}", quantization.name()))
    }

    /// Where it is written until it is whole.
    pub fn unfinished(&self, commit: &str, quantization: Quantization) -> PathBuf {
        self.root.join(FOLDER).join(format!(".{commit}-{}-v{FORMAT_VERSION}.unfinished", quantization.name()))
    }

    /// The types in which a model of this commit is kept, and where.
    pub fn quantized_forms(&self, commit: &str) -> Vec<(Quantization, PathBuf)> {
        let forms = Quantization::ALL.map(|quantization| (quantization, self.quantized(commit, quantization)));
        // The folder gets this name when it is whole.
        forms.into_iter().filter(|(_, folder)| folder.join("config.json").is_file()).collect()
    }

    /// Removes what is kept of this commit, in every type and version, and what an interrupted run left of it.
    pub fn forget_quantized(&self, commit: &str) {
        let folder = self.root.join(FOLDER);
        for name in names_in(&folder).into_iter().filter(|name| name.trim_start_matches('.').starts_with(commit)) {
            let _ = fs::remove_dir_all(folder.join(name));
        }
    }
}
