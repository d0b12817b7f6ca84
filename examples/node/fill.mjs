// Fills a hole in Node.js. Run it where `npm install incoder webgpu` was run:
//
//     node fill.mjs MODEL PREFIX SUFFIX
//
// MODEL is a model folder, a GGUF file, or a name on the Hugging Face hub. Meta's own weights (facebook/incoder-1B) are CC-BY-NC 4.0:
// no commercial use.

import { load } from 'incoder/node';
import { create } from 'webgpu';

const [name, prefix = 'def mean(values):\n    return ', suffix = '\n'] = process.argv.slice(2);
const model = await load(name, { gpu: create([]) });
console.error(`on ${model.info.adapter.description}`);

for await (const { text } of model.infillStream({ prefix, suffix }, { maxTokens: 48, temperature: 0 })) {
  process.stdout.write(text ?? '');
}
process.stdout.write('\n');
await model.dispose();
