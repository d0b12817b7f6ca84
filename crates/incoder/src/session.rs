//! A conversation with a model: the context it holds, and the KV cache that makes the next call cheap.

use crate::cancel::Cancel;
use crate::checkpoint::config::Config;
use crate::decode::speculative::Experience;
use crate::engine::backend::Backend;
use crate::engine::forward::{Column, Kv};
use crate::engine::gpu::Gpu;
use crate::engine::{Choosing, KernelTime};
use crate::error::{Error, Result};
use crate::sampling::{Draw, Sampler};
use crate::slots::Slots;
use web_time::Instant;

/// What [`Session::set_context`] had to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefill {
    /// Tokens whose keys and values were still in the cache.
    pub cached: usize,
    /// Tokens computed now.
    pub computed: usize,
}

/// A token that a branch gets, and how the one after it is chosen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Push<'a> {
    /// The branch.
    pub branch: usize,
    /// The token.
    pub id: u32,
    /// What the repetition penalty looks at, in two parts.
    pub context: [&'a [u32]; 2],
    /// The draw of the token after it.
    pub draw: Draw,
}

/// Branches that continue from one context.
#[derive(Debug)]
struct Fork {
    /// Tokens of the shared context.
    shared: usize,
    /// Rows each branch has.
    room: usize,
    /// What was pushed to each branch so far.
    pushed: Vec<Vec<u32>>,
}

impl Fork {
    /// Token `i` of a branch.
    fn column(&self, branch: usize, i: usize, token: u32, draw: Draw) -> Column {
        let tail_start = self.shared + branch * self.room;
        Column {
            token,
            position: (self.shared + i) as u32,
            row: (tail_start + i) as u32,
            prefix: self.shared as u32,
            tail_start: tail_start as u32,
            tail_len: i as u32 + 1,
            draw,
        }
    }
}

/// A loaded model and the tokens its KV cache holds.
#[derive(Debug)]
pub struct Session {
    pub(crate) backend: Backend,
    /// Tokens whose keys and values are in cache rows 0.. .
    pub(crate) tokens: Vec<u32>,
    /// The distribution after the last of `tokens`; empty when not computed.
    pub(crate) logits: Vec<f32>,
    fork: Option<Fork>,
    /// How keys and values are to be stored.
    kv: Kv,
    /// What did not fit into an fp16 cache.
    overflow: Option<Error>,
    /// When the last step of [`Session::decode`] was done.
    decoded: Option<Instant>,
    /// Steps of the model that were computed.
    steps: u64,
    /// Other contexts that are kept.
    pub(crate) slots: Slots,
    /// Of drafts, for [`crate::decode::speculative`].
    pub(crate) experience: Experience,
}

impl Session {
    pub(crate) fn new(backend: Backend, kv: Kv) -> Self {
        Self {
            backend,
            kv,
            overflow: None,
            tokens: Vec::new(),
            logits: Vec::new(),
            fork: None,
            decoded: None,
            steps: 0,
            slots: Slots::default(),
            experience: Experience::default(),
        }
    }

