//! The machine that reads pickles, and executes nothing.
//!
//! A pickle is a program for a stack machine that may import and call whatever it names. This machine knows the opcodes
//! that a state dict takes, and [`Global`] is all that can be named; everything else is refused.

use super::pickle::{Global, Id, Pickle, Result, Storage, Tensor, Value};
use std::collections::HashMap;

const MAX_VALUES: usize = 1 << 16;
const MAX_STACK: usize = 1 << 14;
const MAX_DIMENSIONS: usize = 8;

/// Reads one pickle from the start of `bytes`.
pub(super) fn run(bytes: &[u8]) -> Result<Pickle> {
    let mut machine = Machine { bytes, ..Machine::default() };
    match machine.run() {
        Ok(top) => Ok(Pickle { values: machine.values, top, length: machine.at }),
        Err(problem) => Err(format!("{problem} (byte {} of the pickle)", machine.at)),
    }
}

#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// Runs to STOP; the value on top.
    fn run(&mut self) -> Result<Id> {
        loop {
            if let Some(top) = self.step()? {
                return Ok(top);
            }
            if self.stack.len() > MAX_STACK || self.marks.len() > MAX_STACK {
                return Err(format!("nests deeper than {MAX_STACK}"));
            }
        }
    }

    fn step(&mut self) -> Result<Option<Id>> {
        match self.byte()? {
            // PROTO, FRAME
            0x80 => match self.byte()? {
                2..=5 => {}
                protocol => return Err(format!("has the pickle protocol {protocol}; 2 to 5 are read")),
            },
            0x95 => _ = self.take(8)?,
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            // None, booleans, numbers
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'K' => {
                let value = self.byte()?;
                self.push(Value::Int(value.into()))?;
            }
            b'M' => {
                let value = self.number(2)?;
                self.push(Value::Int(value as i64))?;
            }
            b'J' => {
                let value = self.number(4)? as u32 as i32;
                self.push(Value::Int(value.into()))?;
            }
            0x8a => {
                let length = self.byte()?;
                let value = self.long(length)?;
                self.push(Value::Int(value))?;
            }
            b'G' => {
                self.take(8)?;
                self.push(Value::Float)?;
            }
            // Texts
            0x8c => {
                let length = self.byte()?.into();
                self.push_text(length)?;
            }
            b'X' => {
                let length = self.number(4)?;
                self.push_text(length)?;
            }
            0x8d => {
                let length = self.number(8)?;
                self.push_text(length)?;
            }
            // Tuples, lists, mappings
            b')' => self.push(Value::Tuple(Vec::new()))?,
            0x85 => self.push_tuple(1)?,
            0x86 => self.push_tuple(2)?,
            0x87 => self.push_tuple(3)?,
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items))?;
            }
            b']' => self.push(Value::List(Vec::new()))?,
            b'a' => {
                let item = self.pop()?;
                self.extend_list(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.extend_list(items)?;
            }
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.extend_dict(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.extend_dict(&items)?;
            }
            // The memo
            b'q' => {
                let slot = self.byte()?.into();
                self.remember(slot)?;
            }
            b'r' => {
                let slot = self.number(4)? as u32;
                self.remember(slot)?;
            }
            0x94 => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let slot = self.byte()?.into();
                self.recall(slot)?;
            }
            b'j' => {
                let slot = self.number(4)? as u32;
                self.recall(slot)?;
            }
            // What a state dict names and "calls"
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(Global::named(module, name)?))?;
            }
            0x93 => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                self.push(Value::Global(Global::named(&module, &name)?))?;
            }
            b'Q' => self.persistent()?,
            b'R' => self.reduce()?,
            // Attributes of a mapping, such as a state dict's _metadata.
            b'b' => {
                self.pop()?;
                let target = self.last()?;
                if !matches!(self.value(target), Value::Dict(_)) {
                    return Err("sets attributes of something else than a mapping".to_owned());
                }
            }
            opcode => {
                return Err(format!("has the opcode 0x{opcode:02x}, which no state dict needs: it may be an attack"));
            }
        }
        Ok(None)
    }

    // Reading

    fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        match usize::try_from(count).ok().and_then(|count| rest.get(..count)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(format!("is cut short: {count} bytes are announced, {} are there", rest.len())),
        }
    }

    fn byte(&mut self) -> Result<u8> {
        self.take(1).map(|b| b[0])
    }

    /// An unsigned little-endian number of `count` bytes, at most 8.
    fn number(&mut self, count: u64) -> Result<u64> {
        Ok(self.take(count)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// A signed little-endian number of `length` bytes.
    fn long(&mut self, length: u8) -> Result<i64> {
        if length > 8 {
            return Err(format!("has a number of {length} bytes; at most 8 are read"));
        }
        let value = self.number(length.into())?;
        let unused = 64 - 8 * u32::from(length);
        Ok(value.checked_shl(unused).map_or(0, |shifted| (shifted as i64) >> unused))
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().take(256).position(|&b| b == b'\n').ok_or("names something without an end")?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| "names something that is not UTF-8".to_owned())
    }

    // The table and the stack

    fn value(&self, id: Id) -> &Value {
        &self.values[id.0 as usize]
    }

    fn push(&mut self, value: Value) -> Result<()> {
        if self.values.len() >= MAX_VALUES {
            return Err(format!("holds more than {MAX_VALUES} values"));
        }
        self.stack.push(Id(self.values.len() as u32));
        self.values.push(value);
        Ok(())
    }

    fn push_text(&mut self, length: u64) -> Result<()> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| "holds a text that is not UTF-8")?;
        self.push(Value::Text(text.to_owned()))
    }

    fn push_tuple(&mut self, count: usize) -> Result<()> {
        let base = self.stack.len().checked_sub(count).filter(|&base| base >= self.floor());
        let items = self.stack.split_off(base.ok_or("takes more from its stack than there is")?);
        self.push(Value::Tuple(items))
    }

    /// Nothing below the last mark can be taken.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id> {
        let id = self.last()?;
        self.stack.pop();
        Ok(id)
    }

    fn last(&self) -> Result<Id> {
        match self.stack.last() {
            Some(&id) if self.stack.len() > self.floor() => Ok(id),
            _ => Err("takes more from its stack than there is".to_owned()),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or("uses a mark that was not set")?;
        Ok(self.stack.split_off(mark))
    }

    fn pop_text(&mut self) -> Result<String> {
        let id = self.pop()?;
        match self.value(id) {
            Value::Text(text) => Ok(text.clone()),
            _ => Err("names something by a value that is no text".to_owned()),
        }
    }

    fn remember(&mut self, slot: u32) -> Result<()> {
        let id = self.last()?;
        if self.memo.len() >= MAX_VALUES {
            return Err(format!("remembers more than {MAX_VALUES} values"));
        }
        self.memo.insert(slot, id);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<()> {
        let id = *self.memo.get(&slot).ok_or_else(|| format!("recalls the value {slot}, which was not remembered"))?;
        self.stack.push(id);
        Ok(())
    }

    fn extend_list(&mut self, items: Vec<Id>) -> Result<()> {
        let target = self.last()?;
        match &mut self.values[target.0 as usize] {
            Value::List(list) => {
                list.extend(items);
                Ok(())
            }
            _ => Err("appends to something else than a list".to_owned()),
        }
    }

    fn extend_dict(&mut self, items: &[Id]) -> Result<()> {
        let target = self.last()?;
        match &mut self.values[target.0 as usize] {
            Value::Dict(dict) if items.len().is_multiple_of(2) => {
                dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
                Ok(())
            }
            _ => Err("sets items of something else than a mapping".to_owned()),
        }
    }

    // What torch's names mean

    /// ('storage', class, key, location, count), in the legacy format with a view after it, which has to be None.
    fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        let Value::Tuple(parts) = self.value(id) else { return Err("refers to something that is no storage".into()) };
        let parts: Vec<&Value> = parts.iter().map(|&id| self.value(id)).collect();
        let storage = match parts[..] {
            [
                Value::Text(kind),
                Value::Global(Global::Storage(element)),
                Value::Text(key),
                Value::Text(_),
                Value::Int(count),
                ref view @ ..,
            ] if kind == "storage" && matches!(view, [] | [Value::None]) => {
                let plain = (1..=64).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_alphanumeric());
                if !plain {
                    return Err(format!("has a storage with the key {key:?}, which is no plain name"));
                }
                let count = u64::try_from(*count).map_err(|_| format!("has a storage of {count} elements"))?;
                Storage { element: *element, key: key.clone(), count }
            }
            _ => return Err("refers to something that is no storage".to_owned()),
        };
        self.push(Value::Storage(storage))
    }

    fn reduce(&mut self) -> Result<()> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let (Value::Global(callable), Value::Tuple(arguments)) = (self.value(callable), self.value(arguments)) else {
            return Err("calls something that cannot be called".to_owned());
        };
        let (callable, arguments) = (*callable, arguments.clone());
        match (callable, &arguments[..]) {
            (Global::OrderedDict, []) => self.push(Value::Dict(Vec::new())),
            // requires_grad, hooks, and metadata such as a sign to flip, which would change the values.
            (Global::RebuildTensor, &[storage, offset, shape, strides, ref rest @ ..])
                if rest.len() <= 2 || rest.len() == 3 && self.is_nothing(rest[2]) =>
            {
                let tensor = self.tensor(storage, offset, shape, strides)?;
                self.push(Value::Tensor(Box::new(tensor)))
            }
            (Global::RebuildParameter, &[tensor, _, _]) if matches!(self.value(tensor), Value::Tensor(_)) => {
                self.stack.push(tensor);
                Ok(())
            }
            _ => Err(format!("calls {callable:?} with {} arguments that it does not take", arguments.len())),
        }
    }

    fn is_nothing(&self, id: Id) -> bool {
        match self.value(id) {
            Value::None => true,
            Value::Dict(items) => items.is_empty(),
            _ => false,
        }
    }

    fn tensor(&self, storage: Id, offset: Id, shape: Id, strides: Id) -> Result<Tensor> {
        let (Value::Storage(storage), Value::Int(offset)) = (self.value(storage), self.value(offset)) else {
            return Err("has a tensor without a storage".to_owned());
        };
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        let offset = u64::try_from(*offset).map_err(|_| format!("has a tensor at the offset {offset}"))?;
        if shape.len() != strides.len() {
            return Err(format!("has a tensor of the shape {shape:?} with the strides {strides:?}"));
        }
        let outside = || {
            let Storage { count, key, .. } = storage;
            format!(
                "has a tensor of the shape {shape:?}, strides {strides:?} and offset {offset}, beyond the {count} elements of storage {key}"
            )
        };
        let elements = shape.iter().try_fold(1u64, |all, &n| all.checked_mul(n as u64)).ok_or_else(outside)?;
        let last =
            |at: u64, (&n, &stride): (&usize, &usize)| at.checked_add((n as u64 - 1).checked_mul(stride as u64)?);
        let end = match elements {
            0 => Some(offset),
            _ => shape.iter().zip(&strides).try_fold(offset, last).and_then(|last| last.checked_add(1)),
        };
        // A view that repeats elements could be far larger than the file.
        if elements > storage.count || end.is_none_or(|end| end > storage.count) {
            return Err(outside());
        }
        Ok(Tensor { storage: storage.clone(), offset, shape, strides })
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>> {
        let Value::Tuple(items) = self.value(id) else { return Err("has a tensor without a shape".to_owned()) };
        if items.len() > MAX_DIMENSIONS {
            return Err(format!("has a tensor of {} dimensions; at most {MAX_DIMENSIONS} are read", items.len()));
        }
        let size = |&id: &Id| match self.value(id) {
            Value::Int(size) => {
                usize::try_from(*size).map_err(|_| format!("has a tensor with the size or stride {size}"))
            }
            _ => Err("has a tensor with a size that is no number".to_owned()),
        };
        items.iter().map(size).collect()
    }
}
