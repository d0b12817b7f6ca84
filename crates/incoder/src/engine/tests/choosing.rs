//! What the GPU chooses against the CPU's sampler, in every variant.

use super::{F16, config, context, random_folder, variants};
use crate::engine::check::{Values, choose};
use crate::engine::choose::{Choosing, Told};
use crate::engine::forward::Column;
use crate::engine::plan::{MAX_LOGITS, Plan};
use crate::engine::tensors::Origin;
use crate::sampling::{Draw, Sampler, Sampling};
use pollster::block_on;

/// Logits with equals among them, and a few that are impossible.
fn some_logits(vocab: usize, seed: u32) -> Vec<f32> {
    let mut logits = Values(seed).many(vocab);
    logits.iter_mut().enumerate().for_each(|(i, logit)| match i % 11 {
        0..3 => *logit = (*logit * 8.0).round() / 2.0,
        3 => *logit = f32::NEG_INFINITY,
        _ => *logit *= 4.0,
    });
    logits
}

/// Every way to choose that a GPU takes part in.
const SAMPLINGS: [Sampling; 6] = [
    Sampling { temperature: 0.0, ..Sampling::DEFAULT },
    Sampling { temperature: 1.0, min_p: 0.2, ..Sampling::DEFAULT },
    Sampling { temperature: 0.0, repetition_penalty: 1.3, ..Sampling::DEFAULT },
    Sampling { temperature: 0.2, ..Sampling::DEFAULT },
    Sampling { temperature: 1.0, top_k: 64, top_p: 1.0, ..Sampling::DEFAULT },
    Sampling {
        temperature: 0.7,
        top_k: 7,
        top_p: 0.8,
        repetition_penalty: 1.2,
        seed: u64::MAX - 5,
        ..Sampling::DEFAULT
    },
];

