// The next token of each column, chosen as sample.rs chooses it, and the state of the step that computes what follows them: the GPU
// goes on while the CPU reads what it may choose from. Two dispatches: the best of every 64 logits, and then, in one workgroup for
// each column, the most probable tokens one by one, and the draw among them.

// Ids of the vocabulary.
override VOCAB: u32 = 1u;
// Threads that share the blocks' best.
override THREADS: u32 = 8u;

// Logits of a block: the last one of a column is padded.
const BLOCK = 64u;
// Blocks of a column; those of the next one follow.
override BLOCKS: u32 = (VOCAB + BLOCK - 1u) / BLOCK;
// Candidates at most, as in choose.rs.
const MOST = 65u;
// Instead of an id: no token, and a logit that is not a number.
const NONE = 0xffffffffu;
const BROKEN = 0xfffffffeu;
const LARGEST = 3.4028234e38;

struct Choice {
    temperature: f32,
    top_p: f32,
    penalty: f32,
    // Candidates that are drawn from; 1 is greedy.
    top_k: u32,
    // Candidates that are told: one more shows what equals the last.
    told: u32,
    // Tokens less probable than this much of the most probable one are not drawn from.
    min_p: f32,
    seed: vec2<u32>,
    // Tokens after which nothing follows, or NONE.
    stops: array<vec4<u32>, 2>,
}

struct Entry {
    // The logit, less its penalty.
    score: f32,
    id: u32,
}

struct Record {
    // The token drawn.
    id: u32,
    candidates: u32,
    spare: vec2<u32>,
    // Logits as they are, with their ids.
    candidate: array<Entry, MOST>,
}

// The state of the next step, as step.wgsl has it.
struct Next {
    columns: atomic<u32>,
    logits: atomic<u32>,
    spare: vec2<u32>,
    column: array<Column>,
}

@group(0) @binding(9) var<uniform> choice: Choice;
@group(0) @binding(10) var<storage, read> logits: array<vec4<f32>>;
// For each block: which ids are banned (x, y) and which are in the context (z, w), a bit each.
@group(0) @binding(11) var<storage, read_write> marks: array<vec4<u32>>;
@group(0) @binding(12) var<storage, read_write> best: array<Entry>;
@group(0) @binding(13) var<storage, read_write> record: array<Record>;
@group(0) @binding(14) var<storage, read_write> next: Next;

var<workgroup> offered: array<Entry, THREADS>;
var<workgroup> weights: array<f32, MOST>;

// Whether `a` comes before `b`: a higher score, a lower id among equals.
fn before(a: Entry, b: Entry) -> bool {
    return a.score > b.score || (a.score == b.score && a.id < b.id);
}

// The better of `found` and the token `id`, if that comes after `last`.
fn better(found: Entry, last: Entry, logit: f32, id: u32, mark: vec4<u32>) -> Entry {
    let bits = bitcast<u32>(logit);
    // Of the bits, as compilers take it that there are none of these.
    if ((bits & 0x7fffffffu) > 0x7f800000u || bits == 0x7f800000u) {
        return Entry(LARGEST, BROKEN);
    }
    let within = id % BLOCK;
    let high = within >= 32u;
    let bit = 1u << (within % 32u);
    let banned = (select(mark.x, mark.y, high) & bit) != 0u;
    let seen = (select(mark.z, mark.w, high) & bit) != 0u;
    if (id >= VOCAB || banned || bits == 0xff800000u) {
        return found;
    }
    var score = logit;
    if (seen) {
        score = select(logit / choice.penalty, logit * choice.penalty, logit < 0.0);
    }
    let entry = Entry(score, id);
    if (before(last, entry) && (found.id == NONE || before(entry, found))) {
        return entry;
    }
    return found;
}

// The best of `found` and four tokens from `id` on.
fn best_of_four(found: Entry, last: Entry, four: vec4<f32>, id: u32, mark: vec4<u32>) -> Entry {
    let two = better(better(found, last, four.x, id, mark), last, four.y, id + 1u, mark);
    return better(better(two, last, four.z, id + 2u, mark), last, four.w, id + 3u, mark);
}

// The best of one thread's part of a block that comes after `last`.
fn best_of_part(block: u32, last: Entry, thread: u32) -> Entry {
    let mark = marks[block];
    var found = Entry(-LARGEST, NONE);
    for (var i = thread; i < BLOCK / 4u; i += THREADS) {
        found = best_of_four(found, last, logits[block * (BLOCK / 4u) + i], block % BLOCKS * BLOCK + i * 4u, mark);
    }
    return found;
}

// The best of a block that comes after `last`.
fn best_of(block: u32, last: Entry) -> Entry {
    let mark = marks[block];
    var found = Entry(-LARGEST, NONE);
    for (var i = 0u; i < BLOCK / 4u; i += 4u) {
        let id = block % BLOCKS * BLOCK + i * 4u;
        let at = block * (BLOCK / 4u) + i;
        // Read before any is looked at, so that their latencies overlap.
        let a = logits[at];
        let b = logits[at + 1u];
        let c = logits[at + 2u];
        let d = logits[at + 3u];
        found = best_of_four(found, last, a, id, mark);
        found = best_of_four(found, last, b, id + 4u, mark);
        found = best_of_four(found, last, c, id + 8u, mark);
        found = best_of_four(found, last, d, id + 12u, mark);
    }
    return found;
}