    /// How many steps of the model were computed since it was loaded, of prompts and of new tokens. Steps that the GPU began with
    /// ahead count once they are used.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        self.backend.config()
    }

    /// The GPU that computes, without the paths that it refused to compile; `None` on the CPU.
    pub fn gpu(&self) -> Option<&Gpu> {
        self.backend.gpu()
    }

    /// Tokens the KV cache holds.
    pub fn capacity(&self) -> usize {
        self.backend.capacity()
    }

    /// How keys and values are stored: with [`Kv::Auto`], what that came to so far.
    pub fn kv(&self) -> Kv {
        self.backend.kv()
    }

    /// [`Error::KvOverflow`] where keys or values did not fit into fp16 and are kept in fp32 since.
    pub fn overflow(&self) -> Option<&Error> {
        self.overflow.as_ref()
    }

    /// Most tokens of one step of a prefill.
    pub fn prefill_chunk(&self) -> usize {
        self.backend.max_columns()
    }

    /// The context held.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Logits `[vocab]` after the last token of the context; empty before the first [`Session::set_context`].
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Makes `tokens` the context: the longest common prefix with the present one is kept, the rest is prefilled in chunks.
    ///
    /// # Errors
    /// [`Error::Argument`] when `tokens` is empty or holds an id beyond the vocabulary, [`Error::Context`] when it does
    /// not fit, [`Error::Cancelled`] between two chunks: what was prefilled stays and is reused by the next call.
    pub async fn set_context(&mut self, tokens: &[u32], cancel: &Cancel) -> Result<Prefill> {
        self.check(tokens)?;
        self.select_for(tokens).await?;
        let mut common = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        if common == tokens.len() && (common < self.tokens.len() || self.logits.is_empty()) {
            // The cache has them all, but the distribution after the last one is asked for.
            common -= 1;
        }
        self.truncate(common);
        let chunk = self.prefill_chunk();
        for (i, part) in tokens[common..].chunks(chunk).enumerate() {
            cancel.check()?;
            let last = common + i * chunk + part.len() == tokens.len();
            let mut logits = self.extend(part, usize::from(last)).await?;
            if let Some(logits) = logits.pop() {
                self.logits = logits;
            }
        }
        Ok(Prefill { cached: common, computed: tokens.len() - common })
    }

    /// Makes `tokens` the context and hands out the logits after every one of them, as (index, `[vocab]`).
    ///
    /// # Errors
    /// As [`Session::set_context`].
    pub async fn logits_of_all(
        &mut self,
        tokens: &[u32],
        cancel: &Cancel,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        self.check(tokens)?;
        self.select_for(tokens).await?;
        self.truncate(0);
        for part in tokens.chunks(self.backend.max_logits()) {
            cancel.check()?;
            let start = self.tokens.len();
            let logits = self.extend(part, part.len()).await?;
            for (i, logits) in logits.iter().enumerate() {
                each(start + i, logits);
            }
            self.logits = logits.into_iter().next_back().unwrap_or_default();
        }
        Ok(())
    }

    /// Opens `n` branches that continue from the context, and returns how many tokens each has room for:
    /// `max_tokens`, or what the cache has left for each.
    ///
    /// # Errors
    /// [`Error::Argument`] when `n` is 0, more than one step can hold, or there is no context.
    pub fn fork(&mut self, n: usize, max_tokens: usize) -> Result<usize> {
        let most = self.backend.max_logits();
        if n == 0 || n > most {
            return Err(Error::argument(format!("{n} candidates asked for, 1 to {most} are possible")));
        }
        if self.logits.is_empty() {
            return Err(Error::argument("there is no context to continue: set one first"));
        }
        let shared = self.tokens.len();
        let room = max_tokens.min((self.capacity() - shared) / n);
        self.fork = Some(Fork { shared, room, pushed: vec![Vec::new(); n] });
        self.backend.forget();
        Ok(room)
    }

    /// Appends tokens to the named branches, all in one step, and returns the logits `[vocab]` after each, in order. A branch
    /// named again gets one token more, which attends to the one before.
    ///
    /// The tokens of branch 0 become part of the context.
    ///
    /// # Errors
    /// [`Error::Argument`] for an unknown branch, a bad id, or more tokens than one step can hold, [`Error::Context`] when a
    /// branch is full.
    pub async fn step(&mut self, pushes: &[(usize, u32)]) -> Result<Vec<Vec<f32>>> {
        let pushes: Vec<Push<'_>> = pushes.iter().map(|&(branch, id)| Push { branch, id, ..Push::default() }).collect();
        self.forward(&pushes).await
    }

    async fn forward(&mut self, pushes: &[Push<'_>]) -> Result<Vec<Vec<f32>>> {
        let columns = self.columns(self.open()?, pushes)?;
        self.logits.clear();
        let start = Instant::now();
        let logits = self.compute(&columns, columns.len()).await?;
        self.appended(pushes, start);
        if let Some(i) = pushes.iter().rposition(|push| push.branch == 0) {
            self.logits.clone_from(&logits[i]);
        }
        Ok(logits)
    }

    /// Appends a token to each of the named branches, all in one step, and chooses the one after each, as [`Sampler::sample`] would
    /// from the logits.
    ///
    /// A GPU chooses, too, and begins with up to `left` tokens more before it is asked for them: calls with an equal sampler and
    /// equal `stops` one after the other, each with the tokens that the last one gave and the draws that follow, wait less. With
    /// any other arguments the steps that were begun are dropped, and the tokens are those of a fresh call. `stops` are tokens
    /// after which none is asked for.
    ///
    /// # Errors
    /// As [`Session::step`] and [`Sampler::sample`]; [`Error::Argument`] unless branches are named in ascending order, each once.
    pub async fn decode(
        &mut self,
        pushes: &[Push<'_>],
        left: usize,
        sampler: &mut Sampler,
        stops: &[u32],
    ) -> Result<Vec<u32>> {
        if pushes.is_empty() || pushes.windows(2).any(|two| two[0].branch >= two[1].branch) {
            return Err(Error::argument("the branches to decode are not named in ascending order, each once"));
        }
        if let Some(told) = sampler.told() {
            let fork = self.open()?;
            let columns = self.columns(fork, pushes)?;
            let left = columns.iter().fold(left, |left, column| left.min(fork.room - column.tail_len as usize));
            let contexts: Vec<_> = pushes.iter().map(|push| push.context).collect();
            let (sampling, banned) = (sampler.sampling(), sampler.banned());
            let choosing = Choosing { sampling, told, banned, contexts: &contexts, stops };
            let ahead = self.backend.is_ahead(&columns, &choosing);
            let start = if ahead { self.decoded } else { None }.unwrap_or_else(Instant::now);
            self.logits.clear();
            let told = match self.backend.next(&columns, left, &choosing).await.transpose() {
                Err(overflow @ Error::KvOverflow { .. }) => {
                    self.widen(overflow).await?;
                    None
                }
                told => told?,
            };
            if let Some(told) = told {
                self.appended(pushes, start);
                self.steps += 1;
                self.decoded = Some(Instant::now());
                let mut ids = Vec::with_capacity(pushes.len());
                for (push, told) in pushes.iter().zip(&told) {
                    ids.extend(sampler.sample_told(&told.candidates, push.context, push.draw)?);
                }
                if ids.len() == pushes.len() {
                    return Ok(ids);
                }
                // Not to be told from the best tokens alone: once more, with all of them.
                pushes.iter().for_each(|push| self.retract(push.branch, 1, &[]));
            }
        }
        let logits = self.forward(pushes).await?;
        let choose = |(push, logits): (&Push<'_>, &Vec<f32>)| {
            sampler.sample(logits, None, push.context.into_iter().flatten().copied(), push.draw)
        };
        pushes.iter().zip(&logits).map(choose).collect()
    }

    /// Whether the GPU has begun with the step that [`Session::decode`] would take with these arguments.
    pub(crate) fn is_ahead(&self, pushes: &[Push<'_>], sampler: &Sampler, stops: &[u32]) -> bool {
        let Some(told) = sampler.told() else { return false };
        let contexts: Vec<_> = pushes.iter().map(|push| push.context).collect();
        let (sampling, banned) = (sampler.sampling(), sampler.banned());
        let choosing = Choosing { sampling, told, banned, contexts: &contexts, stops };
        let columns = self.open().and_then(|fork| self.columns(fork, pushes));
        columns.is_ok_and(|columns| self.backend.is_ahead(&columns, &choosing))
    }

    /// Takes back the last `count` tokens of a branch, drafts that turned out wrong; `logits` are those after the one before.
    pub(crate) fn retract(&mut self, branch: usize, count: usize, logits: &[f32]) {
        let Some(fork) = self.fork.as_mut().filter(|_| count > 0) else { return };
        let left = fork.pushed[branch].len() - count;
        fork.pushed[branch].truncate(left);
        if branch == 0 {
            self.tokens.truncate(fork.shared + left);
            logits.clone_into(&mut self.logits);
        }
    }

    /// Most tokens of one step.
    pub(crate) fn max_step(&self) -> usize {
        self.backend.max_logits()
    }

    /// The GPU's time, kernel by kernel, for one step of `tokens` tokens after the context, with the logits after the last of
    /// them. The context stays as it is.
    ///
    /// # Errors
    /// [`Error::Argument`] without a GPU, on an adapter without timestamp queries, and for 0 tokens or more than one step
    /// takes; [`Error::Context`] when the cache has no room for them; [`Error::DeviceLost`] when the device is lost.
    pub async fn profile(&mut self, tokens: usize) -> Result<Vec<KernelTime>> {
        let most = self.prefill_chunk();
        if tokens == 0 || tokens > most {
            return Err(Error::argument(format!("a step of {tokens} tokens, 1 to {most} are possible")));
        }
        let start = self.tokens.len();
        if start + tokens > self.capacity() {
            return Err(self.too_long(start + tokens, self.capacity()));
        }
        // What it writes lies where branches would go on.
        self.fork = None;
        let columns: Vec<Column> = (start..start + tokens).map(|position| Column::context(0, position)).collect();
        match &mut self.backend {
            Backend::Gpu(plan) => plan.profile(&columns).await,
            Backend::Cpu(_) => Err(Error::argument("only a GPU can be profiled")),
        }
    }

    fn open(&self) -> Result<&Fork> {
        self.fork.as_ref().ok_or_else(|| Error::argument("no branches are open: fork first"))
    }

    fn columns(&self, fork: &Fork, pushes: &[Push<'_>]) -> Result<Vec<Column>> {
        let most = self.max_step();
        if pushes.len() > most {
            return Err(Error::argument(format!("{} tokens in one step, at most {most} are possible", pushes.len())));
        }
        let mut columns = Vec::with_capacity(pushes.len());
        let mut lengths: Vec<usize> = fork.pushed.iter().map(Vec::len).collect();
        for &Push { branch, id, draw, .. } in pushes {
            self.check_id(id)?;
            let Some(length) = lengths.get_mut(branch) else {
                return Err(Error::argument(format!("branch {branch} is not one of the {} open", fork.pushed.len())));
            };
            if *length == fork.room {
                return Err(self.too_long(fork.shared + fork.room + 1, fork.shared + fork.room));
            }
            columns.push(fork.column(branch, *length, id, draw));
            *length += 1;
        }
        Ok(columns)
    }

    /// The step of `pushes`, which began at `start`, is done: before, there is no claim on its rows.
    fn appended(&mut self, pushes: &[Push<'_>], start: Instant) {
        self.experience.costs.add(pushes.len(), start.elapsed().as_secs_f64() * 1e3);
        let Some(fork) = &mut self.fork else { return };
        pushes.iter().for_each(|push| fork.pushed[push.branch].push(push.id));
        // Branch 0 lies where the context goes on.
        self.tokens.extend(pushes.iter().filter(|push| push.branch == 0).map(|push| push.id));
    }

    /// Appends `tokens` to the context; the logits after the last `logits` of them.
    async fn extend(&mut self, tokens: &[u32], logits: usize) -> Result<Vec<Vec<f32>>> {
        let start = self.tokens.len();
        let columns: Vec<Column> = tokens.iter().enumerate().map(|(i, &t)| Column::context(t, start + i)).collect();
        let logits = self.compute(&columns, logits).await?;
        self.tokens.extend_from_slice(tokens);
        Ok(logits)
    }

    /// A step of the backend, once more with a wider cache where the narrow one cannot hold the keys and values.
    async fn compute(&mut self, columns: &[Column], logits: usize) -> Result<Vec<Vec<f32>>> {
        self.steps += 1;
        match self.backend.forward(columns, logits).await {
            Err(overflow @ Error::KvOverflow { .. }) => {
                self.widen(overflow).await?;
                self.backend.forward(columns, logits).await
            }
            computed => computed,
        }
    }

    /// Goes over to an fp32 cache and computes again what it is to hold; `overflow` where that is not wanted.
    async fn widen(&mut self, overflow: Error) -> Result<()> {
        let widened = if self.kv == Kv::Auto { self.refill().await } else { Err(overflow.clone()) };
        match widened {
            Ok(()) => {
                tracing::info!("{overflow}: this is done now");
                self.overflow = Some(overflow);
            }
            // Nothing in the cache is to be relied on.
            Err(_) => {
                self.truncate(0);
            }
        }
        widened
    }

    async fn refill(&mut self) -> Result<()> {
        self.slots.forget();
        self.backend.widen().await?;
        let shared = self.fork.as_ref().map_or(self.tokens.len(), |fork| fork.shared);
        let mut columns: Vec<Column> =
            self.tokens[..shared].iter().enumerate().map(|(i, &token)| Column::context(token, i)).collect();
        if let Some(fork) = &self.fork {
            let branches = fork.pushed.iter().enumerate();
            columns.extend(branches.flat_map(|(branch, ids)| {
                ids.iter().enumerate().map(move |(i, &id)| fork.column(branch, i, id, Draw::default()))
            }));
        }
        for columns in columns.chunks(self.backend.max_columns()) {
            self.backend.forward(columns, 0).await?;
        }
        Ok(())
    }

    fn truncate(&mut self, length: usize) {
        self.fork = None;
        if length < self.tokens.len() {
            self.tokens.truncate(length);
            self.logits.clear();
        }
    }

    fn check(&self, tokens: &[u32]) -> Result<()> {
        if tokens.is_empty() {
            return Err(Error::argument("the prompt is empty: give at least one token"));
        }
        if tokens.len() > self.capacity() {
            return Err(self.too_long(tokens.len(), self.capacity()));
        }
        tokens.iter().try_for_each(|&token| self.check_id(token))
    }

    fn too_long(&self, need: usize, have: usize) -> Error {
        Error::Context { need, have, trained: self.config().max_position_embeddings }
    }

    fn check_id(&self, token: u32) -> Result<()> {
        let vocab = self.config().vocab_size;
        if token as usize >= vocab {
            return Err(Error::argument(format!(
                "token id {token} is out of range: the vocabulary has {vocab} ids, 0 to {}",
                vocab - 1
            )));
        }
        Ok(())
    }
}
