//! A model folder that JavaScript gives: files read by byte range, wherever they lie.

use incoder::checkpoint::BoxFuture;
use incoder::{Error, Folder, Result, Source};
use js_sys::Uint8Array;
use std::cell::RefCell;
use std::rc::Rc;
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    /// The package's `ModelFolder`.
    #[derive(Debug, Clone)]
    pub type JsFolder;

    #[wasm_bindgen(method, catch)]
    async fn open(this: &JsFolder, name: &str) -> std::result::Result<JsValue, JsValue>;

    /// The package's `ModelFile`.
    #[derive(Debug, Clone)]
    pub type JsFile;

    #[wasm_bindgen(method, getter)]
    fn size(this: &JsFile) -> f64;

    #[wasm_bindgen(method, catch)]
    async fn read(this: &JsFile, offset: f64, length: f64) -> std::result::Result<JsValue, JsValue>;
}

/// What the folder threw last: it says more than the [`Error::Source`] that it becomes on its way through the engine.
type Thrown = Rc<RefCell<Option<JsValue>>>;

/// [`JsFolder`] as the engine reads it.
#[derive(Debug)]
pub(crate) struct WebFolder {
    folder: JsFolder,
    thrown: Thrown,
}

impl WebFolder {
    pub fn new(folder: JsFolder) -> Self {
        Self { folder, thrown: Thrown::default() }
    }

    /// What to throw for `error`: the folder's own error where that was the cause.
    pub fn cause(&self, error: Error) -> JsValue {
        let own = matches!(error, Error::Source { .. }).then(|| self.thrown.borrow_mut().take()).flatten();
        own.unwrap_or_else(|| crate::failure::thrown(error))
    }
}

fn failed(thrown: &Thrown, file: &str, value: JsValue) -> Error {
    let problem = format!("{value:?}");
    *thrown.borrow_mut() = Some(value);
    Error::Source { file: file.to_owned(), problem }
}

impl Folder for WebFolder {
    fn open<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Box<dyn Source>>>> {
        Box::pin(async move {
            let opened = self.folder.open(name).await.map_err(|value| failed(&self.thrown, name, value))?;
            if opened.is_null() || opened.is_undefined() {
                return Ok(None);
            }
            let file: JsFile = opened.unchecked_into();
            let (name, thrown) = (name.to_owned(), self.thrown.clone());
            Ok(Some(Box::new(WebSource { name, file, thrown }) as Box<dyn Source>))
        })
    }
}

struct WebSource {
    name: String,
    file: JsFile,
    thrown: Thrown,
}

impl Source for WebSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.file.size() as u64
    }

    fn read<'a>(&'a self, offset: u64, out: &'a mut [u8]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let (end, size) = (offset.saturating_add(out.len() as u64), self.size());
            if end > size {
                let problem = format!("{} bytes at {offset} lie beyond its {size} bytes", out.len());
                return Err(Error::checkpoint(&self.name, problem));
            }
            let read = self.file.read(offset as f64, out.len() as f64).await;
            let bytes: Uint8Array = read.map_err(|value| failed(&self.thrown, &self.name, value))?.unchecked_into();
            if bytes.length() as usize != out.len() {
                let problem = format!("{} of the {} bytes at {offset} came", bytes.length(), out.len());
                return Err(Error::Source { file: self.name.clone(), problem });
            }
            bytes.copy_to(out);
            Ok(())
        })
    }
}
