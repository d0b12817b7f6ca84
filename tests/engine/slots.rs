//! Several contexts in one session: each is what it would be in a session of its own, and is not computed again.

use crate::support::{cpu_and_gpu, folder, load};
use incoder::{Cancel, Kv, Session};
use pollster::block_on;

/// Texts that begin alike, as two files under one licence do.
fn context(which: u32, length: usize) -> Vec<u32> {
    (0..length as u32).map(|i| if i < 4 { 2 + i } else { 3 + (i * (7 + 2 * which) + which) % 500 }).collect()
}

fn set(session: &mut Session, tokens: &[u32]) -> usize {
    block_on(session.set_context(tokens, &Cancel::default())).unwrap().cached
}

fn assert_near(logits: &[f32], expected: &[f32], what: &str) {
    assert_eq!(logits.len(), expected.len());
    let worst = logits.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-3, "{what}: {worst}");
}

#[test]
fn contexts_that_alternate_are_not_computed_again() {
    let folder = folder("tiny-a", "model.fp16.safetensors");
    for (name, device) in cpu_and_gpu() {
        let mut fresh = load(&folder, &device, Kv::F32, Some(96));
        let mut session = load(&folder, &device, Kv::F32, Some(96));
        session.set_slots(2);
        for length in 40..50 {
            for which in 0..2 {
                let tokens = context(which, length);
                let cached = set(&mut session, &tokens);
                // All but the new token, from the second time on.
                assert_eq!(cached, if length == 40 { 0 } else { length - 1 }, "{name}, {which}, {length}");
                // What is generated goes into the same cache, and is no part of what is asked for next.
                session.fork(1, 40).unwrap();
                for i in 0..30 {
                    block_on(session.step(&[(0, 5 + i)])).unwrap();
                }
                set(&mut fresh, &tokens);
                let wanted = fresh.logits().to_vec();
                assert_eq!(set(&mut session, &tokens), length - 1, "{name}");
                assert_near(session.logits(), &wanted, name);
            }
        }
        assert_eq!(session.slots(), 2);
        // A third one takes the place of the one that was not asked for the longest.
        assert_eq!(set(&mut session, &context(2, 40)), 4);
        assert_eq!(session.slots(), 2);
        assert_eq!(set(&mut session, &context(1, 50)), 49);
        assert_eq!(set(&mut session, &context(0, 50)), 4);
        set(&mut fresh, &context(0, 50));
        assert_near(session.logits(), fresh.logits(), name);
    }
}

#[test]
fn one_context_is_kept_unless_more_are_asked_for() {
    let mut session = crate::support::tiny(Some(96));
    assert_eq!(set(&mut session, &context(0, 40)), 0);
    assert_eq!(set(&mut session, &context(1, 40)), 4);
    assert_eq!(set(&mut session, &context(0, 40)), 4);
    assert_eq!(session.slots(), 1);
}
