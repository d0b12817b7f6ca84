//! The oracle's torch files: those that must load, value for value, and those that must be refused.

use super::*;
use crate::checkpoint::{Checkpoint, Folder, MemoryFolder};
use half::{bf16, f16};
use pollster::block_on;
use proptest::prelude::*;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/oracle/torch-formats")
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(folder().join("expected.json")).unwrap()).unwrap()
}

fn source(bytes: Vec<u8>) -> Box<dyn Source> {
    block_on(MemoryFolder::default().with("pytorch_model.bin", bytes).open("pytorch_model.bin")).unwrap().unwrap()
}

fn number(element: Element, bytes: &[u8]) -> f64 {
    match element {
        Element::F64 => f64::from_le_bytes(bytes.try_into().unwrap()),
        Element::F32 => f32::from_le_bytes(bytes.try_into().unwrap()).into(),
        Element::F16 => f16::from_le_bytes(bytes.try_into().unwrap()).into(),
        Element::Bf16 => bf16::from_le_bytes(bytes.try_into().unwrap()).into(),
        Element::I64 => i64::from_le_bytes(bytes.try_into().unwrap()) as f64,
        Element::I32 => i32::from_le_bytes(bytes.try_into().unwrap()).into(),
        Element::I16 => i16::from_le_bytes(bytes.try_into().unwrap()).into(),
        Element::I8 => i8::from_le_bytes(bytes.try_into().unwrap()).into(),
        Element::U8 | Element::Bool => bytes[0].into(),
    }
}

/// All values of a view, in the order of its indices.
fn values(file: &dyn Source, View { start, tensor }: &View) -> Vec<f64> {
    let size = tensor.storage.element.bytes();
    let mut index = vec![0; tensor.shape.len()];
    (0..tensor.shape.iter().product())
        .map(|_| {
            let place: usize = index.iter().zip(&tensor.strides).map(|(i, stride)| i * stride).sum();
            let mut bytes = vec![0; size as usize];
            block_on(file.read(start + (tensor.offset + place as u64) * size, &mut bytes)).unwrap();
            for d in (0..index.len()).rev() {
                index[d] += 1;
                if index[d] < tensor.shape[d] {
                    break;
                }
                index[d] = 0;
            }
            number(tensor.storage.element, &bytes)
        })
        .collect()
}

#[test]
fn loads_what_must_load() {
    let expected = expected();
    let cases = expected["valid"].as_object().unwrap();
    assert_eq!(cases.len(), 9);
    for (name, case) in cases {
        let file = source(std::fs::read(folder().join(name)).unwrap());
        let views = block_on(views(file.as_ref())).unwrap_or_else(|e| panic!("{name}: {e}"));
        let tensors = case["tensors"].as_object().unwrap();
        assert_eq!(views.len(), tensors.len(), "{name}");
        for (tensor, view) in &views {
            let wanted = &tensors[tensor];
            let shape: Vec<usize> = serde_json::from_value(wanted["shape"].clone()).unwrap();
            assert_eq!(view.tensor.shape, shape, "{name} {tensor}");
            let wanted: Vec<f64> = serde_json::from_value(wanted["values"].clone()).unwrap();
            assert_eq!(values(file.as_ref(), view), wanted, "{name} {tensor}");
        }
    }
}

#[test]
fn refuses_what_must_be_refused() {
    let expected = expected();
    let cases = expected["must_reject"].as_object().unwrap();
    assert_eq!(cases.len(), 31);
    for (name, why) in cases {
        let file = source(std::fs::read(folder().join(name)).unwrap());
        let refused = block_on(views(file.as_ref()));
        let error = refused.err().unwrap_or_else(|| panic!("{name} was read ({why})")).to_string();
        assert!(error.starts_with("pytorch_model.bin: ") || error.starts_with("reading "), "{name}: {error}");
        println!("{name}: {error}");
    }
}

#[test]
fn says_what_is_wrong() {
    let says = |name: &str| {
        let file = source(std::fs::read(folder().join(name)).unwrap());
        block_on(views(file.as_ref())).unwrap_err().to_string()
    };
    assert!(says("lfs_pointer.bin").contains("git lfs pull"));
    assert!(says("evil_os_system.bin").contains("\"posix\" \"system\""));
    assert!(says("truncated.bin").contains("cut short"));
    assert!(says("deflated.bin").contains("compressed"));
    assert!(says("two_pickles.bin").contains("two entries of the name"));
    assert!(says("big_endian.bin").contains("big-endian"));
    assert!(says("storage_numel_lies.bin").contains("8 bytes"));
    assert!(says("legacy_truncated.bin").contains("cut short"));
    assert!(says("legacy_size_lie.bin").contains("1125899906842624"));
}

