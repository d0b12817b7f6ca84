//! What the plan says a model takes, and what the driver's allocator says it took.

use crate::support::{folder, gpu, oracle};
use incoder::{Cancel, Config, Device, Error, GpuOptions, Kv, LoadOptions, MemoryPlan, Session};
use pollster::block_on;

fn config(model: &str) -> Config {
    Config::from_json(&std::fs::read_to_string(oracle(model).join("config.json")).unwrap()).unwrap()
}

#[test]
fn the_plan_is_what_the_driver_counts() {
    let config = config("small-b");
    for (kv, context) in [(Kv::F16, 2048), (Kv::F32, 512)] {
        let Device::Gpu(gpu) = gpu(GpuOptions::default()) else { unreachable!("a GPU was asked for") };
        let before = gpu.allocated_bytes().expect("lavapipe's allocator reports");
        let device = Device::Gpu(gpu.clone());
        let mut session =
            crate::support::load(&folder("small-b", "model.fp16.safetensors"), &device, kv, Some(context));
        let loaded = gpu.allocated_bytes().unwrap() - before;
        let plan = MemoryPlan::new(&config, context, kv, &gpu.memory_limits());
        // Each buffer is rounded up by the allocator, and a uniform of 16 bytes for each matrix is not in the plan.
        let planned = plan.total();
        assert!((planned..planned + planned / 50).contains(&loaded), "planned {planned}, allocated {loaded}");
        block_on(session.set_context(&[2, 17, 99], &Cancel::default())).unwrap();
        drop(session);
        let left = gpu.allocated_bytes().unwrap().saturating_sub(before);
        assert!(left < planned / 10, "{left} of {loaded} bytes are still there");
    }
}

/// With limits of a few hundred kilobytes matrices come in pieces; what cannot be split is an error with the plan's numbers.
#[test]
fn the_plan_knows_what_does_not_load() {
    let config = config("tiny-a");
    let options = GpuOptions { max_binding_bytes: Some(100_000), ..Default::default() };
    let device = gpu(options);
    let Device::Gpu(opened) = &device else { unreachable!("a GPU was asked for") };
    let limits = opened.memory_limits();
    let load = |context| {
        let options = LoadOptions { context: Some(context), ..Default::default() };
        block_on(Session::load(&folder("tiny-a", "model.fp16.safetensors"), &device, &options, &mut |_| ()))
    };
    let blockers = MemoryPlan::new(&config, 2048, Kv::F16, &limits).blockers(&limits);
    let Err(error @ Error::Limit { .. }) = load(2048).map(|_| ()) else { panic!("it must be refused") };
    assert!(blockers.iter().any(|blocker| blocker.to_string() == error.to_string()), "{error}; planned: {blockers:?}");
    let largest = MemoryPlan::largest_context(&config, 2048, Kv::F16, &limits, None).unwrap();
    assert!((1..2048).contains(&largest), "{largest}");
    assert!(load(largest).is_ok());
    assert!(load(largest + 1).is_err());
}
