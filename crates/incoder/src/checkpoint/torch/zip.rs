//! The directory of a zip archive whose entries are stored as they are, as `torch.save` writes it.

use crate::checkpoint::Source;
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// The end record and the longest comment after it.
const MAX_TAIL_BYTES: u64 = 22 + 65_535;
/// InCoder-6B's directory takes 60 KB.
const MAX_DIRECTORY_BYTES: u64 = 8 << 20;
/// What a 32-bit field says when the value is in a 64-bit one.
const SEE_ZIP64: u32 = u32::MAX;

/// An opened archive.
pub(super) struct Archive<'a> {
    file: &'a dyn Source,
    /// Where the directory begins: no entry goes beyond.
    directory: u64,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Where its local header is.
    header: u64,
    size: u64,
}

/// Little-endian fields one after the other; `None` past the end.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.bytes(2).map(|b| u16::from_le_bytes([b[0], b[1]]))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from(self.u16()?) | u32::from(self.u16()?) << 16)
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from(self.u32()?) | u64::from(self.u32()?) << 32)
    }
}

/// What the end record says: entries, bytes of the directory, where it begins.
struct End {
    count: u64,
    length: u64,
    start: u64,
}

impl<'a> Archive<'a> {
    /// Reads the directory; refuses compressed and encrypted entries and two of one name.
    pub async fn open(file: &'a dyn Source) -> Result<Self> {
        let damaged = |problem: &str| Error::checkpoint(file.name(), problem);
        let end = read_end(file).await?;
        let within = end.start.checked_add(end.length).is_some_and(|end| end <= file.size());
        if !within || end.length > MAX_DIRECTORY_BYTES {
            return Err(damaged("its zip directory lies outside the file or is too long: damaged"));
        }
        let bytes = read(file, end.start, end.length).await?;
        let mut fields = Fields(&bytes);
        let mut entries = BTreeMap::new();
        for _ in 0..end.count {
            let (name, entry) = entry(&mut fields).ok_or_else(|| damaged("its zip directory is damaged"))?;
            let entry = entry.map_err(|problem| damaged(&format!("the entry {name} {problem}")))?;
            if entries.insert(name.clone(), entry).is_some() {
                return Err(damaged(&format!("has two entries of the name {name}")));
            }
        }
        Ok(Self { file, directory: end.start, entries })
    }

    /// The names of all entries.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Where the bytes of `name` lie, as (offset, length); `None` when there is no such entry.
    pub async fn locate(&self, name: &str) -> Result<Option<(u64, u64)>> {
        let Some(&Entry { header, size }) = self.entries.get(name) else { return Ok(None) };
        let damaged = || Error::checkpoint(self.file.name(), format!("the entry {name} is damaged"));
        let fixed = 30;
        let length = (fixed + name.len()) as u64;
        if header.checked_add(length).is_none_or(|end| end > self.directory) {
            return Err(damaged());
        }
        let bytes = read(self.file, header, length).await?;
        let (fixed, own_name) = bytes.split_at(fixed);
        let lengths = Fields(&fixed[26..]);
        let (name_bytes, extra_bytes) = { lengths }.pair().ok_or_else(damaged)?;
        if !fixed.starts_with(b"PK\x03\x04") || own_name != name.as_bytes() || name_bytes as usize != name.len() {
            return Err(damaged());
        }
        let start = header + length + u64::from(extra_bytes);
        match start.checked_add(size) {
            Some(end) if end <= self.directory => Ok(Some((start, size))),
            _ => Err(damaged()),
        }
    }

    /// The whole entry `name`, of at most `limit` bytes; `None` when there is no such entry.
    pub async fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some((start, size)) = self.locate(name).await? else { return Ok(None) };
        if size > limit {
            let problem = format!("the entry {name} has {size} bytes, at most {limit} are read");
            return Err(Error::checkpoint(self.file.name(), problem));
        }
        read(self.file, start, size).await.map(Some)
    }
}

impl Fields<'_> {
    fn pair(mut self) -> Option<(u16, u16)> {
        Some((self.u16()?, self.u16()?))
    }
}

