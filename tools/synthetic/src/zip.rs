//! The zip archive that `torch.save` writes: entries stored, their data aligned, sizes and CRC-32 after the data, so that
//! it is written in one pass.
//!
//! Source: `caffe2/serialize/inline_container.cc` of PyTorch and the miniz it uses.

use std::io::{self, Write};

/// Where entries' data begins is a multiple of this.
const ALIGNMENT: u64 = 64;
const LOCAL_HEADER_BYTES: u64 = 30;
/// Sizes follow the data (bit 3), names are UTF-8 (bit 11).
const FLAGS: u16 = 0x0808;
const ZIP64_EXTRA: u16 = 1;
const PADDING_EXTRA: [u8; 2] = *b"FB";
/// What a 32-bit field holds when the value stands in a zip64 record.
const ELSEWHERE: u32 = u32::MAX;

pub(crate) struct Zip<W> {
    out: W,
    at: u64,
    /// Sizes and offsets from this on stand in zip64 records.
    zip64_from: u64,
    directory: Vec<u8>,
    entries: u64,
}

impl<W: Write> Zip<W> {
    pub fn new(out: W) -> Self {
        Self { out, at: 0, zip64_from: u64::from(u32::MAX), directory: Vec::new(), entries: 0 }
    }

    /// The archive with zip64 records from small sizes and offsets on.
    #[cfg(test)]
    pub fn with_zip64_from(self, zip64_from: u64) -> Self {
        Self { zip64_from, ..self }
    }

    /// Adds an entry of `size` bytes, which `fill` writes.
    ///
    /// # Errors
    /// The output's, and `InvalidInput` when `fill` writes other than `size` bytes.
    pub fn entry(
        &mut self,
        name: &str,
        size: u64,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let start = self.at;
        let big_size = size >= self.zip64_from;
        let zip64 = self.zip64_extra(size, start);
        let unpadded = start + LOCAL_HEADER_BYTES + (name.len() + zip64.len() + 4) as u64;
        let padding = (unpadded.next_multiple_of(ALIGNMENT) - unpadded) as u16;
        let name_length = (name.len() as u16).to_le_bytes();

        let mut header = b"PK\x03\x04\0\0".to_vec();
        header.extend(FLAGS.to_le_bytes());
        // Method 0 (stored), no time, no date; CRC-32 and sizes follow the data.
        header.extend([0; 18]);
        header.extend(name_length);
        header.extend((zip64.len() as u16 + 4 + padding).to_le_bytes());
        header.extend(name.as_bytes());
        header.extend(&zip64);
        header.extend(PADDING_EXTRA);
        header.extend(padding.to_le_bytes());
        header.resize(header.len() + usize::from(padding), b'Z');
        self.write(&header)?;

        let mut data = Data { out: &mut self.out, crc: crc32fast::Hasher::new(), written: 0 };
        fill(&mut data)?;
        let (crc, written) = (data.crc.finalize(), data.written);
        self.at += written;
        if written != size {
            let problem = format!("{name} has {written} bytes, {size} were announced");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }

        let mut sizes = [b"PK\x07\x08", &crc.to_le_bytes()[..]].concat();
        for _ in ["compressed", "uncompressed"] {
            // As miniz does it: 64 bits wherever the entry has a zip64 record, though it be for the offset only.
            let bytes = if zip64.is_empty() { 4 } else { 8 };
            sizes.extend(&size.to_le_bytes()[..bytes]);
        }
        self.write(&sizes)?;

        self.directory.extend(b"PK\x01\x02\0\0\0\0");
        self.directory.extend(FLAGS.to_le_bytes());
        self.directory.extend([0; 6]);
        self.directory.extend(crc.to_le_bytes());
        let short_size = if big_size { ELSEWHERE } else { size as u32 };
        self.directory.extend(short_size.to_le_bytes().repeat(2));
        self.directory.extend(name_length);
        self.directory.extend((zip64.len() as u16).to_le_bytes());
        // No comment, disk 0, no attributes.
        self.directory.extend([0; 10]);
        self.directory.extend(self.short(start).to_le_bytes());
        self.directory.extend(name.as_bytes());
        self.directory.extend(&zip64);
        self.entries += 1;
        Ok(())
    }

    /// Writes the central directory.
    ///
    /// # Errors
    /// The output's.
    pub fn finish(mut self) -> io::Result<W> {
        let (start, size) = (self.at, self.directory.len() as u64);
        let directory = std::mem::take(&mut self.directory);
        self.write(&directory)?;
        // torch.save writes the zip64 records always.
        let end = self.at;
        let mut tail = b"PK\x06\x06".to_vec();
        tail.extend(44u64.to_le_bytes());
        tail.extend([0x1E, 3, 45, 0]);
        tail.extend([0; 8]);
        tail.extend(self.entries.to_le_bytes().repeat(2));
        tail.extend(size.to_le_bytes());
        tail.extend(start.to_le_bytes());
        tail.extend(b"PK\x06\x07\0\0\0\0");
        tail.extend(end.to_le_bytes());
        tail.extend(1u32.to_le_bytes());
        tail.extend(b"PK\x05\x06\0\0\0\0");
        tail.extend((self.entries.min(0xFFFF) as u16).to_le_bytes().repeat(2));
        tail.extend(self.short(size).to_le_bytes());
        tail.extend(self.short(start).to_le_bytes());
        tail.extend([0; 2]);
        self.write(&tail)?;
        Ok(self.out)
    }

    fn short(&self, value: u64) -> u32 {
        if value >= self.zip64_from { ELSEWHERE } else { value as u32 }
    }

    fn zip64_extra(&self, size: u64, offset: u64) -> Vec<u8> {
        let mut fields = Vec::new();
        if size >= self.zip64_from {
            fields.extend(size.to_le_bytes().repeat(2));
        }
        if offset >= self.zip64_from {
            fields.extend(offset.to_le_bytes());
        }
        if fields.is_empty() {
            return fields;
        }
        let length = (fields.len() as u16).to_le_bytes();
        [&ZIP64_EXTRA.to_le_bytes()[..], &length, &fields].concat()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

/// An entry's data, counted and summed on its way.
struct Data<'a, W> {
    out: &'a mut W,
    crc: crc32fast::Hasher,
    written: u64,
}

impl<W: Write> Write for Data<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.crc.update(&bytes[..n]);
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
pub(crate) mod tests;
