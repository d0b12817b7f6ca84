//! Greedy tokens of the demo model against those that the CPU reference gave when its weights were made.

use super::Way;
use crate::cli::Kv;
use crate::failure::{Failure, Result};
use crate::hub::Needs;
use crate::{Global, model_folder};
use incoder::{Cancel, Device, Draw, LoadOptions, Push, Sampler, Sampling, Session};
use serde::{Deserialize, Serialize};

/// Belongs to the weights beside it; a test of this file compares them, and writes it anew where it is asked to.
const RECORDED: &str = include_str!("../../../../examples/demo-model/greedy.json");

/// A prompt, and the most probable token, again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    pub text: String,
    pub prompt: Vec<u32>,
    pub ids: Vec<u32>,
}

/// The tokens in one way of using the GPU.
#[derive(Debug, Serialize)]
pub struct Compared {
    pub way: String,
    pub kv: &'static str,
    /// How many are the recorded ones, up to the first that is not.
    pub right: usize,
    pub of: usize,
}

impl Recorded {
    pub fn read() -> Result<Self> {
        serde_json::from_str(RECORDED).map_err(|error| Failure::runtime(format!("greedy.json: {error}")))
    }
}

pub fn compare(way: &Way, kv: Kv) -> Result<Compared> {
    let recorded = Recorded::read()?;
    let mut session = demo(&Device::Gpu(way.gpu.clone()), kv, recorded.prompt.len() + recorded.ids.len())?;
    let ids = pollster::block_on(greedy(&mut session, &recorded.prompt, recorded.ids.len()))?;
    let right = ids.iter().zip(&recorded.ids).take_while(|(got, expected)| got == expected).count();
    Ok(Compared { way: way.name.clone(), kv: kv.name(), right, of: recorded.ids.len() })
}

impl Compared {
    pub fn wrong(&self) -> Option<String> {
        let Self { way, kv, right, of } = self;
        let said = format!("{way}, {kv} cache: token {} of {of} of the demo model is not the recorded one", right + 1);
        (right < of).then_some(said)
    }
}

/// The demo model with a context of so many tokens.
pub fn demo(device: &Device, kv: Kv, context: usize) -> Result<Session> {
    let global = Global { json: false, quiet: true, verbose: false };
    let folder = model_folder::open(None, Needs::Everything, &global)?;
    let options = LoadOptions { context: Some(context), kv: kv.into(), ..LoadOptions::default() };
    Ok(pollster::block_on(Session::load(folder.as_ref(), device, &options, &mut |_| ()))?)
}

/// `n` tokens after `prompt`, each the most probable one, chosen where a text's tokens are.
pub async fn greedy(session: &mut Session, prompt: &[u32], n: usize) -> incoder::Result<Vec<u32>> {
    let mut sampler = Sampler::new(Sampling { temperature: 0.0, ..Sampling::default() }, Vec::new())?;
    session.set_context(prompt, &Cancel::default()).await?;
    session.fork(1, n)?;
    let mut ids = vec![sampler.sample(session.logits(), None, [], Draw::default())?];
    while let (Some(&id), true) = (ids.last(), ids.len() < n) {
        let draw = Draw { stream: 0, step: ids.len() as u32 };
        let push = Push { id, draw, ..Push::default() };
        ids.extend(session.decode(&[push], n - 1 - ids.len(), &mut sampler, &[]).await?);
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much more probable the first of two tokens has to be, in logits: rounding stays far below.
    const LEAST_GAP: f32 = 2e-2;

    /// The reference's tokens. After other weights were put there: `INCODER_RECORD=1 cargo nextest run --workspace -E
    /// 'test(recorded_tokens)'` writes the file.
    #[test]
    fn recorded_tokens_are_those_of_the_reference() {
        let mut recorded = Recorded::read().unwrap();
        let (prompt, n) = (recorded.prompt.clone(), recorded.ids.len());
        let mut session = demo(&Device::Cpu, Kv::F32, prompt.len() + n).unwrap();
        let ids = pollster::block_on(greedy(&mut session, &prompt, n)).unwrap();
        pollster::block_on(session.set_context(&prompt, &Cancel::default())).unwrap();
        session.fork(1, n).unwrap();
        let mut logits = session.logits().to_vec();
        for (i, &id) in ids.iter().enumerate() {
            logits.sort_by(|a, b| b.total_cmp(a));
            let gap = logits[0] - logits[1];
            assert!(
                gap > LEAST_GAP,
                "token {i} is a near draw ({gap}): write another text or fewer ids into greedy.json"
            );
            if i + 1 < n {
                logits = pollster::block_on(session.step(&[(0, id)])).unwrap().remove(0);
            }
        }
        if std::env::var_os("INCODER_RECORD").is_some() {
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/demo-model/greedy.json");
            recorded.ids.clone_from(&ids);
            std::fs::write(file, serde_json::to_string(&recorded).unwrap() + "\n").unwrap();
        }
        assert_eq!(ids, recorded.ids, "other weights? see above");
    }
}