@compute @workgroup_size(16)
fn choose_best(@builtin(global_invocation_id) thread: vec3<u32>) {
    if (thread.x == 0u) {
        atomicStore(&next.columns, state.columns);
        atomicStore(&next.logits, state.logits);
    }
    if (thread.x < BLOCKS * state.logits) {
        best[thread.x] = best_of(thread.x, Entry(LARGEST, 0u));
    }
}

// The best of the blocks of one thread, those of its column from `first` on.
fn best_offer(first: u32, thread: u32) -> Entry {
    var found = Entry(-LARGEST, NONE);
    for (var block = thread; block < BLOCKS; block += THREADS) {
        let entry = best[first + block];
        if (entry.id != NONE && (found.id == NONE || before(entry, found))) {
            found = entry;
        }
    }
    return found;
}

// The best of what all threads have found.
fn best_of_all(thread: u32, found: Entry) -> Entry {
    offered[thread] = found;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (thread < half) {
            let entry = offered[thread + half];
            if (entry.id != NONE && (offered[thread].id == NONE || before(entry, offered[thread]))) {
                offered[thread] = entry;
            }
        }
    }
    workgroupBarrier();
    let winner = offered[0];
    workgroupBarrier();
    return winner;
}

fn mix(v: vec4<u32>) -> vec4<u32> {
    let x = v.x + v.y * v.w;
    let y = v.y + v.z * x;
    let z = v.z + x * y;
    return vec4(x, y, z, v.w + y * z);
}

// The random number of a draw in [0, 1): uniform() of sample.rs.
fn uniform_at(draw: vec2<u32>) -> f32 {
    let mixed = mix(vec4(choice.seed, draw) * 1664525u + 1013904223u);
    return f32(mix(mixed ^ (mixed >> vec4(16u))).w >> 8u) / 16777216.0;
}

fn stops(id: u32) -> bool {
    return any(choice.stops[0] == vec4(id)) || any(choice.stops[1] == vec4(id));
}

// One of the first `count` candidates, whose scores are in `weights`, at a `random` number in [0, 1).
fn draw(count: u32, random: f32) -> u32 {
    let highest = weights[0];
    var total = 0.0;
    for (var i = 0u; i < count; i++) {
        weights[i] = exp((weights[i] - highest) / choice.temperature);
        total += weights[i];
    }
    var kept = 0u;
    var sum = 0.0;
    while (kept < count && (kept == 0u || ((choice.top_p >= 1.0 || sum < choice.top_p * total) && weights[kept] >= choice.min_p))) {
        sum += weights[kept];
        kept++;
    }
    let at = random * sum;
    var reached = 0.0;
    for (var i = 0u; i < kept; i++) {
        reached += weights[i];
        if (at < reached) {
            return i;
        }
    }
    return kept - 1u;
}

// Nothing follows in this column: the next step does no work.
fn stop(column: u32) {
    atomicStore(&next.columns, 0u);
    atomicStore(&next.logits, 0u);
    next.column[column] = Column();
}

@compute @workgroup_size(THREADS)
fn choose_token(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) workgroup: vec3<u32>) {
    let column = workgroup.x;
    let first = column * BLOCKS;
    var offer = best_offer(first, thread);
    var found = 0u;
    var broken = false;
    for (var i = 0u; i < choice.told; i++) {
        let winner = best_of_all(thread, offer);
        broken = broken || winner.id == BROKEN;
        // The next of the winner's block, for which every thread looks through a part of it.
        let block = select(0u, winner.id / BLOCK, winner.id < BROKEN);
        let successor = best_of_all(thread, best_of_part(first + block, winner, thread));
        if (winner.id < BROKEN) {
            if (block % THREADS == thread) {
                best[first + block] = successor;
                offer = best_offer(first, thread);
            }
            if (thread == 0u) {
                let logit = logits[first * (BLOCK / 4u) + winner.id / 4u][winner.id % 4u];
                record[column].candidate[i] = Entry(logit, winner.id);
                weights[i] = winner.score;
                found++;
            }
        }
    }
    if (thread > 0u) {
        return;
    }
    record[column].candidates = found;
    record[column].id = NONE;
    if (broken || found == 0u || state.logits == 0u) {
        record[column].candidates = 0u;
        stop(column);
        return;
    }
    let given = state.column[column];
    var chosen = 0u;
    if (choice.top_k > 1u) {
        chosen = draw(min(found, choice.top_k), uniform_at(given.draw));
    }
    let id = record[column].candidate[chosen].id;
    record[column].id = id;
    if (stops(id)) {
        stop(column);
        return;
    }
    let within = id % BLOCK;
    if (within < 32u) {
        marks[first + id / BLOCK].z |= 1u << within;
    } else {
        marks[first + id / BLOCK].w |= 1u << (within - 32u);
    }
    // The token after it: `Column::followed_by` of forward.rs.
    next.column[column] = Column(
        id, given.position + 1u, given.row + 1u, given.prefix, given.tail_start, given.tail_len + 1u, given.draw + vec2(0u, 1u)
    );
}
