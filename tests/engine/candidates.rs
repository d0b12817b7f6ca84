//! Candidates side by side, chosen on the GPU or not: the ids are those that the sampler draws from the logits.

use crate::support::{cpu_and_gpu, devices, folder, load, tokenizer};
use incoder::{
    Cancel, Draw, FinishReason, GenerateOptions, Kv, Lookup, Prompt, Push, Sampler, Sampling, Sentinels, Session,
    Tokenizer, generate,
};
use pollster::block_on;

const PROMPT: [u32; 6] = [2, 71, 72, 300, 12, 71];
const LENGTH: usize = 12;

/// The ids of every candidate, each drawn from all logits; `ends` says after which it ends.
fn from_logits(session: &mut Session, options: &GenerateOptions, ends: &dyn Fn(&[u32]) -> bool) -> Vec<Vec<u32>> {
    let mut sampler = Sampler::new(options.sampling, Vec::new()).unwrap();
    let mut texts = vec![Vec::new(); options.candidates];
    block_on(async {
        session.set_context(&PROMPT, &Cancel::default()).await.unwrap();
        session.fork(options.candidates, options.max_new_tokens).unwrap();
        let mut live: Vec<usize> = (0..options.candidates).collect();
        let mut logits = vec![session.logits().to_vec(); options.candidates];
        for step in 0..options.max_new_tokens {
            for (&i, logits) in live.iter().zip(&logits) {
                let draw = Draw { stream: i as u32, step: step as u32 };
                let context = PROMPT.iter().chain(&texts[i]).copied();
                let id = sampler.sample(logits, None, context, draw).unwrap();
                texts[i].push(id);
            }
            live.retain(|&i| !ends(&texts[i]));
            if live.is_empty() || step + 1 == options.max_new_tokens {
                break;
            }
            let pushes: Vec<(usize, u32)> = live.iter().map(|&i| (i, texts[i][step])).collect();
            logits = session.step(&pushes).await.unwrap();
        }
    });
    texts
}

fn generated(session: &mut Session, tokenizer: &Tokenizer, options: &GenerateOptions) -> Vec<(Vec<u32>, FinishReason)> {
    let made = block_on(generate(session, tokenizer, Prompt::Ids(&PROMPT), options, &mut |_| ())).unwrap();
    made.candidates.into_iter().map(|candidate| (candidate.ids, candidate.finish_reason)).collect()
}

#[test]
fn ids_are_those_drawn_from_all_logits() {
    let (folder, tokenizer) = (folder("tiny-a", "model.fp16.safetensors"), tokenizer("tok-512"));
    let samplings = [
        Sampling::greedy(),
        Sampling { temperature: 1.0, ..Sampling::default() },
        Sampling { temperature: 1.5, top_k: 64, top_p: 1.0, ..Sampling::default() },
        Sampling { temperature: 0.8, top_k: 5, top_p: 0.7, repetition_penalty: 1.3, ..Sampling::default() },
        Sampling { temperature: 1.0, top_k: 0, ..Sampling::default() },
    ];
    for (name, device) in devices() {
        let mut session = load(&folder, &device, Kv::F32, Some(128));
        let mut ragged = 0;
        for (seed, sampling) in (0..).zip(samplings) {
            for candidates in [1, 2, 5] {
                let sampling = Sampling { seed, ..sampling };
                let what = format!("{name}, {candidates} candidates, {sampling:?}");
                let options = GenerateOptions {
                    max_new_tokens: LENGTH,
                    sampling,
                    candidates,
                    sentinels: Sentinels::Parse,
                    ignore_eos: true,
                    lookup: Lookup::Off,
                    ..GenerateOptions::default()
                };
                let whole = from_logits(&mut session, &options, &|_| false);
                let got = generated(&mut session, &tokenizer, &options);
                assert_eq!(
                    got,
                    whole.iter().cloned().map(|ids| (ids, FinishReason::Length)).collect::<Vec<_>>(),
                    "{what}"
                );
                // A token that the GPU knows to end a text, and a text that it does not.
                let (token, text) = (whole[candidates - 1][4], tokenizer.decode(&whole[0][7..8], false).unwrap());
                let stopping = GenerateOptions { stop_ids: vec![token], stop: vec![text.clone()], ..options };
                let ends =
                    |ids: &[u32]| ids.ends_with(&[token]) || tokenizer.decode(ids, false).unwrap().contains(&text);
                let expected = from_logits(&mut session, &stopping, &ends);
                let reason = |ids: &[u32]| if ends(ids) { FinishReason::Stop } else { FinishReason::Length };
                let expected: Vec<_> = expected.into_iter().map(|ids| (ids.clone(), reason(&ids))).collect();
                assert_eq!(
                    generated(&mut session, &tokenizer, &stopping),
                    expected,
                    "{what}, {token} and {text:?} end"
                );
                ragged += usize::from(expected.iter().any(|one| one.0.len() != expected[0].0.len()));
            }
        }
        assert!(ragged > 2, "{name}: {ragged}");
    }
}

