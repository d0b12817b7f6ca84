//! What is said of results that no adapter here gives.

use super::*;
use crate::failure::RUNTIME;

fn compared(right: usize) -> greedy::Compared {
    greedy::Compared { way: "as models are loaded".to_owned(), kv: "f16", right, of: 24 }
}

fn checked(failed: Option<&str>) -> kernels::Checked {
    let (way, failed) = ("without subgroups".to_owned(), failed.map(str::to_owned));
    kernels::Checked { way, kv: "f32", kernels: Vec::new(), failed }
}

#[test]
fn what_is_wrong_is_said_and_ends_with_1() {
    let changed =
        endurance::Endurance { seconds: 60.0, rounds: 9, changed: 1, how: Some("round 3: tokens".to_owned()) };
    let same = endurance::Endurance { seconds: 60.0, rounds: 9, changed: 0, how: None };
    let right = Verdict::of(&[checked(None)], &[compared(24)], Some(&same), None);
    assert!(right.right && right.result().is_ok() && text::verdict(&right) == "\nThis GPU computes right.\n");
    for (kernels, greedy, endurance, warning, said) in [
        (checked(Some("does not compile")), compared(24), None, None, "without subgroups, f32 cache: does not compile"),
        (checked(None), compared(5), Some(&same), None, "token 6 of 24 of the demo model is not the recorded one"),
        (
            checked(None),
            compared(24),
            Some(&changed),
            None,
            "1 of 9 rounds in 60 s gave another result: round 3: tokens",
        ),
        (checked(None), compared(24), None, Some("wrong at the first load"), "wrong at the first load"),
    ] {
        let mut verdict = Verdict::of(&[kernels], &[greedy], endurance, warning);
        assert!(!verdict.right && text::verdict(&verdict).contains(said), "{verdict:?}");
        assert!(text::verdict(&verdict).contains("No switch avoids that"));
        assert_eq!(verdict.result().unwrap_err().code, RUNTIME);
        verdict.avoided_by = Some("subgroups,tiles".to_owned());
        assert!(text::verdict(&verdict).contains("INCODER_DISABLE=subgroups,tiles avoids that"));
        assert!(verdict.result().unwrap_err().message.contains("INCODER_DISABLE=subgroups,tiles"));
    }
}