#[test]
fn kernel_choose_draws_what_the_sampler_draws() {
    for (name, gpu) in variants() {
        for vocab in [3, 64, 259, 5000] {
            for seed in 0..12 {
                let mut sampling = SAMPLINGS[seed % SAMPLINGS.len()];
                sampling.seed = sampling.seed.wrapping_add(1000 * seed as u64);
                let columns = [1, 2, MAX_LOGITS][seed % 3];
                let logits: Vec<_> = (0..columns).map(|i| some_logits(vocab, (seed + 20 * i) as u32 + 1)).collect();
                let banned: Vec<u32> = (0..vocab as u32).filter(|id| id % 17 == 5).collect();
                let third =
                    |i: usize| (0..vocab as u32).filter(move |id| (*id as usize + i) % 3 == 1).collect::<Vec<_>>();
                let seen: Vec<Vec<u32>> = (0..columns).map(third).collect();
                let contexts: Vec<[&[u32]; 2]> = seen.iter().map(|seen| [&seen[..], &[0]]).collect();
                let draws: Vec<Draw> =
                    (0..columns as u32).map(|i| Draw { stream: 2 + i, step: 7 + seed as u32 + i % 2 }).collect();
                let mut sampler = Sampler::new(sampling, banned.clone()).unwrap();
                let told = sampler.told().unwrap();
                let choosing = Choosing { sampling, told, banned: &banned, contexts: &contexts, stops: &[] };
                for (i, told) in block_on(choose(&gpu, &logits, &draws, &choosing)).unwrap().into_iter().enumerate() {
                    let what = format!("{name}, column {i} of {columns}, {vocab} logits, {sampling:?}, {told:?}");
                    let (context, draw) = (contexts[i], draws[i]);
                    let seen = context.into_iter().flatten().copied();
                    let expected = sampler.sample(&logits[i], None, seen, draw).unwrap();
                    // Where more than the told ones are equal the CPU asks for all; the GPU takes the lower ids.
                    if let Some(id) = sampler.sample_told(&told.candidates, context, draw).unwrap() {
                        assert_eq!(id, expected, "{what}");
                        assert_eq!(told.id, Some(expected), "{what}");
                    } else {
                        assert!(!sampling.is_greedy() || sampling.repetition_penalty != 1.0, "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn kernel_choose_tells_broken_logits_and_stops() {
    let (_, gpu) = variants().remove(0);
    let mut logits = [some_logits(200, 3), some_logits(200, 4)];
    let mut sampler = Sampler::new(Sampling::default(), Vec::new()).unwrap();
    let draws = [Draw::default(); 2];
    let stops: Vec<u32> = (0..200).collect();
    let choosing = Choosing {
        sampling: sampler.sampling(),
        told: sampler.told().unwrap(),
        banned: &[],
        contexts: &[[&[]; 2], [&[]; 2]],
        stops: &stops[..8],
    };
    for broken in [f32::NAN, f32::INFINITY] {
        let whole = std::mem::replace(&mut logits[1][130], broken);
        let told = block_on(choose(&gpu, &logits, &draws, &choosing)).unwrap();
        assert_eq!(told[1], Told { id: None, candidates: Vec::new() });
        assert_eq!(sampler.sample_told(&told[1].candidates, [&[]; 2], draws[1]).unwrap(), None);
        assert!(told[0].id.is_some(), "of the other column");
        logits[1][130] = whole;
    }
    logits[1][5] = 50.0;
    let told = block_on(choose(&gpu, &logits, &draws, &choosing)).unwrap();
    assert_eq!(told[1].id, Some(5), "a token that ends the text is told");
}

/// More than one tile of them.
const BRANCHES: usize = 9;

/// Branches of one context, `prompt` tokens long in both plans, until each has ended or has `room` tokens: how long they became,
/// and how many steps were begun before they were asked for.
fn branches(plans: [&mut Plan; 2], [prompt, room]: [usize; 2], sampler: &mut Sampler, stops: &[u32]) -> Branches {
    let [plan, by_logits] = plans;
    let (sampling, told, banned) = (sampler.sampling(), sampler.told().unwrap(), sampler.banned().to_vec());
    let mut texts: Vec<Vec<u32>> = (0..BRANCHES as u32).map(|i| vec![40 + i]).collect();
    let mut columns: Vec<Column> = (0..BRANCHES)
        .map(|i| {
            let (start, draw) = ((prompt + i * room) as u32, Draw { stream: i as u32, step: 1 });
            let column = Column { token: texts[i][0], position: prompt as u32, row: start, draw, ..Column::default() };
            Column { prefix: prompt as u32, tail_start: start, tail_len: 1, ..column }
        })
        .collect();
    let mut live: Vec<usize> = (0..BRANCHES).collect();
    let mut begun = 0;
    for left in (0..room).rev() {
        let contexts: Vec<[&[u32]; 2]> = live.iter().map(|&i| [&[7][..], &texts[i]]).collect();
        let choosing = Choosing { sampling, told, banned: &banned, contexts: &contexts, stops };
        begun += usize::from(plan.is_ahead(&columns, &choosing));
        let all = block_on(plan.next(&columns, left, &choosing)).unwrap();
        let logits = block_on(by_logits.forward(&columns, columns.len())).unwrap();
        for (((told, logits), column), context) in all.iter().zip(&logits).zip(&mut columns).zip(&contexts) {
            let id = sampler.sample(logits, None, context.iter().copied().flatten().copied(), column.draw).unwrap();
            assert_eq!(told.id, Some(id), "{sampling:?}, {column:?}");
            assert_eq!(sampler.sample_told(&told.candidates, *context, column.draw).unwrap(), Some(id));
            *column = column.followed_by(id);
        }
        let ends = |column: &Column| stops.contains(&column.token);
        if left > 0 && columns.iter().any(ends) {
            // What the step behind was begun with: the texts have grown by what was chosen.
            let grown = live.iter().zip(&columns).map(|(&i, column)| [&texts[i][..], &[column.token]].concat());
            let grown: Vec<Vec<u32>> = grown.collect();
            let contexts: Vec<[&[u32]; 2]> = grown.iter().map(|text| [&[7][..], &text[..]]).collect();
            let idle = block_on(plan.next(&columns, 0, &Choosing { contexts: &contexts, ..choosing })).unwrap();
            assert!(idle.iter().all(|told| *told == Told::default()), "a step after the end of a text: {idle:?}");
        }
        live.iter().zip(&columns).for_each(|(&i, column)| texts[i].push(column.token));
        live.retain(|&i| !stops.contains(&texts[i][texts[i].len() - 1]));
        columns.retain(|column| !ends(column));
        if live.is_empty() {
            break;
        }
    }
    Branches { texts, begun }
}

/// What [`branches`] came to.
struct Branches {
    texts: Vec<Vec<u32>>,
    begun: usize,
}

#[test]
fn steps_that_follow_one_another_choose_what_the_sampler_chooses() {
    let sizes = [5, 6];
    let config = config(2, 64, 4, 256, 500);
    let folder = random_folder(&config, 9);
    for (name, gpu) in variants() {
        let load = || block_on(Plan::load(&gpu, &config, Origin::Folder(&folder), 64, &F16, &mut |_| {})).unwrap();
        let (mut plan, mut by_logits) = (load(), load());
        block_on(plan.forward(&context(sizes[0], 500), 0)).unwrap();
        block_on(by_logits.forward(&context(sizes[0], 500), 0)).unwrap();
        for sampling in SAMPLINGS {
            let mut sampler = Sampler::new(sampling, vec![3]).unwrap();
            let mut run = |stops: &[u32]| branches([&mut plan, &mut by_logits], sizes, &mut sampler, stops);
            let whole = run(&[]);
            assert_eq!(whole.begun, sizes[1] - 1, "{name}, {sampling:?}");
            // Two of them end early, and the others go on.
            let ended = run(&[whole.texts[1][2], whole.texts[2][4]]);
            let lengths: Vec<usize> = ended.texts.iter().map(Vec::len).collect();
            assert!(lengths.iter().any(|&length| length != lengths[0]), "{name}, {sampling:?}: {:?}", ended.texts);
        }
    }
}