#[test]
fn branches_to_decode_are_named_once_and_in_order() {
    let folder = folder("tiny-a", "model.fp16.safetensors");
    for (name, device) in cpu_and_gpu() {
        let mut session = load(&folder, &device, Kv::F32, Some(64));
        let mut sampler = Sampler::new(Sampling::greedy(), Vec::new()).unwrap();
        let mut refused = |session: &mut Session, branches: &[usize]| {
            let pushes: Vec<Push<'_>> =
                branches.iter().map(|&branch| Push { branch, id: 5, ..Push::default() }).collect();
            block_on(session.decode(&pushes, 3, &mut sampler, &[])).err().map(|error| error.to_string())
        };
        block_on(session.set_context(&PROMPT, &Cancel::default())).unwrap();
        assert!(refused(&mut session, &[0]).unwrap().contains("fork first"), "{name}");
        session.fork(2, 2).unwrap();
        for branches in [&[][..], &[0, 0], &[1, 0]] {
            assert!(refused(&mut session, branches).unwrap().contains("ascending"), "{name}, {branches:?}");
        }
        assert!(refused(&mut session, &[0, 2]).unwrap().contains("branch 2"), "{name}");
        assert_eq!(refused(&mut session, &[0, 1]), None, "{name}");
        assert_eq!(refused(&mut session, &[1]), None, "{name}");
        assert!(refused(&mut session, &[0, 1]).unwrap().contains("full"), "{name}");
    }
}

/// Steps that the GPU began with are dropped when the next call chooses otherwise: its tokens are those drawn from the logits.
#[test]
fn a_change_between_two_calls_counts_at_once() {
    let folder = folder("tiny-a", "model.fp16.safetensors");
    let greedy = || Sampler::new(Sampling::greedy(), Vec::new()).unwrap();
    let sampler = |sampling, banned: &[u32]| Sampler::new(sampling, banned.to_vec()).unwrap();
    let warm = Sampling { temperature: 1.5, top_k: 50, top_p: 1.0, ..Sampling::default() };
    let penalised = Sampling { repetition_penalty: 1.8, ..Sampling::greedy() };
    for (name, device) in cpu_and_gpu() {
        let mut session = load(&folder, &device, Kv::F32, Some(64));
        // What is greedily chosen is banned in one of the cases: the ban has something to change.
        let unchanged = decoded(&mut session, [(&mut greedy(), &[]), (&mut greedy(), &[])]);
        let cases = [
            ("another temperature and top-k", [greedy(), sampler(warm, &[])], [&[][..], &[]]),
            ("another top-k", [sampler(Sampling { top_k: 2, ..warm }, &[]), sampler(warm, &[])], [&[], &[]]),
            ("a ban", [greedy(), sampler(Sampling::greedy(), &unchanged.0[3..])], [&[], &[]]),
            ("another penalty", [greedy(), sampler(penalised, &[])], [&PROMPT, &PROMPT]),
            ("another context", [sampler(penalised, &[]), sampler(penalised, &[])], [&[], &unchanged.0]),
        ];
        let mut changed = 0;
        for (what, [mut first, mut second], [before, after]) in cases {
            let (got, expected) = decoded(&mut session, [(&mut first, before), (&mut second, after)]);
            assert_eq!(got, expected, "{what} on {name}");
            changed += usize::from(got[3..] != unchanged.0[3..]);
        }
        assert!(changed >= 3, "only {changed} of the cases change a token on {name}");
    }
}

/// Three tokens with each sampler and the context that its penalty looks at: from [`Session::decode`], and drawn from the logits.
fn decoded(session: &mut Session, mut samplers: [(&mut Sampler, &[u32]); 2]) -> (Vec<u32>, Vec<u32>) {
    let mut run = |by_logits: bool| {
        block_on(session.set_context(&PROMPT, &Cancel::default())).unwrap();
        session.fork(1, 8).unwrap();
        let (mut id, mut ids) = (7, Vec::new());
        for (sampler, context) in &mut samplers {
            for _ in 0..3 {
                let draw = Draw { stream: 0, step: 1 + ids.len() as u32 };
                id = if by_logits {
                    let logits = block_on(session.step(&[(0, id)])).unwrap().remove(0);
                    sampler.sample(&logits, None, context.iter().chain(&ids).copied(), draw).unwrap()
                } else {
                    let push = Push { branch: 0, id, context: [context, &ids], draw };
                    block_on(session.decode(&[push], 5 - ids.len(), sampler, &[])).unwrap()[0]
                };
                ids.push(id);
            }
        }
        ids
    };
    (run(false), run(true))
}
