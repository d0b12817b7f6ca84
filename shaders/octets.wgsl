// Eight values at once: of a key or a value in the KV cache, or one for each of eight rows of a matrix. This file goes before every
// kernel of the model.

// Whether the KV cache holds fp16.
override KV_F16: bool = true;

struct Octet {
    low: vec4<f32>,
    high: vec4<f32>,
}

// The weights of eight rows for a group of 8 inputs.
struct Rows {
    row0: Octet,
    row1: Octet,
    row2: Octet,
    row3: Octet,
    row4: Octet,
    row5: Octet,
    row6: Octet,
    row7: Octet,
}

fn unpacked(word: vec4<u32>) -> Octet {
    return Octet(
        vec4(unpack2x16float(word.x), unpack2x16float(word.y)),
        vec4(unpack2x16float(word.z), unpack2x16float(word.w)),
    );
}

fn packed(octet: Octet) -> vec4<u32> {
    return vec4(
        pack2x16float(octet.low.xy),
        pack2x16float(octet.low.zw),
        pack2x16float(octet.high.xy),
        pack2x16float(octet.high.zw),
    );
}

// The `octet`-th eight values of a head in a row of the cache.
fn cached_octet(row: u32, head: u32, octet: u32) -> Octet {
    let word = head * HEAD_WORDS;
    if (KV_F16) {
        return unpacked(cached(row, word + octet));
    }
    return Octet(
        bitcast<vec4<f32>>(cached(row, word + 2u * octet)),
        bitcast<vec4<f32>>(cached(row, word + 2u * octet + 1u)),
    );
}

// The product of eight values with eight others.
fn product(octet: Octet, low: vec4<f32>, high: vec4<f32>) -> f32 {
    return dot(octet.low, low) + dot(octet.high, high);
}
