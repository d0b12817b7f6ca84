//! `bindgen INPUT.wasm OUT_FOLDER NAME`: the JavaScript around a wasm module, for browsers, with types.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [input, out, name] = &args[..] else {
        eprintln!("usage: bindgen INPUT.wasm OUT_FOLDER NAME");
        return ExitCode::from(2);
    };
    let mut bindgen = wasm_bindgen_cli_support::Bindgen::new();
    let made = bindgen.web(true).and_then(|b| b.input_path(input).out_name(name).typescript(true).generate(out));
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bindgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}
