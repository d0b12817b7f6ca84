//! data.pkl of a torch checkpoint: a state dict in pickle protocol 2, byte by byte as `torch.save` writes it.

use crate::model::Tensor;
use crate::values::Dtype;

const PROTO: u8 = 0x80;
const GLOBAL: u8 = b'c';
const REDUCE: u8 = b'R';
const MARK: u8 = b'(';
const TUPLE: u8 = b't';
const EMPTY_TUPLE: u8 = b')';
const TUPLE1: u8 = 0x85;
const TUPLE2: u8 = 0x86;
const NEW_FALSE: u8 = 0x89;
const LONG1: u8 = 0x8A;
const BININT: u8 = b'J';
const BININT1: u8 = b'K';
const BININT2: u8 = b'M';
const BINUNICODE: u8 = b'X';
const BINPERSID: u8 = b'Q';
const BINPUT: u8 = b'q';
const LONG_BINPUT: u8 = b'r';
const BINGET: u8 = b'h';
const LONG_BINGET: u8 = b'j';
const SETITEMS: u8 = b'u';
const STOP: u8 = b'.';

/// The state dict of `tensors`, tensor `i` in the storage of key `i`, and then the tied head, which has no storage of its
/// own: `head` is its name and the index of the tensor that it is.
pub(crate) fn state_dict(tensors: &[Tensor], head: Option<(&str, usize)>, dtype: Dtype) -> Vec<u8> {
    let storage_class = match dtype {
        Dtype::F32 => "FloatStorage",
        Dtype::F16 => "HalfStorage",
        Dtype::Bf16 => "BFloat16Storage",
    };
    let mut pickle = Pickle { bytes: vec![PROTO, 2], ..Pickle::default() };
    pickle.shared("collections\nOrderedDict\n", global);
    pickle.op(&[EMPTY_TUPLE, REDUCE]);
    pickle.put();
    pickle.op(&[MARK]);
    let mut memos = Vec::new();
    for (key, tensor) in tensors.iter().enumerate() {
        pickle.text(&tensor.name);
        pickle.shared("torch._utils\n_rebuild_tensor_v2\n", global);
        pickle.op(&[MARK, MARK]);
        pickle.shared("storage", unicode);
        pickle.shared(&format!("torch\n{storage_class}\n"), global);
        pickle.text(&key.to_string());
        pickle.shared("cpu", unicode);
        pickle.int(tensor.elements());
        pickle.op(&[TUPLE]);
        pickle.put();
        pickle.op(&[BINPERSID]);
        pickle.int(0);
        pickle.sizes(&tensor.shape);
        let strides: Vec<usize> = (1..=tensor.shape.len()).map(|i| tensor.shape[i..].iter().product()).collect();
        pickle.sizes(&strides);
        pickle.op(&[NEW_FALSE]);
        pickle.shared("collections\nOrderedDict\n", global);
        pickle.op(&[EMPTY_TUPLE, REDUCE]);
        pickle.put();
        pickle.op(&[TUPLE]);
        pickle.put();
        pickle.op(&[REDUCE]);
        memos.push(pickle.put());
    }
    if let Some((name, index)) = head {
        pickle.text(name);
        pickle.get(memos[index]);
    }
    pickle.op(&[SETITEMS, STOP]);
    pickle.bytes
}

fn unicode(text: &str) -> Vec<u8> {
    [&[BINUNICODE], &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn global(name: &str) -> Vec<u8> {
    [&[GLOBAL], name.as_bytes()].concat()
}

#[derive(Default)]
struct Pickle {
    bytes: Vec<u8>,
    memos: u32,
    /// What was written once and is fetched from the memo after that.
    written: Vec<(String, u32)>,
}

impl Pickle {
    fn op(&mut self, codes: &[u8]) {
        self.bytes.extend_from_slice(codes);
    }

    /// Remembers the top of the stack; returns its number.
    fn put(&mut self) -> u32 {
        let memo = self.memos;
        self.numbered(BINPUT, LONG_BINPUT, memo);
        self.memos += 1;
        memo
    }

    fn get(&mut self, memo: u32) {
        self.numbered(BINGET, LONG_BINGET, memo);
    }

    fn numbered(&mut self, short: u8, long: u8, memo: u32) {
        match u8::try_from(memo) {
            Ok(memo) => self.op(&[short, memo]),
            Err(_) => {
                self.op(&[long]);
                self.op(&memo.to_le_bytes());
            }
        }
    }

    fn text(&mut self, text: &str) {
        self.op(&unicode(text));
        self.put();
    }

    fn shared(&mut self, what: &str, encoding: fn(&str) -> Vec<u8>) {
        if let Some(&(_, memo)) = self.written.iter().find(|(written, _)| written == what) {
            return self.get(memo);
        }
        self.op(&encoding(what));
        let memo = self.put();
        self.written.push((what.to_owned(), memo));
    }

    fn int(&mut self, value: u64) {
        if let Ok(value) = u8::try_from(value) {
            self.op(&[BININT1, value]);
        } else if let Ok(value) = u16::try_from(value) {
            self.op(&[BININT2]);
            self.op(&value.to_le_bytes());
        } else if let Ok(value) = i32::try_from(value) {
            self.op(&[BININT]);
            self.op(&value.to_le_bytes());
        } else {
            self.op(&[LONG1, 8]);
            self.op(&value.to_le_bytes());
        }
    }

    /// One or two sizes.
    fn sizes(&mut self, sizes: &[usize]) {
        for &size in sizes {
            self.int(size as u64);
        }
        self.op(&[if sizes.len() == 1 { TUPLE1 } else { TUPLE2 }]);
        self.put();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Model;

    /// tests/tiny-a.data.pkl is what torch 2 wrote for a model of these sizes.
    #[test]
    fn writes_what_torch_writes() {
        let model = Model { num_layers: 2, d_model: 64, heads: 4, ffn_dim: 256, vocab_size: 512 };
        let pickle = state_dict(&model.tensors(), Some(("lm_head.weight", 0)), Dtype::F16);
        assert!(pickle == include_bytes!("../tests/tiny-a.data.pkl"));
    }
}
