//! What a model computes, written down once: the operations of one step in their order, each with the tensors it reads.
//!
//! An architecture's file builds a [`Recipe`] from its config.json. Everything else reads it: the checkpoint knows from it which
//! tensors it must have, the memory plan their sizes, the GPU what to upload and to dispatch, and the CPU reference what to compute.

use std::collections::BTreeMap;

/// A matrix of the checkpoint: its name without prefixes, and its shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Weight {
    pub name: String,
    /// Outputs of a linear layer; tokens of an embedding.
    pub rows: usize,
    pub inputs: usize,
}

/// y = W x + b. The bias has the weight's rows; it is 0 where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Linear {
    pub weight: Weight,
    pub bias: Option<String>,
}

impl Linear {
    /// `NAME.weight` and `NAME.bias`.
    pub fn biased(name: &str, rows: usize, inputs: usize) -> Self {
        Self { bias: Some(format!("{name}.bias")), ..Self::plain(name, rows, inputs) }
    }

    /// `NAME.weight` alone.
    pub fn plain(name: &str, rows: usize, inputs: usize) -> Self {
        Self { weight: Weight { name: format!("{name}.weight"), rows, inputs }, bias: None }
    }
}

/// How rows are normed: by their mean and variance, or by their root mean square alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct NormKind {
    /// Whether the mean is subtracted: layer norm; otherwise it is RMS norm.
    pub centred: bool,
    /// Added to the variance.
    pub eps: f32,
}

/// A norm's scale and shift, both of one row's width. The shift is 0 where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Norm {
    pub scale: String,
    pub shift: Option<String>,
    pub width: usize,
}

/// One operation. Each reads what the ones before it left: the residual stream x, the normed h, the queries, what attention
/// mixed, and the inner values of the feed-forward layer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Op {
    /// x = E[token] · scale, plus P[position] where positions are added.
    Embed { table: Weight, scale: f64 },
    /// h = norm(x)
    Norm(Norm),
    /// q = Wq h + b, scaled; Wk h + b and Wv h + b go to the KV cache. Queries and keys are rotated where positions are rotary.
    QueryKeyValue { query: Linear, key: Linear, value: Linear },
    /// mixed = softmax(q Kᵀ) V, for each head.
    Attention,
    /// x += W mixed + b
    AttentionOutput(Linear),
    /// inner = gelu(W h + b)
    Gelu(Linear),
    /// inner = silu(W_gate h + b) · (W_up h + b)
    GatedSilu { gate: Linear, up: Linear },
    /// x += W inner + b
    FeedForwardOutput(Linear),
    /// h = norm(x), of the tokens whose logits are read.
    FinalNorm(Norm),
    /// logits = W h
    Logits(Weight),
}

impl Op {
    /// The linear layers that are stacked into one matrix, from its first row to its last.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::QueryKeyValue { query, key, value } => vec![query, key, value],
            Self::GatedSilu { gate, up } => vec![gate, up],
            Self::AttentionOutput(linear) | Self::Gelu(linear) | Self::FeedForwardOutput(linear) => vec![linear],
            _ => Vec::new(),
        }
    }

    /// The embedding, or the head.
    pub fn table(&self) -> Option<&Weight> {
        match self {
            Self::Embed { table, .. } | Self::Logits(table) => Some(table),
            _ => None,
        }
    }

    pub fn norm(&self) -> Option<&Norm> {
        match self {
            Self::Norm(norm) | Self::FinalNorm(norm) => Some(norm),
            _ => None,
        }
    }
}

/// How a token's position enters.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Positions {
    /// XGLM's sinusoids are added to the embedding.
    Sinusoids,
    /// Queries and keys are rotated.
    Rotary(super::Rotary),
}

/// The activation of the feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    Gelu,
    GatedSilu,
}

/// The operations of one step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recipe {
    pub positions: Positions,
    /// That of every norm.
    pub norm: NormKind,
    /// Every operation, with the layer that it belongs to; what comes before and after the layers counts to the first and the last.
    pub ops: Vec<(usize, Op)>,
}

impl Recipe {
    /// Begins with the embedding.
    pub fn new(positions: Positions, norm: NormKind, embed: Op) -> Self {
        Self { positions, norm, ops: vec![(0, embed)] }
    }

    pub fn layer(&mut self, layer: usize, ops: impl IntoIterator<Item = Op>) {
        self.ops.extend(ops.into_iter().map(|op| (layer, op)));
    }

    /// The operations without their layers.
    pub fn all(&self) -> impl Iterator<Item = &Op> {
        self.ops.iter().map(|(_, op)| op)
    }

    /// The scale of the embedding.
    pub fn embedding_scale(&self) -> f64 {
        self.all().find_map(|op| if let Op::Embed { scale, .. } = op { Some(*scale) } else { None }).unwrap_or(1.0)
    }

    /// `head_dim` where queries and keys are rotated.
    pub fn rotated_head_dim(&self, head_dim: usize) -> Option<usize> {
        matches!(self.positions, Positions::Rotary(_)).then_some(head_dim)
    }

    pub fn activation(&self) -> Activation {
        match self.all().any(|op| matches!(op, Op::GatedSilu { .. })) {
            true => Activation::GatedSilu,
            false => Activation::Gelu,
        }
    }

    /// The shape of every tensor that the checkpoint must have, by name. Weights are [out, in].
    pub fn tensors(&self) -> BTreeMap<String, Vec<usize>> {
        let mut tensors = BTreeMap::new();
        for op in self.all() {
            for linear in op.linears() {
                let Weight { name, rows, inputs } = &linear.weight;
                tensors.insert(name.clone(), vec![*rows, *inputs]);
                tensors.extend(linear.bias.iter().map(|bias| (bias.clone(), vec![*rows])));
            }
            tensors.extend(op.table().map(|table| (table.name.clone(), vec![table.rows, table.inputs])));
            if let Some(norm) = op.norm() {
                let vectors = [Some(&norm.scale), norm.shift.as_ref()];
                tensors.extend(vectors.into_iter().flatten().map(|name| (name.clone(), vec![norm.width])));
            }
        }
        tensors
    }

    /// Values of all tensors.
    pub fn parameters(&self) -> u64 {
        self.tensors().values().map(|shape| shape.iter().map(|&size| size as u64).product::<u64>()).sum()
    }

    /// Values of the matrices that every token of a step is multiplied with: all but the embedding and the head.
    pub fn layer_parameters(&self) -> u64 {
        let weights = self.all().flat_map(Op::linears).map(|linear| &linear.weight);
        weights.map(|weight| weight.rows as u64 * weight.inputs as u64).sum()
    }
}
