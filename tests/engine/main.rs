//! The crate as its users see it: against the recorded results of the reference, and against itself.
//! One program: a test binary for each file would be linked again and again.

mod candidates;
mod checkpoint;
mod ecosystem;
mod fim;
mod full_width;
mod generate;
mod gguf;
mod healing;
mod infill;
mod lookup;
mod memory;
mod model;
mod quantized;
mod random;
mod sampling;
mod slots;
mod support;
mod tokenizer;
mod window;
