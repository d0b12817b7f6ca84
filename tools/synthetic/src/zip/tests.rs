use super::*;

/// An entry as a reader finds it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub name: String,
    pub data: Vec<u8>,
    /// Whether it has a zip64 record.
    pub zip64: bool,
}

/// Reads an archive by its central directory, and checks every field that says the same thing twice.
pub(crate) fn read(file: &[u8], zip64_from: u64) -> Vec<Entry> {
    let number = |at: u64, bytes: usize| {
        let field = &file[at as usize..at as usize + bytes];
        field.iter().rev().fold(0u64, |number, &byte| number << 8 | u64::from(byte))
    };
    let text = |at: u64, bytes: u64| &file[at as usize..(at + bytes) as usize];
    let full = |short: u64, long: u64| if long >= zip64_from { short == 0xFFFF_FFFF } else { short == long };

    let end = file.len() as u64 - 22;
    assert_eq!((text(end, 4), text(end - 20, 4)), (&b"PK\x05\x06"[..], &b"PK\x06\x07"[..]));
    let zip64_end = number(end - 12, 8);
    assert_eq!((text(zip64_end, 4), zip64_end + 56), (&b"PK\x06\x06"[..], end - 20));
    let [count, size, start] = [32, 40, 48].map(|field| number(zip64_end + field, 8));
    assert_eq!((number(zip64_end + 24, 8), start + size), (count, zip64_end));
    assert_eq!((number(end + 8, 2), number(end + 10, 2)), (count, count));
    assert!(full(number(end + 12, 4), size) && full(number(end + 16, 4), start));

    let mut entries = Vec::new();
    let (mut at, mut next_local) = (start, 0);
    for _ in 0..count {
        assert_eq!((text(at, 4), number(at + 8, 2), number(at + 10, 2)), (&b"PK\x01\x02"[..], 0x0808, 0));
        let [crc, compressed, short_size] = [16, 20, 24].map(|field| number(at + field, 4));
        let [name_bytes, extra_bytes] = [28, 30].map(|field| number(at + field, 2));
        let short_offset = number(at + 42, 4);
        let name = text(at + 46, name_bytes);
        let (mut size, mut offset, mut extra) = (short_size, short_offset, at + 46 + name_bytes);
        let end = extra + extra_bytes;
        if extra_bytes > 0 {
            assert_eq!((number(extra, 2), number(extra + 2, 2)), (1, extra_bytes - 4));
            extra += 4;
        }
        if short_size == 0xFFFF_FFFF {
            size = number(extra, 8);
            assert_eq!(number(extra + 8, 8), size);
            extra += 16;
        }
        if short_offset == 0xFFFF_FFFF {
            offset = number(extra, 8);
            extra += 8;
        }
        assert_eq!((extra, compressed), (end, short_size));
        assert!(full(short_size, size) && full(short_offset, offset));

        assert_eq!((offset, text(offset, 4)), (next_local, &b"PK\x03\x04"[..]));
        assert_eq!((number(offset + 6, 2), number(offset + 26, 2)), (0x0808, name_bytes));
        assert_eq!(text(offset + 30, name_bytes), name);
        let data = offset + 30 + name_bytes + number(offset + 28, 2);
        assert_eq!(data % ALIGNMENT, 0);
        let content = text(data, size);
        assert_eq!(u64::from(crc32fast::hash(content)), crc);
        let width = if extra_bytes > 0 { 8 } else { 4 };
        let after = data + size;
        assert_eq!((text(after, 4), number(after + 4, 4)), (&b"PK\x07\x08"[..], crc));
        assert_eq!([after + 8, after + 8 + width].map(|field| number(field, width as usize)), [size; 2]);
        next_local = after + 8 + 2 * width;
        let name = String::from_utf8(name.to_vec()).unwrap();
        entries.push(Entry { name, data: content.to_vec(), zip64: extra_bytes > 0 });
        at = end;
    }
    assert_eq!((at, next_local), (zip64_end, start));
    entries
}

fn archive(zip64_from: u64) -> Vec<u8> {
    let mut zip = Zip::new(Vec::new()).with_zip64_from(zip64_from);
    for (i, bytes) in [5, 500, 50, 64, 65].into_iter().enumerate() {
        zip.entry(&format!("m/data/{i}"), bytes, |out| out.write_all(&vec![i as u8; bytes as usize])).unwrap();
    }
    zip.finish().unwrap()
}

#[test]
fn entries_are_aligned_and_found() {
    for (zip64_from, long) in [
        (u64::from(u32::MAX), [false; 5]),
        // One entry's size, and the offsets after it.
        (500, [false, true, true, true, true]),
        // An offset, and no size.
        (800, [false, false, false, false, true]),
        (5, [true; 5]),
    ] {
        let entries = read(&archive(zip64_from), zip64_from);
        for (i, entry) in entries.iter().enumerate() {
            assert_eq!(entry.name, format!("m/data/{i}"));
            assert!(entry.data.iter().all(|&byte| byte == i as u8));
        }
        assert_eq!(entries.iter().map(|entry| entry.zip64).collect::<Vec<_>>(), long, "{zip64_from}");
    }
}

#[test]
fn an_entry_of_another_size_is_an_error() {
    let mut zip = Zip::new(Vec::new());
    let error = zip.entry("m/version", 3, |out| out.write_all(b"3\n")).unwrap_err();
    assert_eq!(error.to_string(), "m/version has 2 bytes, 3 were announced");
}