async fn read(file: &dyn Source, offset: u64, length: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    file.read(offset, &mut bytes).await?;
    Ok(bytes)
}

/// The end record, or the zip64 one where that counts.
async fn read_end(file: &dyn Source) -> Result<End> {
    let size = file.size();
    let tail_start = size.saturating_sub(MAX_TAIL_BYTES);
    let tail = read(file, tail_start, size - tail_start).await?;
    let is_end = |at: &usize| {
        let record = &tail[*at..];
        let comment = record.get(20..22).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])));
        record.starts_with(b"PK\x05\x06") && comment == Some(record.len().saturating_sub(22))
    };
    let Some(at) = (0..tail.len()).rev().find(is_end) else {
        return Err(Error::checkpoint(file.name(), "is cut short: the directory at the end of the zip is missing"));
    };
    let damaged = || Error::checkpoint(file.name(), "the end of the zip is damaged");
    let small = small_end(&tail[at..]).ok_or_else(damaged)?;
    if small.count != u64::from(u16::MAX) && [small.length, small.start].iter().all(|&v| v != u64::from(SEE_ZIP64)) {
        return Ok(small);
    }
    // The locator of the zip64 record lies right before.
    let locator = at.checked_sub(20).map(|start| &tail[start..at]).ok_or_else(damaged)?;
    let mut fields = Fields(locator.strip_prefix(b"PK\x06\x07").ok_or_else(damaged)?);
    let record = fields.u32().and_then(|_| fields.u64()).ok_or_else(damaged)?;
    if record.checked_add(56).is_none_or(|end| end > size) {
        return Err(damaged());
    }
    large_end(&read(file, record, 56).await?).ok_or_else(damaged)
}

fn small_end(record: &[u8]) -> Option<End> {
    let mut fields = Fields(record.get(8..)?);
    fields.u16()?;
    Some(End { count: fields.u16()?.into(), length: fields.u32()?.into(), start: fields.u32()?.into() })
}

fn large_end(record: &[u8]) -> Option<End> {
    let mut fields = Fields(record.strip_prefix(b"PK\x06\x06")?.get(28..)?);
    Some(End { count: fields.u64()?, length: fields.u64()?, start: fields.u64()? })
}

/// The next record of the directory: a name, and the entry or why it cannot be read.
fn entry(fields: &mut Fields<'_>) -> Option<(String, std::result::Result<Entry, String>)> {
    let mut record = Fields(fields.bytes(46)?.strip_prefix(b"PK\x01\x02")?);
    record.bytes(4)?;
    let (flags, method) = (record.u16()?, record.u16()?);
    record.bytes(8)?;
    let (stored, size) = (record.u32()?, record.u32()?);
    let (name, extra, comment) = (record.u16()?, record.u16()?, record.u16()?);
    record.bytes(8)?;
    let header = record.u32()?;
    let name = String::from_utf8(fields.bytes(name.into())?.to_vec()).ok()?;
    let mut large = zip64_fields(fields.bytes(extra.into())?);
    fields.bytes(comment.into())?;
    let mut wide = |value: u32| if value == SEE_ZIP64 { large.u64() } else { Some(value.into()) };
    let (size, stored, header) = (wide(size)?, wide(stored)?, wide(header)?);
    let entry = match (flags & 1, method) {
        (0, 0) if size == stored => Ok(Entry { header, size }),
        (0, 0) => Err("is damaged".to_owned()),
        (0, _) => Err("is compressed; torch stores entries as they are".to_owned()),
        _ => Err("is encrypted".to_owned()),
    };
    Some((name, entry))
}

/// The zip64 field among the extra fields of an entry; empty when there is none.
fn zip64_fields(extra: &[u8]) -> Fields<'_> {
    let mut fields = Fields(extra);
    while let (Some(id), Some(length)) = (fields.u16(), fields.u16()) {
        match fields.bytes(length.into()) {
            Some(value) if id == 1 => return Fields(value),
            Some(_) => {}
            None => break,
        }
    }
    Fields(&[])
}
