//! A model folder that is nowhere: published sizes, random weights, made as they are read.

use crate::cli::Shape;
use incoder::checkpoint::BoxFuture;
use incoder::{Error, Folder, MemoryFolder, Source};
use incoder_synthetic::{Dtype, Model, VirtualFile};

/// The same weights every time.
const SEED: u64 = 1;
const WEIGHTS: &str = "model.safetensors";

impl Shape {
    pub fn name(self) -> &'static str {
        match self {
            Self::OneB => "1B",
            Self::SixB => "6B",
            Self::Small => "small",
        }
    }

    fn model(self) -> Model {
        match self {
            Self::OneB => Model::incoder_1b(),
            Self::SixB => Model::incoder_6b(),
            Self::Small => Model::small(),
        }
    }
}

/// config.json and the weights, in fp16; no tokenizer.
pub struct RandomModel {
    texts: MemoryFolder,
    weights: VirtualFile,
}

impl RandomModel {
    pub fn new(shape: Shape) -> Self {
        Self::of(shape.model())
    }

    /// The first layer alone, between the embedding and the head.
    pub fn one_layer(shape: Shape) -> Self {
        Self::of(Model { num_layers: 1, ..shape.model() })
    }

    fn of(model: Model) -> Self {
        let config = model.config_json(Dtype::F16).into_bytes();
        let texts = MemoryFolder::default().with("config.json", config);
        Self { texts, weights: VirtualFile::new(&model, Dtype::F16, SEED) }
    }
}

impl Folder for RandomModel {
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, incoder::Result<Option<Box<dyn Source>>>> {
        if name != WEIGHTS {
            return self.texts.open(name);
        }
        let file: Box<dyn Source> = Box::new(Weights(self.weights.clone()));
        Box::pin(async { Ok(Some(file)) })
    }
}

struct Weights(VirtualFile);

impl Source for Weights {
    fn name(&self) -> &str {
        WEIGHTS
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read<'a>(&'a self, offset: u64, out: &'a mut [u8]) -> BoxFuture<'a, incoder::Result<()>> {
        let read = self.0.read(offset, out);
        let failed = |e: std::io::Error| Error::Source { file: WEIGHTS.to_owned(), problem: e.to_string() };
        Box::pin(async move { read.map_err(failed) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use incoder::Config;
    use incoder::checkpoint::Checkpoint;
    use pollster::block_on;

    #[test]
    fn every_shape_opens_as_a_checkpoint() {
        for (shape, parameters) in
            [(Shape::Small, 29_414_400), (Shape::OneB, 1_312_063_488), (Shape::SixB, 6_651_084_800)]
        {
            let model = RandomModel::new(shape);
            let folder: &dyn Folder = &model;
            let config = Config::from_json(&block_on(folder.text("config.json", 1 << 20)).unwrap()).unwrap();
            let checkpoint = block_on(Checkpoint::open(folder, &config)).unwrap();
            assert_eq!((config.parameters(), checkpoint.stored_bytes()), (parameters, 2 * parameters));
            let halves = block_on(checkpoint.halves("layers.3.fc2.weight", 5..7)).unwrap();
            assert!(halves.len() == 2 * config.ffn_dim && halves.iter().any(|&half| half != halves[0]));
        }
    }
}
