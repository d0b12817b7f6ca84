//! The stream that torch wrote before 1.6: a magic number, three pickles, the keys of the storages, the storages.

use super::{View, tensors};
use super::{machine, pickle};
use crate::checkpoint::Source;
use crate::error::{Error, Result};
use std::collections::HashMap;

/// The first pickle: the number 0x1950a86a20f9469cfc6c.
pub(super) const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
const PROTOCOL: i64 = 1001;

/// All tensors of a file that begins with [`MAGIC`].
pub(super) async fn views(file: &dyn Source) -> Result<Vec<(String, View)>> {
    let refused = |problem: String| Error::checkpoint(file.name(), problem);
    let mut head = vec![0; file.size().min(pickle::MAX_BYTES) as usize];
    file.read(0, &mut head).await?;
    let mut at = MAGIC.len();
    let mut next = || {
        let pickle = machine::run(&head[at..]).map_err(refused)?;
        at += pickle.length;
        Ok::<_, Error>(pickle)
    };
    let (protocol, system, state, keys) = (next()?, next()?, next()?, next()?);
    if protocol.as_int() != Some(PROTOCOL) || system.flag("little_endian") != Some(true) {
        return Err(refused("was written by another version of torch, or big-endian".to_owned()));
    }
    let tensors = tensors(&state).map_err(refused)?;
    let storages: HashMap<_, _> =
        tensors.iter().map(|(_, tensor)| (tensor.storage.key.as_str(), &tensor.storage)).collect();
    let mut starts = HashMap::new();
    let mut position = at as u64;
    for key in keys.as_texts().ok_or_else(|| refused("does not list its storages".to_owned()))? {
        let storage = storages.get(key).ok_or_else(|| refused(format!("has a storage {key} that no tensor uses")))?;
        let mut count = [0; 8];
        file.read(position, &mut count).await?;
        let count = u64::from_le_bytes(count);
        if count != storage.count {
            return Err(refused(format!("says that storage {key} holds {} elements and {count}", storage.count)));
        }
        let start = position + 8;
        let end = count.checked_mul(storage.element.bytes()).and_then(|bytes| start.checked_add(bytes));
        position = end.filter(|&end| end <= file.size()).ok_or_else(|| {
            refused(format!("is cut short: the {count} elements of storage {key} do not fit its {} bytes", file.size()))
        })?;
        starts.insert(key, start);
    }
    let view = |(name, tensor): &(&str, &pickle::Tensor)| match starts.get(tensor.storage.key.as_str()) {
        Some(&start) => Ok((name.to_string(), View { start, tensor: (*tensor).clone() })),
        None => Err(refused(format!("has no storage {}, where the tensor {name} is to be", tensor.storage.key))),
    };
    tensors.iter().map(view).collect()
}
