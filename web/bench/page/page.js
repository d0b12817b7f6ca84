/** The peers. Each loads its model and then answers `time(prompt, count, ms)`; nothing comes from a network. */

/** Numbers without a pattern below `most`; the first is `first`, so that no prompt begins like the one before it. */
const numbers = (n, first, most) => [first % most, ...Array.from({ length: n - 1 }, (_, i) => Math.floor(((i + 1) * 2_654_435_761) / 128) % most)];

/** transformers.js on onnxruntime-web; `device` is webgpu or wasm. */
async function transformers(device) {
  const library = await import('/transformers/transformers.js');
  const { AutoModelForCausalLM, BaseStreamer, InterruptableStoppingCriteria, Tensor, env } = library;
  const local = { allowRemoteModels: false, allowLocalModels: true, localModelPath: '/models/' };
  Object.assign(env, { ...local, useBrowserCache: false, useWasmCache: false });
  const threads = navigator.hardwareConcurrency;
  const file = (ending) => `${location.origin}/onnxruntime/ort-wasm-simd-threaded.asyncify.${ending}`;
  Object.assign(env.backends.onnx.wasm, { wasmPaths: { mjs: file('mjs'), wasm: file('wasm') }, numThreads: threads });
  const model = await AutoModelForCausalLM.from_pretrained('peer', { device, dtype: 'fp32' });
  const row = (values) => new Tensor('int64', BigInt64Array.from(values, BigInt), [1, values.length]);

  /** Notes when each token came, and stops it when its time is over. */
  class Clock extends BaseStreamer {
    times = [];
    stop = new InterruptableStoppingCriteria();
    constructor(until) {
      super();
      this.until = until;
    }
    put() {
      this.times.push(performance.now());
      // The prompt, the first token and one more there are always.
      if (this.times.length > 2 && performance.now() > this.until) this.stop.interrupt();
    }
    end() {}
  }

  const time = async (prompt, seed, count, ms) => {
    const ids = numbers(prompt, seed, 8000);
    const start = performance.now();
    const clock = new Clock(start + ms);
    const inputs = { input_ids: row(ids), attention_mask: row(ids.map(() => 1)) };
    const how = { max_new_tokens: 1 + count, do_sample: false, eos_token_id: null };
    await model.generate({ ...inputs, ...how, streamer: clock, stopping_criteria: clock.stop });
    const [, first, ...rest] = clock.times;
    return { promptMs: first - start, decoded: rest.length, decodeMs: (rest.at(-1) ?? first) - first };
  };
  return { time, threads: device === 'wasm' ? threads : null };
}

/** wllama, which is llama.cpp; `gpu` lets it use WebGPU. Its times are its own. */
async function wllama(gpu) {
  const { Wllama } = await import('/wllama/index.js');
  let log = '';
  const keep = (...texts) => (log += `${texts.join(' ')}\n`);
  const logger = { debug: keep, log: keep, warn: keep, error: keep };
  const engine = new Wllama({ default: `${location.origin}/wllama/wasm/wllama.wasm` }, { logger });
  engine.setCompat(null);
  const file = await (await fetch('/models/peer/model.gguf')).blob();
  const threads = navigator.hardwareConcurrency;
  const size = { n_ctx: 2048, n_parallel: 1 };
  await engine.loadModel([file], { ...size, n_threads: threads, n_gpu_layers: gpu ? 999 : 0, warmup: false });
  if (gpu && !/WebGPU\S* model buffer/.test(log)) throw new Error('llama.cpp takes no GPU here and would compute on the CPU');
  const time = async (prompt, seed, count, ms) => {
    const abort = new AbortController();
    const until = performance.now() + ms;
    let last;
    const onData = ({ timings }) => {
      last = timings ?? last;
      if (last?.predicted_n > 1 && performance.now() > until) abort.abort();
    };
    const how = { max_tokens: 1 + count, temperature: 0, ignore_eos: true, cache_prompt: false, timings_per_token: true };
    // A letter and the blank before it are a token.
    const text = numbers(prompt, seed, 26).map((i) => ` ${String.fromCharCode(97 + i)}`).join('');
    const made = engine.createCompletion({ ...how, prompt: text, stream: true, onData, abortSignal: abort.signal });
    await made.catch((error) => {
      if (!abort.signal.aborted) throw error;
    });
    if (last.prompt_n !== prompt) throw new Error(`${last.prompt_n} tokens were prefilled instead of ${prompt}`);
    // The first token comes with the prompt, and the clock of the others starts at it.
    return { promptMs: last.prompt_ms, decoded: last.predicted_n - 1, decodeMs: last.predicted_ms };
  };
  return { time, threads: gpu ? null : engine.getNumThreads() };
}

const PEERS = {
  'transformers-webgpu': () => transformers('webgpu'),
  'transformers-wasm': () => transformers('wasm'),
  'wllama-webgpu': () => wllama(true),
  'wllama-wasm': () => wllama(false),
};

let peer;

/** Loads a peer; answers how many threads compute it, null on a GPU. */
globalThis.load = async (name) => {
  peer = await PEERS[name]();
  return peer.threads;
};

/** A prompt, and up to `count` tokens after the first until `ms` are over. */
globalThis.time = (...asked) => peer.time(...asked);
