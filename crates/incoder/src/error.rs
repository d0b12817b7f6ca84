//! The one error type of the crate: values with the numbers in them.

/// What can go wrong between a model folder and a generated token.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No GPU adapter answered.
    #[error("no GPU adapter found ({reason})")]
    NoAdapter {
        /// What the backends said.
        reason: String,
    },
    /// The adapter's limit is below what the model needs.
    #[error("{what} needs {need}, this adapter allows {have}")]
    Limit {
        /// Which limit, in words with its unit ("a storage binding, bytes").
        what: String,
        /// What the model needs.
        need: u64,
        /// What the adapter has.
        have: u64,
    },
    /// The configuration is valid but asks for something the engine does not compute.
    #[error("unsupported model: {what}")]
    Unsupported {
        /// The setting, its value, and what is supported.
        what: String,
    },
    /// config.json is not what an InCoder checkpoint has.
    #[error("config.json: {problem}")]
    Config {
        /// What is wrong with it.
        problem: String,
    },
    /// tokenizer.json cannot be used.
    #[error("tokenizer.json: {problem}")]
    Tokenizer {
        /// What is wrong with it.
        problem: String,
    },
    /// A file of the checkpoint is damaged or of an unknown form.
    #[error("{file}: {problem}")]
    Checkpoint {
        /// The file's name inside the model folder.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// One tensor of the checkpoint is missing, unexpected, of the wrong shape or not finite.
    #[error("tensor {name}: {problem}")]
    Tensor {
        /// The tensor's name in the checkpoint.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Reading the bytes of a file failed.
    #[error("reading {file}: {problem}")]
    Source {
        /// The file's name.
        file: String,
        /// What the platform said.
        problem: String,
    },
    /// A shader does not compile on this adapter.
    #[error("the kernel {name} does not compile on this adapter: {problem}")]
    Kernel {
        /// Its entry point.
        name: String,
        /// What the compiler said.
        problem: String,
    },
    /// The GPU was lost, or refused work, while running.
    #[error("the GPU device was lost: {reason}")]
    DeviceLost {
        /// What the driver said.
        reason: String,
    },
    /// The device could not allocate what was planned.
    #[error("out of memory: {what} needs {need} bytes")]
    OutOfMemory {
        /// What was being allocated.
        what: String,
        /// How many bytes it takes.
        need: u64,
    },
    /// Keys or values of a layer lie beyond the range of an fp16 cache.
    #[error("the {what} of layer {layer} exceed 65504, the most that fp16 holds: keep them in fp32")]
    KvOverflow {
        /// `keys` or `values`.
        what: &'static str,
        /// The layer, from 0.
        layer: usize,
    },
    /// The caller cancelled. The KV cache stays usable.
    #[error("cancelled")]
    Cancelled,
    /// The tokens do not fit into the context.
    #[error("the context is full: {need} tokens are needed, it holds {have}")]
    Context {
        /// Tokens that would have to be held.
        need: usize,
        /// Tokens that the KV cache holds.
        have: usize,
        /// Tokens of the context window that the model was trained with.
        trained: usize,
    },
    /// An argument of the call is out of its range.
    #[error("{problem}")]
    Argument {
        /// What is wrong and what to do.
        problem: String,
    },
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Argument`] from any text.
    pub fn argument(problem: impl Into<String>) -> Self {
        Self::Argument { problem: problem.into() }
    }

    /// An [`Error::Tensor`] for the tensor `name`.
    pub fn tensor(name: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { name: name.into(), problem: problem.into() }
    }

    /// An [`Error::Checkpoint`] for the file `file`.
    pub fn checkpoint(file: &str, problem: impl Into<String>) -> Self {
        Self::Checkpoint { file: file.into(), problem: problem.into() }
    }
}