/// Slices and transposed matrices come in the order of their indices, whichever rows are asked for.
#[test]
fn rows_follow_the_strides() {
    let file = source(std::fs::read(folder().join("views.bin")).unwrap());
    let tensors: std::collections::BTreeMap<_, _> =
        block_on(read_tensors(file.as_ref(), 0)).unwrap().into_iter().collect();
    let checkpoint = Checkpoint { sources: vec![file], tensors, shapes: Default::default(), quantization: None };
    let expected = expected();
    for (name, wanted) in expected["valid"]["views.bin"]["tensors"].as_object().unwrap() {
        let shape: Vec<usize> = serde_json::from_value(wanted["shape"].clone()).unwrap();
        let wanted: Vec<f32> = serde_json::from_value(wanted["values"].clone()).unwrap();
        let (rows, columns) = match shape[..] {
            [rows, columns] => (rows, columns),
            [columns] => (1, columns),
            _ => continue,
        };
        for (first, end) in (0..rows).flat_map(|first| (first..=rows).map(move |end| (first, end))) {
            let got = block_on(checkpoint.rows(name, first..end)).unwrap();
            assert_eq!(got, wanted[first * columns..end * columns], "{name} {first}..{end}");
        }
    }
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// The pickle of a vector of one element, from a storage of `count` elements; `rest` are further arguments.
fn tensor(class: &str, key: &str, count: u8, rest: &[u8]) -> Vec<u8> {
    let global = format!("ctorch\n{class}\n");
    let storage =
        [b"(", &text("storage")[..], global.as_bytes(), &text(key), &text("cpu"), &[b'K', count], b"tQ"].concat();
    [b"ctorch._utils\n_rebuild_tensor_v2\n(", &storage[..], b"K\0K\x01\x85K\x01\x85", rest, b"tR"].concat()
}

/// The names in a state dict of these entries, or why it is refused.
fn names(entries: &[(&str, Vec<u8>)]) -> std::result::Result<Vec<String>, String> {
    let items: Vec<u8> = entries.iter().flat_map(|(name, value)| [text(name), value.clone()].concat()).collect();
    let pickle = machine::run(&[b"\x80\x02}(", &items[..], b"u."].concat())?;
    Ok(tensors(&pickle)?.into_iter().map(|(name, _)| name.to_owned()).collect())
}

#[test]
fn refuses_contradictions() {
    let float = |key: &str, count| tensor("FloatStorage", key, count, b"\x89");
    assert_eq!(names(&[("a", float("0", 4)), ("b", float("0", 4)), ("n", b"K\x07".to_vec())]).unwrap(), ["a", "b"]);
    let twice = names(&[("a", float("0", 4)), ("a", float("1", 4))]).unwrap_err();
    assert_eq!(twice, "has two tensors of the name a");
    for other in [float("0", 8), tensor("HalfStorage", "0", 4, b"\x89")] {
        assert_eq!(names(&[("a", float("0", 4)), ("b", other)]).unwrap_err(), "describes storage 0 in two ways");
    }
    // The seventh argument may say that the sign is to be flipped.
    let flipped = [b"\x89}}", &text("neg")[..], b"\x88s"].concat();
    assert!(names(&[("a", tensor("FloatStorage", "0", 4, &flipped))]).unwrap_err().contains("does not take"));
    assert!(names(&[("a", tensor("FloatStorage", "0", 4, b"\x89}}"))]).is_ok());
}

/// A long name that is recalled again and again is refused before it is copied.
#[test]
fn a_name_again_and_again_takes_no_memory() {
    let once = [&text(&"n".repeat(1 << 20))[..], b"q\x00", &tensor("FloatStorage", "0", 4, b"\x89"), b"q\x01"].concat();
    let pickle = [b"\x80\x02}(", &once[..], &b"h\x00h\x01".repeat(5000), b"u."].concat();
    let pickle = machine::run(&pickle).unwrap();
    assert_eq!(pickle.tensors().unwrap().len(), 5001);
    assert!(tensors(&pickle).unwrap_err().starts_with("has two tensors of the name nnn"));
}

/// The oracle's files that are small, as starting points.
fn seeds() -> Vec<Vec<u8>> {
    let files = ["views.bin", "dtypes.bin", "parameters.bin", "state_dict_metadata.bin", "legacy_nonzip.bin"];
    files.iter().map(|name| std::fs::read(folder().join(name)).unwrap()).collect()
}

proptest! {
    /// Whatever the bytes, the answer is a value.
    #[test]
    fn any_pickle_is_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = machine::run(&bytes);
    }

    /// A real file with some bytes changed, or cut short, is read or refused.
    #[test]
    fn any_change_is_answered(
        which in 0usize..5,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = seeds().swap_remove(which);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let _ = block_on(views(source(bytes).as_ref()));
    }
}
