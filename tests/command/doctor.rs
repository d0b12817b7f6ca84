//! `incoder doctor`: the form of its report on the GPU at hand, and what it refuses.

use crate::common::{finish, program, run};
use serde_json::Value;

const USAGE: i32 = 2;

/// With few kernels, so that it takes seconds; the switches have to be seen in the report.
#[test]
fn report_has_the_documented_keys_and_a_verdict() {
    let mut command = program(&["doctor", "--quick", "--json"]);
    command.env("INCODER_DISABLE", "tiles,subgroups").env_remove("INCODER_MODEL").env_remove("INCODER_DEVICE");
    let report = finish(command).json();
    assert_eq!(report["disabled"], "subgroups,tiles");
    assert_eq!(report["verdict"], serde_json::json!({ "right": true, "wrong": [], "avoided_by": null }));
    assert_eq!(report["endurance"], Value::Null);
    let [f16, f32] = &report["kernels"].as_array().unwrap()[..] else { panic!("two caches: {report}") };
    assert_eq!((f16["kv"].as_str(), f32["kv"].as_str()), (Some("f16"), Some("f32")));
    let names: Vec<&str> =
        f16["kernels"].as_array().unwrap().iter().map(|check| check["kernel"].as_str().unwrap()).collect();
    for kernel in ["embed", "layer_norm", "project_qkv, keys", "attention", "project_gelu", "project_logits", "choose"]
    {
        assert!(names.contains(&kernel), "{kernel} in {names:?}");
    }
    for greedy in report["greedy"].as_array().unwrap() {
        assert!(greedy["of"].as_u64() > Some(10) && greedy["right"] == greedy["of"], "{greedy}");
    }
    for speed in report["speed"].as_array().unwrap() {
        assert!(speed["decode_tokens_per_second"].as_f64() > Some(0.0), "{speed}");
    }
    for key in ["read_gb_per_second", "dispatch_us", "round_trip_us"] {
        assert!(report[key].as_f64() > Some(0.0), "{key}: {report}");
    }
}

#[test]
fn refuses_what_it_cannot_check_or_switch_off() {
    assert!(run(&["doctor", "-d", "cpu"]).refused(USAGE).contains("name a GPU with -d"));
    let mut command = program(&["doctor", "--quick"]);
    command.env("INCODER_DISABLE", "warp");
    let refused = finish(command).refused(USAGE);
    let said =
        "INCODER_DISABLE: \"warp\" cannot be switched off: subgroups, textures, tiles, products, tuning, choosing can";
    assert_eq!(refused, said);
}
