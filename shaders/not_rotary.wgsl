// Queries and keys are not rotated: the model adds positions to the embedding. The other form of this is rotary.wgsl.

fn rotated(values: Octet, position: u32, first: u32, head_dim: u32) -> Octet {
    return values;
}
